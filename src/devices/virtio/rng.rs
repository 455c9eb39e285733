//! virtio-rng (virtio 1.3 §5.4): the host's random numbers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::buffers::{Buffers, ChainError};
use super::worker::{RequestHandler, WorkerPool};
use super::{ActivateError, Activation, VirtioDevice};
use crate::metrics::{Counter, Histogram, Samples, Source};

/// The most that one request gets, whatever its size: an upper limit to the time that it takes.
const MAX_BYTES: usize = 64 * 1024;

/// A virtio entropy device.
#[derive(Default)]
pub struct RngDevice {
    workers: Vec<WorkerPool<Entropy>>,
    counts: Arc<Counts>,
}

impl RngDevice {
    /// A new device. No thread is started before the driver is ready.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for RngDevice {
    fn name(&self) -> &str {
        "rng"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let handler = Entropy(self.counts.clone());
        self.workers = WorkerPool::for_each_queue("mote-rng", 1, &handler, activation)?;
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.counts.clone())
    }
}

#[derive(Clone)]
struct Entropy(Arc<Counts>);

#[derive(Default)]
struct Counts {
    bytes: Counter,
    errors: Counter,
    times: Histogram,
}

impl Source for Counts {
    fn collect(&self, samples: &mut Samples) {
        let help = "Random bytes given to the guest.";
        samples.counter("mote_rng_bytes_total", help, &[], self.bytes.get());
        let help = "Requests that the host had no random bytes for.";
        samples.counter("mote_rng_errors_total", help, &[], self.errors.get());
        let help = "How long requests for random bytes took.";
        samples.histogram("mote_rng_request_seconds", help, &[], &self.times);
    }
}

impl RequestHandler for Entropy {
    type Scratch = ();

    fn handle(&self, buffers: &mut Buffers, (): &mut ()) -> Result<u32, ChainError> {
        let start = Instant::now();
        let bytes = &mut buffers.writable;
        let mut done = 0;
        while done < MAX_BYTES
            && let Some(piece) = bytes.iovecs().first()
        {
            let count = piece.iov_len.min(MAX_BYTES - done);
            // SAFETY: the kernel writes at most `count` bytes, to a piece of guest memory that
            // has as many and that `bytes` keeps mapped.
            let result = unsafe { libc::getrandom(piece.iov_base, count, 0) };
            match usize::try_from(result) {
                Ok(count) => {
                    bytes.advance(count);
                    done += count;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        log::debug!("rng: getrandom: {error}");
                        self.0.errors.inc();
                        break;
                    }
                }
            }
        }
        self.0.bytes.add(done as u64);
        self.0.times.record(start.elapsed());
        Ok(done as u32)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
