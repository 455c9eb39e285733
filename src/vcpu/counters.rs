//! How often a vCPU left the guest for the monitor, by reason.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counters of one vCPU: written by its thread only, read by anyone.
#[derive(Debug, Default)]
pub struct ExitCounters {
    mmio_read: AtomicU64,
    mmio_write: AtomicU64,
    pio_in: AtomicU64,
    pio_out: AtomicU64,
    interrupted: AtomicU64,
    other: AtomicU64,
}

/// A snapshot of [`ExitCounters`], or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExitCounts {
    /// Reads of a device's memory.
    pub mmio_read: u64,
    /// Writes to a device's memory that no ioeventfd took.
    pub mmio_write: u64,
    /// Reads of ports.
    pub pio_in: u64,
    /// Writes to ports.
    pub pio_out: u64,
    /// Signals.
    pub interrupted: u64,
    /// Everything else.
    pub other: u64,
}

/// One more. There is one writer, so a plain load and store will do (no locked instruction).
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl ExitCounters {
    pub(super) fn mmio_read(&self) {
        bump(&self.mmio_read);
    }

    pub(super) fn mmio_write(&self) {
        bump(&self.mmio_write);
    }

    pub(super) fn pio_in(&self) {
        bump(&self.pio_in);
    }

    pub(super) fn pio_out(&self) {
        bump(&self.pio_out);
    }

    pub(super) fn interrupted(&self) {
        bump(&self.interrupted);
    }

    pub(super) fn other(&self) {
        bump(&self.other);
    }

    /// The counts now.
    pub fn snapshot(&self) -> ExitCounts {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExitCounts {
            mmio_read: value(&self.mmio_read),
            mmio_write: value(&self.mmio_write),
            pio_in: value(&self.pio_in),
            pio_out: value(&self.pio_out),
            interrupted: value(&self.interrupted),
            other: value(&self.other),
        }
    }
}

impl ExitCounts {
    /// All exits.
    pub fn total(&self) -> u64 {
        let ExitCounts {
            mmio_read,
            mmio_write,
            pio_in,
            pio_out,
            interrupted,
            other,
        } = *self;
        mmio_read + mmio_write + pio_in + pio_out + interrupted + other
    }
}

impl AddAssign for ExitCounts {
    fn add_assign(&mut self, more: Self) {
        self.mmio_read += more.mmio_read;
        self.mmio_write += more.mmio_write;
        self.pio_in += more.pio_in;
        self.pio_out += more.pio_out;
        self.interrupted += more.interrupted;
        self.other += more.other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_add_up() {
        let counters = ExitCounters::default();
        counters.mmio_read();
        counters.pio_out();
        counters.pio_out();
        let mut sum = counters.snapshot();
        sum += counters.snapshot();
        assert_eq!((sum.mmio_read, sum.pio_out, sum.total()), (2, 4, 6));
    }
}
