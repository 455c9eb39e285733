//! virtio-pmem (virtio 1.3 §5.19): a file of the host's that the guest maps. Its pages are the
//! host's page cache, so that a guest that mounts it with `-o dax` keeps no copy of its own.
//!
//! - [`open`]: from a path to a file, or a message that says what's wrong
//! - [`mod@file`]: flushes, and writes that nothing takes
//! - [`rootflags`]: whether a file system in it can be mounted with `-o dax`
//!
//! The mapping itself is [`crate::memory::dax`], and its place in the guest the builder's concern.
//!
//! # What is promised
//!
//! What the guest writes to a mapping that is shared is in the file, for whoever else reads it, at
//! once, and durable after its next flush, which is an fdatasync; the guest hears of its failure. A
//! read-only mapping can't be written by the guest: see [`file::Beyond`].

pub mod file;
pub mod open;
pub mod rootflags;

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;

use super::buffers::{Buffers, ChainError};
use super::worker::{RequestHandler, WorkerPool};
use super::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use crate::metrics::Source;
use crate::sandbox::ThreadKind;
pub use file::{Beyond, DaxFile};
pub use open::{PmemConfig, PmemError};

const QUEUE_SIZES: [u16; 1] = [64];
/// Flushes that wait for the host at the same time.
const MAX_THREADS: usize = 4;

/// VIRTIO_PMEM_REQ_TYPE_FLUSH (§5.19.6).
const FLUSH: u32 = 0;
/// The answers to it: done, or an I/O error.
const DONE: u32 = 0;
const FAILED: u32 = 1;

/// A virtio persistent memory device.
pub struct PmemDevice {
    file: Arc<DaxFile>,
    config: [u8; 16],
    workers: Vec<WorkerPool<Flushes>>,
}

impl PmemDevice {
    /// Opens the image and takes its lock. No thread is started before the driver is ready.
    ///
    /// # Errors
    ///
    /// See [`PmemError`].
    pub fn open(config: &PmemConfig) -> Result<Arc<DaxFile>, PmemError> {
        open::open(config).map(Arc::new)
    }

    /// The device for a file that the guest sees in the `len` bytes from `start`.
    pub fn new(file: Arc<DaxFile>, start: u64, len: u64) -> Self {
        let mut config = [0; 16];
        // struct virtio_pmem_config (§5.19.4).
        config[..8].copy_from_slice(&start.to_le_bytes());
        config[8..].copy_from_slice(&len.to_le_bytes());
        Self {
            file,
            config,
            workers: Vec::new(),
        }
    }
}

impl VirtioDevice for PmemDevice {
    fn name(&self) -> &str {
        &self.file.config().name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_PMEM
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let name = format!("mote-{}", self.name());
        let handler = Flushes(self.file.clone());
        self.workers = WorkerPool::for_each_queue(&name, MAX_THREADS, &handler, activation)?;
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.file.clone())
    }
}

/// Serves the one kind of request: 4 bytes that say "flush", answered by 4 bytes.
#[derive(Clone)]
struct Flushes(Arc<DaxFile>);

impl RequestHandler for Flushes {
    const KIND: ThreadKind = ThreadKind::Drive;

    type Scratch = ();

    fn handle(&self, buffers: &mut Buffers, (): &mut ()) -> Result<u32, ChainError> {
        let (mut kind, answer) = ([0; 4], size_of::<u32>());
        if buffers.writable.len() < answer {
            return Err(ChainError::NoStatus);
        }
        let whole = buffers.readable.read(&mut kind) == kind.len();
        let known = whole && u32::from_le_bytes(kind) == FLUSH;
        let result = match known && self.0.flush().is_ok() {
            true => DONE,
            false => FAILED,
        };
        buffers.writable.write(&result.to_le_bytes());
        Ok(answer as u32)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
