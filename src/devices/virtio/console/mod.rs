//! virtio-console (virtio 1.3 §5.3): hvc0, one port, in place of the serial port.
//!
//! - here: the device, as its driver sees it; output is served by a thread of its own
//! - [`input`]: what is typed, on its way into the guest's buffers
//! - [`window`]: the terminal's size
//!
//! A driver of Linux waits for each piece of output with a spinlock held, so the thread must take
//! it soon: it puts it where another thread writes it out ([`crate::devices::console::Output`]),
//! and drops it where nobody has read anything for a while.

pub mod input;
pub mod window;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::buffers::{Buffers, ChainError};
use super::worker::{RequestHandler, WorkerPool};
use super::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use crate::devices::console::Output;
use crate::metrics::{Counter, Histogram, Samples, Source};

pub use input::HvcInput;
pub use window::Window;

/// The driver may learn the terminal's size (§5.3.3). Further ports (MULTIPORT) aren't offered.
const F_SIZE: u64 = 1 << 0;

/// Queues of the one port (§5.3.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Linux puts a page into each place of the receive queue, and has one piece of output under way.
const QUEUE_SIZE: u16 = 16;

/// The most that one request prints: an upper limit to the time that it takes. Linux sends at most
/// 32 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// A virtio console with one port.
pub struct ConsoleDevice {
    output: Arc<Mutex<Output>>,
    input: Arc<HvcInput>,
    window: Arc<Window>,
    counts: Arc<Counts>,
    printer: Option<WorkerPool<Printer>>,
}

impl ConsoleDevice {
    /// A console whose output goes to `output`, of a terminal of this many columns and rows (0 and
    /// 0 where there is none). No thread is started before the driver is ready.
    ///
    /// # Errors
    ///
    /// No timer file descriptor could be had.
    pub fn new(output: Output, columns: u16, rows: u16) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        Ok(ConsoleDevice {
            output: Arc::new(Mutex::new(output)),
            input: Arc::new(HvcInput::new(counts.clone())?),
            window: Arc::new(Window::new(columns, rows)),
            counts,
            printer: None,
        })
    }

    /// Where input for the guest goes.
    pub fn input(&self) -> Arc<HvcInput> {
        self.input.clone()
    }

    /// The terminal's size, as the guest learns it.
    pub fn window(&self) -> Arc<Window> {
        self.window.clone()
    }
}

impl VirtioDevice for ConsoleDevice {
    fn name(&self) -> &str {
        "console"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        F_SIZE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.window.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            features,
        } = activation;
        for queue in queues {
            match queue.index {
                RECEIVE => self.input.go_live(queue, memory.clone(), interrupt.clone()),
                TRANSMIT => {
                    let printer = Printer {
                        output: self.output.clone(),
                        counts: self.counts.clone(),
                    };
                    let (memory, interrupt) = (memory.clone(), interrupt.clone());
                    self.printer = Some(WorkerPool::start(
                        "mote-hvc", 1, printer, queue, memory, interrupt,
                    )?);
                }
                _ => {}
            }
        }
        if features & F_SIZE != 0 {
            self.window.go_live(interrupt);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.window.reset();
        self.input.reset();
        self.printer = None;
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.counts.clone())
    }
}

/// Output: a request's bytes go to the host's end of the console.
struct Printer {
    output: Arc<Mutex<Output>>,
    counts: Arc<Counts>,
}

impl RequestHandler for Printer {
    type Scratch = ();

    fn handle(&self, buffers: &mut Buffers, (): &mut ()) -> Result<u32, ChainError> {
        let start = Instant::now();
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let mut part = [0; 4096];
        let mut done = 0;
        while done < MAX_BYTES {
            let count = buffers.readable.read(&mut part);
            if count == 0 {
                break;
            }
            // It waits a little for room, and else drops and counts what it can't keep. The only
            // error is a thread that the host refused.
            if let Err(error) = output.write_all(&part[..count]) {
                log::debug!("console: starting the thread for its output: {error}");
            }
            done += count;
        }
        self.counts.writes.inc();
        self.counts.written.add(done as u64);
        self.counts.times.record(start.elapsed());
        Ok(0)
    }
}

/// What has gone through the console.
#[derive(Default)]
struct Counts {
    writes: Counter,
    written: Counter,
    reads: Counter,
    read: Counter,
    times: Histogram,
}

impl Source for Counts {
    fn collect(&self, samples: &mut Samples) {
        for (op, requests, bytes) in [
            ("write", &self.writes, &self.written),
            ("read", &self.reads, &self.read),
        ] {
            samples.counter(
                "mote_console_requests_total",
                "Buffers of the guest's console driver: output (write), input (read).",
                &[("op", op)],
                requests.get(),
            );
            samples.counter(
                "mote_console_bytes_total",
                "Bytes in them.",
                &[("op", op)],
                bytes.get(),
            );
        }
        samples.histogram(
            "mote_console_request_seconds",
            "How long the guest waited for its output to be taken.",
            &[],
            &self.times,
        );
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
