//! A driver in plain memory, to try a device with no VM: good manners by default, and bad ones
//! on request. It panics at whatever goes wrong.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::*;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::registers::RegisterPage;
use super::{MmioTransport, VirtioDevice};
use crate::bus::BusDevice;

/// Guest memory: two regions that touch each other, and one after a gap.
pub const REGIONS: [(GuestAddress, usize); 3] = [
    (GuestAddress(0), 4 << 20),
    (GuestAddress(BORDER), 28 << 20),
    (GuestAddress(0x1_0000_0000), 1 << 20),
];
/// Where the first two regions meet.
pub const BORDER: u64 = 4 << 20;
/// No memory here.
pub const NOWHERE: u64 = 0x8000_0000;

/// How long a device may take before a test fails: long, as the host may have much else to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
pub const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
pub const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
pub const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// A guest with one device.
pub struct FakeGuest {
    pub memory: GuestMemoryMmap<()>,
    pub transport: MmioTransport,
    /// Counts the interrupts.
    pub irq: EventFd,
    next_free: u64,
}

/// The driver's side of a queue.
pub struct DriverQueue {
    memory: GuestMemoryMmap<()>,
    pub index: u32,
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next_descriptor: u16,
    available_index: u16,
    used_index: u16,
    event_idx: bool,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub enum Buffer {
    /// For the device to read: address and length.
    Read(u64, u32),
    /// For the device to write: address and length.
    Write(u64, u32),
}

impl FakeGuest {
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::with_memory(device, GuestMemoryMmap::from_ranges(&REGIONS).unwrap())
    }

    /// The same with memory of the test's own.
    pub fn with_memory(device: impl VirtioDevice + 'static, memory: GuestMemoryMmap<()>) -> Self {
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let irqfd = irq.try_clone().unwrap();
        let transport = MmioTransport::new(
            Box::new(device),
            memory.clone(),
            irqfd,
            RegisterPage::alone().unwrap(),
        )
        .unwrap();
        Self {
            memory,
            transport,
            irq,
            next_free: 0x1000,
        }
    }

    /// A guest whose driver has accepted all of `wanted` that's offered, and runs the queues.
    pub fn running(device: impl VirtioDevice + 'static, wanted: u64) -> (Self, Vec<DriverQueue>) {
        let mut guest = Self::new(device);
        let queues = guest.start(wanted);
        (guest, queues)
    }

    /// From reset to DRIVER_OK, all queues at their largest size.
    pub fn start(&mut self, wanted: u64) -> Vec<DriverQueue> {
        let features = self.negotiate(wanted);
        let queues = (0..self.transport.notifiers().len() as u32)
            .map(|index| {
                self.set(VIRTIO_MMIO_QUEUE_SEL, index);
                let size = self.get(VIRTIO_MMIO_QUEUE_NUM_MAX) as u16;
                let queue = self.queue(index, size, features & EVENT_IDX != 0);
                self.set_up(&queue);
                queue
            })
            .collect();
        self.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
        queues
    }

    /// From reset to FEATURES_OK; the features that both sides know.
    pub fn negotiate(&mut self, wanted: u64) -> u64 {
        self.set(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.status(), 0);
        self.set(VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
        self.set(VIRTIO_MMIO_STATUS, DRIVER);
        let features = self.offered() & (wanted | VERSION_1);
        self.accept(features);
        self.set(VIRTIO_MMIO_STATUS, FEATURES_OK);
        assert_eq!(self.status(), FEATURES_OK);
        features
    }

    pub fn offered(&mut self) -> u64 {
        self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        let high = u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES));
        self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        high << 32 | u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES))
    }

    pub fn accept(&mut self, features: u64) {
        for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, sel);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
    }

    /// Memory for a queue, which the device doesn't know yet.
    pub fn queue(&mut self, index: u32, size: u16, event_idx: bool) -> DriverQueue {
        let entries = usize::from(size);
        DriverQueue {
            memory: self.memory.clone(),
            index,
            size,
            descriptors: self.alloc(16 * entries),
            available: self.alloc(6 + 2 * entries),
            used: self.alloc(6 + 8 * entries),
            next_descriptor: 0,
            available_index: 0,
            used_index: 0,
            event_idx,
        }
    }

    /// Tells the device about a queue.
    pub fn set_up(&mut self, queue: &DriverQueue) {
        self.set(VIRTIO_MMIO_QUEUE_SEL, queue.index);
        self.set(VIRTIO_MMIO_QUEUE_NUM, queue.size.into());
        for (register, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, queue.descriptors),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.available),
            (VIRTIO_MMIO_QUEUE_USED_LOW, queue.used),
        ] {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    pub fn get(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn set(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    pub fn status(&mut self) -> u32 {
        self.get(VIRTIO_MMIO_STATUS)
    }

    pub fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xaa; N];
        let base = u64::from(VIRTIO_MMIO_CONFIG);
        self.transport.read(base + offset, &mut data);
        data
    }

    /// Fresh memory, zeroed, at the start of a page.
    pub fn alloc(&mut self, len: usize) -> u64 {
        let address = self.next_free;
        self.next_free += (len as u64).next_multiple_of(0x1000);
        assert!(self.next_free < BORDER, "the fake guest is out of memory");
        address
    }

    /// Has [`alloc`](Self::alloc) give again what it gave after `mark`, an address that it gave.
    pub fn release(&mut self, mark: u64) {
        self.store(mark, &vec![0; (self.next_free - mark) as usize]);
        self.next_free = mark;
    }

    /// Fresh memory with `data` in it.
    pub fn alloc_with(&mut self, data: &[u8]) -> u64 {
        let address = self.alloc(data.len());
        self.store(address, data);
        address
    }

    pub fn store(&self, address: u64, data: &[u8]) {
        self.memory
            .write_slice(data, GuestAddress(address))
            .unwrap();
    }

    pub fn load(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory
            .read_slice(&mut data, GuestAddress(address))
            .unwrap();
        data
    }

    /// Notifies the device, whether it asked for it or not.
    pub fn notify(&mut self, queue: &DriverQueue) {
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue.index);
    }

    /// Makes a chain available, notifies if the device wants it, waits for the interrupt and
    /// gives the `len` of the used element.
    pub fn transact(&mut self, queue: &mut DriverQueue, buffers: &[Buffer]) -> u32 {
        let head = queue.add(buffers);
        self.kick(queue, &[head]);
        let (used, len) = self.wait_used(queue);
        assert_eq!(used, u32::from(head));
        len
    }

    /// Makes chains available and notifies if the device wants it.
    pub fn kick(&mut self, queue: &mut DriverQueue, heads: &[u16]) {
        if queue.publish(heads) {
            self.notify(queue);
        }
    }

    /// The next used element: `id` and `len`. Sleeps until an interrupt, as a driver does.
    pub fn wait_used(&mut self, queue: &mut DriverQueue) -> (u32, u32) {
        loop {
            if let Some(element) = queue.take_used() {
                return element;
            }
            self.wait_interrupt();
        }
    }

    /// Waits for an interrupt and acknowledges it; InterruptStatus.
    pub fn wait_interrupt(&mut self) -> u32 {
        let mut poll = libc::pollfd {
            fd: self.irq.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, which lives through the call.
        let ready = unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32) };
        assert_eq!(ready, 1, "no interrupt within {PATIENCE:?}");
        self.irq.read().unwrap();
        let status = self.get(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.set(VIRTIO_MMIO_INTERRUPT_ACK, status);
        status
    }

    /// Waits until the device has given up, and checks that it has said so.
    pub fn expect_failure(&mut self) {
        assert_ne!(self.wait_interrupt() & VIRTIO_MMIO_INT_CONFIG, 0);
        assert_ne!(self.status() & NEEDS_RESET, 0);
    }
}

impl DriverQueue {
    /// The head that the next chain will have.
    pub fn next_head(&self) -> u16 {
        self.next_descriptor
    }

    /// A chain of direct descriptors; its head.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (i, buffer) in buffers.iter().enumerate() {
            let (address, len, flags) = buffer.parts();
            let at = (head + i as u16) % self.size;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.set_descriptor(at, address, len, flags | more, (at + 1) % self.size);
        }
        self.next_descriptor = (head + buffers.len() as u16) % self.size;
        head
    }

    /// A chain in an indirect table at `table`; its head.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        for (i, buffer) in buffers.iter().enumerate() {
            let (address, len, flags) = buffer.parts();
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.write_descriptor(table, i as u16, address, len, flags | more, i as u16 + 1);
        }
        let head = self.next_descriptor;
        self.set_descriptor(head, table, 16 * buffers.len() as u32, INDIRECT, 0);
        self.next_descriptor = (head + 1) % self.size;
        head
    }

    /// Any descriptor at all.
    pub fn set_descriptor(&self, at: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.write_descriptor(self.descriptors, at, address, len, flags, next);
    }

    /// Any descriptor in any table.
    pub fn write_descriptor(
        &self,
        table: u64,
        at: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let descriptor = RawDescriptor::from(Descriptor::new(address, len, flags, next));
        let place = GuestAddress(table + 16 * u64::from(at));
        self.memory.write_obj(descriptor, place).unwrap();
    }

    /// Makes chains available; whether the device wants to hear of it (§2.7.10).
    pub fn publish(&mut self, heads: &[u16]) -> bool {
        let old = self.available_index;
        for head in heads {
            let slot = u64::from(self.available_index % self.size);
            self.store_u16(self.available + 4 + 2 * slot, *head);
            self.available_index = self.available_index.wrapping_add(1);
        }
        self.set_available_index(self.available_index);
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.load_u16(self.used + 4 + 8 * u64::from(self.size));
            let new = self.available_index;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load_u16(self.used) & VRING_USED_F_NO_NOTIFY as u16 == 0
        }
    }

    /// Any available index at all.
    pub fn set_available_index(&mut self, index: u16) {
        self.available_index = index;
        let place = GuestAddress(self.available + 2);
        self.memory
            .store(index.to_le(), place, Ordering::Release)
            .unwrap();
    }

    /// The next used element, if there's one; else asks for an interrupt at the next.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        if self.event_idx {
            let used_event = self.available + 4 + 2 * u64::from(self.size);
            self.store_u16(used_event, self.used_index);
            fence(Ordering::SeqCst);
        }
        let place = GuestAddress(self.used + 2);
        let index: u16 = self.memory.load(place, Ordering::Acquire).unwrap();
        if u16::from_le(index) == self.used_index {
            return None;
        }
        let slot = u64::from(self.used_index % self.size);
        let place = GuestAddress(self.used + 4 + 8 * slot);
        let [id, len]: [u32; 2] = self.memory.read_obj(place).unwrap();
        self.used_index = self.used_index.wrapping_add(1);
        Some((u32::from_le(id), u32::from_le(len)))
    }

    fn store_u16(&self, address: u64, value: u16) {
        let place = GuestAddress(address);
        self.memory
            .store(value.to_le(), place, Ordering::Release)
            .unwrap();
    }

    fn load_u16(&self, address: u64) -> u16 {
        let place = GuestAddress(address);
        u16::from_le(self.memory.load(place, Ordering::Acquire).unwrap())
    }
}

impl Buffer {
    fn parts(self) -> (u64, u32, u16) {
        match self {
            Self::Read(address, len) => (address, len, 0),
            Self::Write(address, len) => (address, len, WRITE),
        }
    }
}

/// A socket's file, left by a program that has ended. Closing a listener is not enough: a process that
/// another test starts at that moment has it, too, until its own program runs.
pub fn leave_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    // SAFETY: a descriptor and a number.
    let ended = unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
    assert_eq!(ended, 0);
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} for: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
