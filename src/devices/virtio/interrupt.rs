//! From a device to its driver: used buffers, a changed configuration, a failure.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// A device's interrupt, with the registers that a device's threads and the transport share:
/// InterruptStatus, ConfigGeneration and the DEVICE_NEEDS_RESET bit of Status (virtio 1.3
/// §4.2.2, §2.1).
///
/// The eventfd is meant to be an irqfd, so that an interrupt is one system call.
pub struct Interrupt {
    name: String,
    irq: EventFd,
    status: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    /// Between DRIVER_OK and reset: a device must not interrupt outside of it (§3.1.1).
    live: AtomicBool,
    failed_before: AtomicBool,
}

impl Interrupt {
    /// The interrupt of the device `name`, raised by writing to `irq`.
    pub fn new(name: &str, irq: EventFd) -> Self {
        Self {
            name: name.to_owned(),
            irq,
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            live: AtomicBool::new(false),
            failed_before: AtomicBool::new(false),
        }
    }

    /// Buffers have been used. Whether the driver wants to know is for
    /// [`virtio_queue::QueueT::needs_notification`] to say.
    pub fn used_buffers(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The configuration space has changed. See [`super::VirtioDevice::read_config`] for the
    /// lock to hold.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// The device can't go on until the driver resets it. Said once at `warn`; a guest that
    /// does it again and again must not fill the host's log.
    pub fn fail(&self, reason: &dyn Display) {
        let level = match self.failed_before.swap(true, Ordering::Relaxed) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        };
        log::log!(level, "{}: needs a reset by the guest: {reason}", self.name);
        self.needs_reset.store(true, Ordering::Release);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Whether [`fail`](Self::fail) was called since the last reset.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn set_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    pub(super) fn reset(&self) {
        self.live.store(false, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
        self.status.store(0, Ordering::Release);
    }

    fn raise(&self, bit: u32) {
        if !self.live.load(Ordering::Acquire) {
            return;
        }
        self.status.fetch_or(bit, Ordering::AcqRel);
        if let Err(error) = self.irq.write(1) {
            log::debug!("{}: raising the interrupt: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn is_silent_outside_of_driver_ok() {
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new("x", irq.try_clone().unwrap());
        interrupt.used_buffers();
        interrupt.fail(&"test");
        assert!(irq.read().is_err() && interrupt.status() == 0 && interrupt.needs_reset());
        interrupt.reset();
        assert!(!interrupt.needs_reset());
        interrupt.set_live();
        interrupt.used_buffers();
        interrupt.config_changed();
        assert_eq!((irq.read().unwrap(), interrupt.status()), (2, 3));
        interrupt.acknowledge(1);
        assert_eq!((interrupt.status(), interrupt.generation()), (2, 1));
    }
}
