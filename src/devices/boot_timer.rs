//! The boot timer: the guest's init writes 123 to it, and the boot is over. The address and the
//! value are those of images made for other monitors.

use std::time::Instant;

use crate::bus::BusDevice;

const INIT_REACHED: u8 = 123;

/// Calls a function at the guest's first signal.
pub struct BootTimer<F> {
    on_signal: Option<F>,
}

impl<F: FnOnce(Instant) + Send> BootTimer<F> {
    /// `on_signal` gets the time of the write; it runs on the vCPU's thread.
    pub fn new(on_signal: F) -> Self {
        BootTimer {
            on_signal: Some(on_signal),
        }
    }
}

impl<F: FnOnce(Instant) + Send> BusDevice for BootTimer<F> {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0
            && data == [INIT_REACHED]
            && let Some(on_signal) = self.on_signal.take()
        {
            on_signal(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_right_write_counts() {
        let count = std::sync::atomic::AtomicU32::new(0);
        let mut timer = BootTimer::new(|_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        timer.write(0, &[122]);
        timer.write(1, &[123]);
        timer.write(0, &[123, 0]);
        timer.write(0, &[123]);
        timer.write(0, &[123]);
        assert_eq!(count.into_inner(), 1);
    }
}
