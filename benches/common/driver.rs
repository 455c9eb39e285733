//! The driver's side of a virtio device in plain memory, as lean as can be: requests that are
//! laid out once, and whose buffers are used again and again.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use motevm::bus::BusDevice;
use motevm::devices::virtio::registers::RegisterPage;
use motevm::devices::virtio::{MmioTransport, VirtioDevice};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZE: u16 = 256;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
/// A page for each request's header and status, then the data.
const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x100_0000;
const MEMORY: usize = 64 << 20;

/// A driver with a live device of one queue.
pub struct Driver {
    memory: GuestMemoryMmap<()>,
    _transport: MmioTransport,
    irq: EventFd,
    notifier: Arc<EventFd>,
    event_idx: bool,
    available: u16,
    used: u16,
    requests: u16,
    /// The driver's own system calls: notifications, and waits for interrupts. A guest has none.
    pub calls: u64,
}

impl Driver {
    /// Sets the device up, with `requests` requests prepared: a header of 16 bytes to read (of
    /// a block device: read from sector 0 on), `data` bytes to write, a byte of status to write.
    pub fn new(device: Box<dyn VirtioDevice>, event_idx: bool, requests: u16, data: u32) -> Self {
        let ranges = [(GuestAddress(0), MEMORY)];
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
        let irq = EventFd::new(0).expect("an eventfd");
        let irqfd = irq.try_clone().expect("an eventfd");
        let page = RegisterPage::alone().expect("a page of registers");
        let transport = MmioTransport::new(device, memory.clone(), irqfd, page);
        let mut transport = transport.expect("a transport");
        let features = u64::from(event_idx) << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_F_VERSION_1;
        set_up(&mut transport, features);
        let driver = Self {
            memory,
            notifier: transport.notifiers()[0].clone(),
            _transport: transport,
            irq,
            event_idx,
            available: 0,
            used: 0,
            requests,
            calls: 0,
        };
        assert!(3 * requests <= QUEUE_SIZE);
        for request in 0..requests {
            let (header, place) = (3 * request, u64::from(request));
            let page = HEADERS + 0x1000 * place;
            let (next, write) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
            let place = DATA + u64::from(data.next_multiple_of(4096)) * place;
            driver.describe(header, page, 16, next);
            driver.describe(header + 1, place, data, next | write);
            driver.describe(header + 2, page + 64, 1, write);
        }
        driver
    }

    /// How many requests a round has.
    pub fn requests(&self) -> u16 {
        self.requests
    }

    fn describe(&self, index: u16, address: u64, len: u32, flags: u16) {
        let place = DESCRIPTORS + 16 * u64::from(index);
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend((index + 1).to_le_bytes());
        let written = self.memory.write_slice(&bytes, GuestAddress(place));
        written.expect("a descriptor");
    }

    /// Makes all prepared requests available at once, and waits until all are used.
    pub fn round(&mut self) {
        let old = self.available;
        for request in 0..self.requests {
            let slot = u64::from(self.available % QUEUE_SIZE);
            self.store(AVAILABLE + 4 + 2 * slot, 3 * request);
            self.available = self.available.wrapping_add(1);
        }
        self.store(AVAILABLE + 2, self.available);
        fence(Ordering::SeqCst);
        // §2.7.10: whether the device wants to hear of it.
        let notify = match self.event_idx {
            true => {
                let event = self.load(USED + 4 + 8 * u64::from(QUEUE_SIZE));
                let new = self.available;
                new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
            }
            false => self.load(USED) & VRING_USED_F_NO_NOTIFY as u16 == 0,
        };
        if notify {
            self.notifier.write(1).expect("notifying");
            self.calls += 1;
        }
        // As Linux does: interrupts are wanted while there is nothing to take, and not otherwise.
        while self.take() {
            if self.event_idx {
                self.store(AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE), self.used);
            } else {
                self.store(AVAILABLE, 0);
            }
            fence(Ordering::SeqCst);
            if self.load(USED + 2) == self.used {
                self.irq.read().expect("waiting for an interrupt");
                self.calls += 1;
            }
            if !self.event_idx {
                self.store(AVAILABLE, VRING_AVAIL_F_NO_INTERRUPT as u16);
            }
        }
    }

    /// Takes what is used; whether there are requests that are not.
    fn take(&mut self) -> bool {
        self.used = self.load(USED + 2);
        self.used != self.available
    }

    /// That the device's last answers are no errors (a block device's: 0).
    pub fn check(&self, status: u8) {
        for request in 0..self.requests {
            let place = GuestAddress(HEADERS + 0x1000 * u64::from(request) + 64);
            let byte: u8 = self.memory.read_obj(place).expect("a status");
            assert_eq!(byte, status, "request {request}");
        }
    }

    fn store(&self, address: u64, value: u16) {
        let stored = self
            .memory
            .store(value, GuestAddress(address), Ordering::Release);
        stored.expect("the rings");
    }

    fn load(&self, address: u64) -> u16 {
        let loaded = self.memory.load(GuestAddress(address), Ordering::Acquire);
        loaded.expect("the rings")
    }
}

/// From reset to DRIVER_OK (§3.1.1), with one queue.
fn set_up(transport: &mut MmioTransport, features: u64) {
    let mut status = 0;
    let mut set = |register: u32, value: u32| {
        transport.write(register.into(), &value.to_le_bytes());
    };
    for bit in [VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER] {
        status |= bit;
        set(VIRTIO_MMIO_STATUS, status);
    }
    for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
        set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, sel);
        set(VIRTIO_MMIO_DRIVER_FEATURES, half);
    }
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    set(VIRTIO_MMIO_STATUS, status);
    set(VIRTIO_MMIO_QUEUE_SEL, 0);
    set(VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into());
    set(VIRTIO_MMIO_QUEUE_DESC_LOW, DESCRIPTORS as u32);
    set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32);
    set(VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32);
    set(VIRTIO_MMIO_QUEUE_READY, 1);
    set(VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
    let mut now = [0; 4];
    transport.read(VIRTIO_MMIO_STATUS.into(), &mut now);
    assert_eq!(u32::from_le_bytes(now), status | VIRTIO_CONFIG_S_DRIVER_OK);
}
