//! virtio-blk (virtio 1.3 §5.2): a raw image or a block device of the host.
//!
//! - `medium`: what is in the drive, exchanged while it runs
//! - [`open`]: from a path to a [`Disk`], or a message that says what's wrong
//! - [`disk`]: reads, writes and the rest, between the file and guest memory
//! - `request`: what the driver asks for
//! - `ring`: `engine=io_uring`; `engine=threads` is [`super::worker`]
//!
//! - [`metrics`]: what a drive counts
//!
//! # What is promised
//!
//! A write is in the host's page cache (`cache=writeback`) or at the disk (`cache=none`) when
//! the guest hears of it, and durable after the guest's next flush, which is an fdatasync. A
//! driver that does without flushes (§5.2.5.2), or switches the write cache off, gets every write
//! durable. With `cache=unsafe` nothing is: flushes do nothing. Reads beyond the end of an image
//! that has shrunk, and writes to a full host disk, are I/O errors for the guest.
//!
//! # What it costs
//!
//! One request at a time: a read of the queue's eventfd, a preadv or pwritev of the data in
//! guest memory, and a write of the irqfd; one thread for each queue. More at once: see
//! [`super::worker`].

pub mod disk;
mod medium;
pub mod metrics;
pub mod open;
mod request;
mod ring;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::worker::WorkerPool;
use super::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use crate::config::Engine;
use crate::devices::rate_limit::RateLimiter;
use crate::metrics::Source;
use disk::{Disk, SECTOR};
pub use medium::Drive;
use medium::Space;
use metrics::BlkMetrics;
pub use open::{BlkConfig, BlkError};
use request::{Requests, Shared};
use ring::RingThread;

const QUEUE_SIZE: u16 = 256;
/// Data buffers in a request: what the queue holds, less the header and the status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Threads of all queues together, if none has less than `MIN_THREADS` or more than
/// `MAX_THREADS`: so many requests wait for the host at the same time.
const ALL_THREADS: usize = 16;
const MAX_THREADS: usize = 8;
const MIN_THREADS: usize = 2;
/// The largest discard or write of zeros; of the latter, as the host may have to write them.
const MAX_DISCARD_SECTORS: u32 = 1 << 22;
const MAX_ZEROES_SECTORS: u32 = 1 << 17;
/// Ranges in one discard or write of zeros.
const MAX_RANGES: u32 = 16;
/// Discards in pieces of a page free something in any file system.
const DISCARD_ALIGN: u32 = 4096 / SECTOR as u32;

/// What serves a queue.
enum Worker {
    Threads(WorkerPool<Requests>),
    Ring(RingThread),
}

impl Worker {
    fn threads(&self) -> usize {
        match self {
            Worker::Threads(pool) => pool.threads(),
            Worker::Ring(thread) => thread.threads(),
        }
    }

    fn begin_stop(&self) {
        match self {
            Worker::Threads(pool) => pool.begin_stop(),
            Worker::Ring(thread) => thread.begin_stop(),
        }
    }
}

/// Where `writeback` is in the configuration space (§5.2.4).
const WRITEBACK: usize = 32;

/// A virtio block device.
pub struct BlkDevice {
    given: BlkConfig,
    shared: Arc<Shared>,
    queue_sizes: Vec<u16>,
    engine: Engine,
    workers: Vec<Worker>,
}

impl BlkDevice {
    /// Opens the image and takes its lock. No thread is started before the driver is ready.
    ///
    /// # Errors
    ///
    /// See [`BlkError`].
    pub fn open(config: &BlkConfig) -> Result<Self, BlkError> {
        let disk = open::open(config)?;
        let queues = config.queues.0.max(1);
        let mut id = [0; 20];
        for (to, from) in id
            .iter_mut()
            .zip(config.id.iter().flat_map(|id| id.bytes()))
        {
            *to = from;
        }
        Ok(Self {
            given: config.clone(),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            shared: Arc::new(Shared {
                space: Mutex::new(Space {
                    bytes: config_space(&disk, queues),
                    interrupt: None,
                }),
                disk: RwLock::new(Arc::new(disk)),
                read_only: config.read_only,
                id,
                write_through: AtomicBool::new(false),
                limiter: RateLimiter::new(&config.limit),
                metrics: Arc::new(BlkMetrics::new(&config.name)),
            }),
            engine: config.engine,
            workers: Vec::new(),
        })
    }

    /// The size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.shared.disk().size()
    }

    /// The host's end of it, for any thread.
    pub fn drive(&self) -> Drive {
        Drive::new(&self.given, &self.shared)
    }

    /// How many threads serve it at the moment.
    pub fn threads(&self) -> usize {
        self.workers.iter().map(Worker::threads).sum()
    }
}

impl VirtioDevice for BlkDevice {
    fn name(&self) -> &str {
        &self.given.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = [
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_FLUSH,
        ];
        let rest: &[u32] = match self.shared.read_only {
            true => &[VIRTIO_BLK_F_RO],
            false => &[
                VIRTIO_BLK_F_CONFIG_WCE,
                VIRTIO_BLK_F_DISCARD,
                VIRTIO_BLK_F_WRITE_ZEROES,
            ],
        };
        let several: &[u32] = match self.queue_sizes.len() {
            1 => &[],
            _ => &[VIRTIO_BLK_F_MQ],
        };
        always
            .iter()
            .chain(rest)
            .chain(several)
            .fold(0, |bits, bit| bits | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.shared.space().bytes, offset, data);
    }

    /// The driver may write `writeback` alone (§5.2.5): whether there is a write cache, so that
    /// writes are durable after a flush only.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (WRITEBACK, &[value @ (0 | 1)]) = (offset as usize, data)
            && !self.shared.read_only
        {
            self.set_writeback(value == 1);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        // §5.2.5.2: a driver that can't flush has no write cache.
        if activation.features & (1 << VIRTIO_BLK_F_FLUSH) == 0 {
            self.set_writeback(false);
        }
        self.shared.go_live(&activation.interrupt);
        let threads = ALL_THREADS / activation.queues.len().max(1);
        let threads = threads.clamp(MIN_THREADS, MAX_THREADS);
        let name = format!("mote-{}", self.given.name);
        for queue in activation.queues {
            let (memory, interrupt) = (activation.memory.clone(), activation.interrupt.clone());
            let requests = Requests::new(self.shared.clone(), interrupt.clone());
            self.workers.push(match self.engine {
                Engine::Threads => {
                    WorkerPool::start(&name, threads, requests, queue, memory, interrupt)
                        .map(Worker::Threads)?
                }
                Engine::IoUring => {
                    RingThread::start(&name, threads, requests, queue, memory, interrupt)
                        .map(Worker::Ring)?
                }
            });
        }
        Ok(())
    }

    fn reset(&mut self) {
        // All at the same time, and then one after the other.
        self.workers.iter().for_each(Worker::begin_stop);
        self.workers.clear();
        self.shared.space().interrupt = None;
        self.set_writeback(true);
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.shared.metrics.clone())
    }
}

impl BlkDevice {
    fn set_writeback(&mut self, on: bool) {
        self.shared.space().bytes[WRITEBACK] = on.into();
        self.shared.write_through.store(!on, Ordering::Relaxed);
    }
}

/// `struct virtio_blk_config` (§5.2.4), as far as the features offered need it.
fn config_space(disk: &Disk, queues: u16) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &(disk.size() / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &disk.block_size().to_le_bytes());
    // physical_block_exp; the rest of the topology has nothing to say.
    let blocks = disk.physical_block_size() / disk.block_size().max(1);
    put(24, &[blocks.checked_ilog2().unwrap_or(0) as u8]);
    put(WRITEBACK, &[1]);
    put(34, &queues.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &DISCARD_ALIGN.to_le_bytes());
    put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]); // write_zeroes_may_unmap
    config
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
