//! virtio-blk (virtio 1.3 §5.2): a raw image or a block device of the host.
//!
//! - [`open`]: from a path to a [`Disk`], or a message that says what's wrong
//! - [`disk`]: reads, writes and the rest, between the file and guest memory
//! - [`request`]: what the driver asks for
//!
//! # What is promised
//!
//! A write is in the host's page cache (`cache=writeback`) or at the disk (`cache=none`) when
//! the guest hears of it, and durable after the guest's next flush, which is an fdatasync. A
//! driver that does without flushes (§5.2.5.2) gets every write durable. Reads beyond the end
//! of an image that has shrunk, and writes to a full host disk, are I/O errors for the guest.
//!
//! # What it costs
//!
//! One request at a time: a read of the queue's eventfd, a preadv or pwritev of the data in
//! guest memory, and a write of the irqfd; one thread. More at once: see [`super::worker`].

pub mod disk;
pub mod open;
pub mod request;

use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::worker::WorkerPool;
use super::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use disk::{Disk, SECTOR};
pub use open::{BlkConfig, BlkError};
use request::Requests;

const QUEUE_SIZES: [u16; 1] = [256];
/// Data buffers in a request: what the queue holds, less the header and the status.
const SEG_MAX: u32 = QUEUE_SIZES[0] as u32 - 2;
/// Requests that wait for the host at the same time.
const MAX_THREADS: usize = 8;
/// The largest discard or write of zeros; of the latter, as the host may have to write them.
const MAX_DISCARD_SECTORS: u32 = 1 << 22;
const MAX_ZEROES_SECTORS: u32 = 1 << 17;
/// Ranges in one discard or write of zeros.
const MAX_RANGES: u32 = 16;
/// Discards in pieces of a page free something in any file system.
const DISCARD_ALIGN: u32 = 4096 / SECTOR as u32;

/// A virtio block device.
pub struct BlkDevice {
    name: String,
    disk: Arc<Disk>,
    id: String,
    config: [u8; 60],
    workers: Vec<WorkerPool<Requests>>,
}

impl BlkDevice {
    /// Opens the image and takes its lock. No thread is started before the driver is ready.
    ///
    /// # Errors
    ///
    /// See [`BlkError`].
    pub fn open(config: &BlkConfig) -> Result<Self, BlkError> {
        let disk = open::open(config)?;
        Ok(Self {
            name: config.name.clone(),
            config: config_space(&disk),
            disk: Arc::new(disk),
            id: config.id.clone().unwrap_or_default(),
            workers: Vec::new(),
        })
    }

    /// The size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// How many threads serve it at the moment.
    pub fn threads(&self) -> usize {
        self.workers.iter().map(WorkerPool::threads).sum()
    }
}

impl VirtioDevice for BlkDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = [
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
        ];
        let rest: &[u32] = match self.disk.read_only() {
            true => &[VIRTIO_BLK_F_RO],
            false => &[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES],
        };
        always
            .iter()
            .chain(rest)
            .fold(0, |bits, bit| bits | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let write_through = activation.features & (1 << VIRTIO_BLK_F_FLUSH) == 0;
        for queue in activation.queues {
            self.workers.push(WorkerPool::start(
                &format!("mote-{}", self.name),
                MAX_THREADS,
                Requests::new(self.disk.clone(), &self.id, write_through),
                queue,
                activation.memory.clone(),
                activation.interrupt.clone(),
            )?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
    }
}

/// `struct virtio_blk_config` (§5.2.4), as far as the features offered need it.
fn config_space(disk: &Disk) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &(disk.size() / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &disk.block_size().to_le_bytes());
    put(34, &(QUEUE_SIZES.len() as u16).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &DISCARD_ALIGN.to_le_bytes());
    put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]); // write_zeroes_may_unmap
    config
}

#[cfg(test)]
mod tests;
