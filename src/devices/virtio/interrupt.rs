//! From a device to its driver: used buffers, a changed configuration, a failure.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::*;
use vmm_sys_util::eventfd::EventFd;

use super::gate::Gate;
use super::registers::RegisterPage;

/// A device's interrupt, with the registers that a device's threads and the transport share:
/// InterruptStatus, ConfigGeneration and the DEVICE_NEEDS_RESET bit of Status (virtio 1.3
/// §4.2.2, §2.1).
///
/// The eventfd is meant to be an irqfd, so that an interrupt is one system call. While the device
/// is live, InterruptStatus always has the bit for used buffers: a driver that looks at its rings
/// for nothing loses nanoseconds, while keeping the bit exact would cost an exit for each
/// interrupt, and could not be done for queues that someone else serves (vhost, vhost-user).
pub struct Interrupt {
    name: String,
    irq: EventFd,
    page: RegisterPage,
    /// Held while the configuration space changes.
    changing: Mutex<()>,
    needs_reset: AtomicBool,
    /// Between DRIVER_OK and reset: a device must not interrupt outside of it (§3.1.1).
    live: AtomicBool,
    failed_before: AtomicBool,
    gate: Gate,
}

impl Interrupt {
    /// The interrupt of the device `name` with these registers, raised by writing to `irq`.
    pub fn new(name: &str, irq: EventFd, page: RegisterPage) -> Self {
        Self {
            name: name.to_owned(),
            irq,
            page,
            changing: Mutex::new(()),
            needs_reset: AtomicBool::new(false),
            live: AtomicBool::new(false),
            failed_before: AtomicBool::new(false),
            gate: Gate::default(),
        }
    }

    /// Buffers have been used. Whether the driver wants to know is for
    /// [`virtio_queue::QueueT::needs_notification`] to say.
    pub fn used_buffers(&self) {
        self.raise();
    }

    /// The eventfd itself, for someone else who serves the queues: each write of 1 interrupts the
    /// guest as [`used_buffers`](Self::used_buffers) does.
    pub fn irqfd(&self) -> &EventFd {
        &self.irq
    }

    /// The configuration space has changed: `data` is what it has at `offset` now. A device sees
    /// to it first that [`super::VirtioDevice::read_config`] says the same.
    pub fn set_config(&self, offset: usize, data: &[u8]) {
        {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            // Before and after (§2.5.1): a driver that reads in between sees that it must again.
            self.next_generation();
            self.page.set_config(offset, data);
            self.next_generation();
        }
        self.raise_config();
    }

    /// The configuration space may have changed while the device wasn't live: if so, the driver is told now.
    pub fn changed_before(&self, offset: usize, data: &[u8]) {
        let mut known = vec![0; data.len()];
        let start = u64::from(VIRTIO_MMIO_CONFIG) + offset as u64;
        self.page.read(start, &mut known);
        if known != data {
            self.set_config(offset, data);
        }
    }

    /// The device can't go on until the driver resets it. Said once at `warn`; a guest that
    /// does it again and again must not fill the host's log.
    pub fn fail(&self, reason: &dyn Display) {
        let level = match self.failed_before.swap(true, Ordering::Relaxed) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        };
        log::log!(level, "{}: needs a reset by the guest: {reason}", self.name);
        self.needs_reset.store(true, Ordering::SeqCst);
        self.page
            .or(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.raise_config();
    }

    /// Whether [`fail`](Self::fail) was called since the last reset.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Where whoever serves the device's queues stops while the VM is paused.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn page(&self) -> &RegisterPage {
        &self.page
    }

    /// What the driver itself has written, or a device before it was live: no news to anyone.
    pub(super) fn publish_config(&self, offset: usize, data: &[u8]) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.page.set_config(offset, data);
    }

    /// The driver's part of Status.
    pub(super) fn publish_status(&self, status: u32) {
        self.page.set(VIRTIO_MMIO_STATUS, status);
        // After the store: `fail` may have set its bit in between, and it must not be lost.
        if self.needs_reset() {
            self.page
                .or(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        }
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.page.and(
            VIRTIO_MMIO_INTERRUPT_STATUS,
            !(bits & VIRTIO_MMIO_INT_CONFIG),
        );
    }

    pub(super) fn set_live(&self) {
        self.page
            .or(VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_VRING);
        self.live.store(true, Ordering::SeqCst);
    }

    pub(super) fn reset(&self) {
        self.live.store(false, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
        self.page.set(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
    }

    fn next_generation(&self) {
        let generation = self.page.get(VIRTIO_MMIO_CONFIG_GENERATION);
        self.page
            .set(VIRTIO_MMIO_CONFIG_GENERATION, generation.wrapping_add(1));
    }

    fn raise_config(&self) {
        if self.live.load(Ordering::SeqCst) {
            self.page
                .or(VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_CONFIG);
            self.raise();
        }
    }

    fn raise(&self) {
        if !self.live.load(Ordering::Acquire) {
            return;
        }
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
        let page = RegisterPage::alone().unwrap();
        let interrupt = Interrupt::new("x", irq.try_clone().unwrap(), page.clone());
        let status = || page.get(VIRTIO_MMIO_INTERRUPT_STATUS);
        interrupt.used_buffers();
        interrupt.fail(&"test");
        assert!(irq.read().is_err() && status() == 0 && interrupt.needs_reset());
        interrupt.publish_status(3);
        assert_eq!(page.get(VIRTIO_MMIO_STATUS), 3 | 64);
        interrupt.reset();
        assert!(!interrupt.needs_reset());
        interrupt.set_live();
        interrupt.used_buffers();
        interrupt.set_config(4, &[9]);
        assert_eq!((irq.read().unwrap(), status()), (2, 3));
        interrupt.acknowledge(3);
        assert_eq!(status(), 1);
        assert_eq!(page.get(VIRTIO_MMIO_CONFIG + 4), 9);
        assert_ne!(page.get(VIRTIO_MMIO_CONFIG_GENERATION), 0);
    }
}
