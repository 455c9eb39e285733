//! The registers of a virtio device over MMIO, version 2 (virtio 1.3 §4.2.2).
//!
//! Writes to registers are 32 bits wide and nothing else reaches them; the configuration space
//! takes any width. What a driver does out of order (§3.1.1) has no effect and is logged; set-up
//! that can't work, such as a ring outside of guest memory, fails the device. What it reads is in
//! a [`RegisterPage`], brought up to date after each write.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::queue::QueueRegisters;
use super::registers::{CONFIG_SIZE, RegisterPage};
use super::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::bus::BusDevice;
use crate::threads;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The only version that isn't legacy.
const VERSION: u32 = 2;
/// "mote", little-endian.
const VENDOR: u32 = 0x6574_6f6d;
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;

/// What [`super::queue`] and [`super::buffers`] can do.
pub(super) const RING_FEATURES: u64 =
    (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_INDIRECT_DESC) | (1 << VIRTIO_RING_F_EVENT_IDX);

/// The Status bits that are the driver's to set (§2.1).
const DRIVER_STATUS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// A virtio device on the MMIO bus.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    notifiers: Vec<Arc<EventFd>>,
    queues: Vec<QueueRegisters>,
    /// Without DEVICE_NEEDS_RESET, which the interrupt has.
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    /// The driver has accepted features past the 64 that there are.
    foreign_features: bool,
    queue_sel: u32,
    /// `activate` has been called since the last reset.
    activated: bool,
    driver_ok: bool,
    erred: bool,
}

impl MmioTransport {
    /// Puts `device` behind the registers of `page`; `irq` raises its interrupt.
    ///
    /// # Errors
    ///
    /// No event file descriptor could be had for a queue.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap<()>,
        irq: EventFd,
        page: RegisterPage,
    ) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        let queues: Vec<_> = sizes.iter().copied().map(QueueRegisters::new).collect();
        let notifiers = queues
            .iter()
            .map(|_| EventFd::new(EFD_CLOEXEC).map(Arc::new))
            .collect::<io::Result<_>>()?;
        let interrupt = Arc::new(Interrupt::new(device.name(), irq, page));
        let page = interrupt.page();
        page.set(VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
        page.set(VIRTIO_MMIO_VERSION, VERSION);
        page.set(VIRTIO_MMIO_DEVICE_ID, device.device_type());
        page.set(VIRTIO_MMIO_VENDOR_ID, VENDOR);
        // No shared memory regions: all of length and base are ones.
        for register in [
            VIRTIO_MMIO_SHM_LEN_LOW,
            VIRTIO_MMIO_SHM_LEN_HIGH,
            VIRTIO_MMIO_SHM_BASE_LOW,
            VIRTIO_MMIO_SHM_BASE_HIGH,
        ] {
            page.set(register, !0);
        }
        let transport = Self {
            interrupt,
            device,
            memory,
            notifiers,
            queues,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            foreign_features: false,
            queue_sel: 0,
            activated: false,
            driver_ok: false,
            erred: false,
        };
        transport.publish();
        transport.publish_config(0, CONFIG_SIZE);
        Ok(transport)
    }

    /// One eventfd per queue, to be registered as ioeventfds for 32-bit writes of the queue's
    /// index to QueueNotify (offset 0x50). A write that comes here instead has the same effect.
    pub fn notifiers(&self) -> &[Arc<EventFd>] {
        &self.notifiers
    }

    /// Whether the guest's driver has ever finished set-up: if not, the guest has no driver for
    /// the device, or didn't find it.
    pub fn driver_ok(&self) -> bool {
        self.driver_ok
    }

    /// Where whoever serves the queues stops.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Has the host's kernel leave the queues alone that it serves, or go on.
    ///
    /// # Errors
    ///
    /// The host refused.
    pub fn serve_elsewhere(&mut self, on: bool) -> Result<(), ActivateError> {
        if !self.activated || !self.device.is_served_elsewhere() {
            return Ok(());
        }
        self.apart(move |device| device.serve_elsewhere(on))??;
        if on {
            // What the driver has said while nobody listened.
            for notifier in &self.notifiers {
                let _ = notifier.write(1); // a full counter kicks just as well
            }
        }
        Ok(())
    }

    fn features(&self) -> u64 {
        self.device.features() | self.device.ring_features()
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_sel as usize)
    }

    /// Brings the registers up to date that a driver's write can have changed.
    fn publish(&self) {
        let page = self.interrupt.page();
        let features = match self.device_features_sel {
            0 => self.features() as u32,
            1 => (self.features() >> 32) as u32,
            _ => 0,
        };
        page.set(VIRTIO_MMIO_DEVICE_FEATURES, features);
        let (max, ready) = self.queue().map_or((0, false), |q| (q.max_size, q.ready));
        page.set(VIRTIO_MMIO_QUEUE_NUM_MAX, max.into());
        page.set(VIRTIO_MMIO_QUEUE_READY, ready.into());
        self.interrupt.publish_status(self.status);
    }

    /// Brings a part of the configuration space up to date.
    fn publish_config(&self, offset: usize, len: usize) {
        let mut config = [0; CONFIG_SIZE];
        let Some(part) = config.get_mut(offset..(offset + len).min(CONFIG_SIZE)) else {
            return;
        };
        self.device.read_config(offset as u64, part);
        // The host may change it at any time, after this read and before the page is written: then
        // it has to be read again (but not for ever, as a driver may have it changed again and
        // again). A device's own change comes before its `set_config`.
        for _ in 0..8 {
            self.interrupt.publish_config(offset, part);
            let mut now = [0; CONFIG_SIZE];
            let now = &mut now[..part.len()];
            self.device.read_config(offset as u64, now);
            if now == part {
                return;
            }
            part.copy_from_slice(now);
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NUM
            | VIRTIO_MMIO_QUEUE_READY
            | VIRTIO_MMIO_QUEUE_DESC_LOW
            | VIRTIO_MMIO_QUEUE_DESC_HIGH
            | VIRTIO_MMIO_QUEUE_AVAIL_LOW
            | VIRTIO_MMIO_QUEUE_AVAIL_HIGH
            | VIRTIO_MMIO_QUEUE_USED_LOW
            | VIRTIO_MMIO_QUEUE_USED_HIGH => self.write_queue(offset, value),
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(notifier) = self.notifiers.get(value as usize)
                    && let Err(error) = notifier.write(1)
                {
                    log::debug!("{}: notifying queue {value}: {error}", self.device.name());
                }
            }
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.write_status(value),
            _ => {}
        }
    }

    fn write_features(&mut self, value: u32) {
        let is_time = self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FEATURES_OK);
        if !is_time || self.has(VIRTIO_CONFIG_S_FAILED) {
            return self.driver_error(&"writes features out of order");
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => self.foreign_features |= value != 0,
        }
    }

    fn write_queue(&mut self, offset: u32, value: u32) {
        let ready = |index: u32| self.queues.get(index as usize).is_some_and(|q| q.ready);
        if offset == VIRTIO_MMIO_QUEUE_READY && value & 1 == 0 && !self.has(VIRTIO_CONFIG_S_FAILED)
        {
            match ready(self.queue_sel) {
                // As it is: Linux's driver says so of each queue when it leaves, after the reset.
                false => return,
                true if self.has(VIRTIO_CONFIG_S_DRIVER_OK) => return self.stop_queue(),
                true => {}
            }
        }
        // §3.1.1: step 7 comes after FEATURES_OK and before DRIVER_OK.
        let is_time = self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        if !is_time || self.has(VIRTIO_CONFIG_S_FAILED) {
            return self.driver_error(&"sets up a queue out of order");
        }
        let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else {
            return;
        };
        if offset == VIRTIO_MMIO_QUEUE_READY {
            queue.ready = value & 1 != 0;
            if queue.ready
                && let Err(error) = queue.build(&self.memory, event_idx)
            {
                queue.ready = false;
                let index = self.queue_sel;
                self.interrupt.fail(&format_args!("queue {index}: {error}"));
            }
            return;
        }
        if queue.ready {
            return self.driver_error(&"changes a queue that is ready");
        }
        let low = |register: &mut u64| *register = *register & !0xffff_ffff | u64::from(value);
        let high =
            |register: &mut u64| *register = *register & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut queue.descriptors),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut queue.descriptors),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut queue.available),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut queue.available),
            VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut queue.used),
            VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut queue.used),
            _ => {}
        }
    }

    /// §4.2.2.2: the driver takes back a queue of a device at work, which must not touch it any more once QueueReady
    /// reads 0. Drivers do that when they leave, to all queues before the reset; so the others stop with it.
    fn stop_queue(&mut self) {
        self.stop_device();
        if let Some(queue) = self.queues.get_mut(self.queue_sel as usize) {
            queue.ready = false;
        }
    }

    /// Nothing of the guest's is read or written any more.
    fn stop_device(&mut self) {
        if std::mem::take(&mut self.activated) {
            // The thread that has set it up is there.
            if let Err(error) = self.apart(|device| device.reset()) {
                log::error!("{}: {error}", self.device.name());
                self.device.reset();
            }
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let value = value & DRIVER_STATUS;
        if value & self.status != self.status {
            return self.driver_error(&"clears a bit of Status");
        }
        if self.has(VIRTIO_CONFIG_S_FAILED) {
            return;
        }
        let before = self.status;
        let new = value & !before;
        self.status |= new & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        if new & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status |= VIRTIO_CONFIG_S_FAILED;
            return self.driver_error(&"has given up on the device");
        }
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            if !self.has(VIRTIO_CONFIG_S_ACKNOWLEDGE) || !self.has(VIRTIO_CONFIG_S_DRIVER) {
                return self.driver_error(&"sets FEATURES_OK before DRIVER");
            }
            let features = self.driver_features;
            let refused = features & !self.features();
            if refused != 0 || self.foreign_features {
                return self.driver_error(&"accepts features that are not offered");
            }
            if features & (1 << VIRTIO_F_VERSION_1) == 0 {
                return self.driver_error(&"is a legacy one: it does not know VIRTIO_F_VERSION_1");
            }
            self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            // The driver must have seen FEATURES_OK accepted before.
            if before & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
                return self.driver_error(&"sets DRIVER_OK before FEATURES_OK");
            }
            self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
            self.activate();
        }
    }

    fn activate(&mut self) {
        self.interrupt.set_live();
        if self.interrupt.needs_reset() {
            return;
        }
        let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, registers) in self.queues.iter().enumerate().filter(|(_, q)| q.ready) {
            match registers.build(&self.memory, event_idx) {
                Ok(queue) => queues.push(ActiveQueue {
                    index: index as u16,
                    queue,
                    notify: self.notifiers[index].clone(),
                }),
                Err(error) => return self.interrupt.fail(&format_args!("queue {index}: {error}")),
            }
        }
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.driver_features,
            queues,
            interrupt: self.interrupt.clone(),
        };
        let result = self.apart(|device| device.activate(activation));
        // Where there is no thread for it, the device has seen nothing of it.
        self.activated = result.is_ok();
        match result.flatten() {
            Ok(()) => self.driver_ok = true,
            Err(error) => self.interrupt.fail(&error),
        }
    }

    /// Sets the device up or tears it down where a thread may: a vCPU's may not.
    fn apart<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn VirtioDevice) -> T + Send + 'static,
    ) -> Result<T, ActivateError> {
        let apart = threads::apart().map_err(|source| ActivateError::Thread {
            name: "mote-setup".to_owned(),
            source,
        })?;
        let mut device = std::mem::replace(&mut self.device, Box::new(Away));
        let (device, result) = apart.run(move || {
            let result = work(&mut *device);
            (device, result)
        });
        self.device = device;
        Ok(result)
    }

    /// Back to the state before the driver came: on return, nothing of the device is running.
    pub fn reset(&mut self) {
        self.stop_device();
        self.interrupt.reset();
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.foreign_features = false;
        self.queue_sel = 0;
        self.publish();
        self.publish_config(0, CONFIG_SIZE);
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    /// Logged once where people see it, and then for those who ask.
    fn driver_error(&mut self, what: &dyn Display) {
        let level = match std::mem::replace(&mut self.erred, true) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        };
        log::log!(level, "{}: the guest's driver {what}", self.device.name());
    }
}

/// In the device's place while it is elsewhere. Nobody asks it anything: who could waits for the device.
struct Away;

impl VirtioDevice for Away {
    fn name(&self) -> &str {
        "away"
    }
    fn device_type(&self) -> u32 {
        0
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[]
    }
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn activate(&mut self, _: Activation) -> Result<(), ActivateError> {
        Ok(())
    }
    fn reset(&mut self) {}
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.interrupt.page().read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            if self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FAILED) {
                self.device.write_config(offset, data);
                self.publish_config(offset as usize, data.len());
            }
        } else if offset.is_multiple_of(4)
            && let Ok(value) = data.try_into()
        {
            self.write_register(offset as u32, u32::from_le_bytes(value));
            self.publish();
        }
    }
}

impl Drop for MmioTransport {
    /// Whatever holds the device's memory may go once this is done.
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
