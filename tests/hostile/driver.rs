//! What a driver does with a virtio device over MMIO (virtio 1.3 §4.2), right or wrong, as operations.

use crate::native::{RAM, VIRTIO};
use crate::script::Script;

/// Registers.
pub const DRIVER_FEATURES: u64 = 0x20;
pub const DRIVER_FEATURES_SEL: u64 = 0x24;
pub const QUEUE_SEL: u64 = 0x30;
pub const QUEUE_NUM: u64 = 0x38;
pub const QUEUE_READY: u64 = 0x44;
pub const QUEUE_NOTIFY: u64 = 0x50;
pub const INTERRUPT_ACK: u64 = 0x64;
pub const STATUS: u64 = 0x70;
pub const QUEUE_DESC: u64 = 0x80;
pub const QUEUE_AVAIL: u64 = 0x90;
pub const QUEUE_USED: u64 = 0xa0;
pub const CONFIG: u64 = 0x100;

/// Feature bits of the rings.
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
pub const VERSION_1: u64 = 1 << 32;

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const NESTED: u16 = 4;

/// Where a driver's rings and buffers are, well away from its code.
pub const ARENA: u64 = RAM + (16 << 20);
/// A buffer of a page and more.
pub const BUFFER: u64 = ARENA + 0x10_0000;

/// A queue as its driver tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub size: u32,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl Ring {
    /// A good one, by its number.
    pub fn number(index: u64) -> Self {
        let base = ARENA + index * 0x4000;
        Ring {
            size: 8,
            descriptors: base,
            available: base + 0x1000,
            used: base + 0x2000,
        }
    }
}

/// The first register of a device.
pub fn device(index: u64) -> u64 {
    VIRTIO + index * 0x1000
}

impl Script {
    fn halves(&mut self, register: u64, value: u64) -> &mut Self {
        self.write32(register, value as u32)
            .write32(register + 4, (value >> 32) as u32)
    }

    /// Resets the device and accepts features, up to FEATURES_OK.
    pub fn greet(&mut self, device: u64, features: u64) -> &mut Self {
        self.write32(device + STATUS, 0).write32(device + STATUS, 3);
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write32(device + DRIVER_FEATURES_SEL, select)
                .write32(device + DRIVER_FEATURES, half);
        }
        self.write32(device + STATUS, 11)
    }

    pub fn queue(&mut self, device: u64, index: u32, ring: Ring) -> &mut Self {
        self.write32(device + QUEUE_SEL, index)
            .write32(device + QUEUE_NUM, ring.size)
            .halves(device + QUEUE_DESC, ring.descriptors)
            .halves(device + QUEUE_AVAIL, ring.available)
            .halves(device + QUEUE_USED, ring.used)
            .write32(device + QUEUE_READY, 1)
    }

    /// All set up: the device is at work.
    pub fn drive(&mut self, device: u64) -> &mut Self {
        self.write32(device + STATUS, 15)
    }

    /// A device with good rings that were never used, from the first on.
    pub fn bring_up(&mut self, device: u64, features: u64, queues: u64) -> &mut Self {
        for index in 0..queues {
            let ring = Ring::number(index);
            self.write64(ring.available, 0).write64(ring.used, 0);
        }
        self.greet(device, features);
        for index in 0..queues {
            self.queue(device, index as u32, Ring::number(index));
        }
        self.drive(device)
    }

    /// A descriptor at its place in a table.
    pub fn descriptor(&mut self, table: u64, index: u64, d: (u64, u32, u16, u16)) -> &mut Self {
        let (address, length, flags, next) = d;
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.write64(table + index * 16, address)
            .write64(table + index * 16 + 8, rest)
    }

    /// Makes chains available: their heads from the ring's start on, then the index as it is said.
    pub fn offer(&mut self, ring: Ring, heads: &[u16], index: u16) -> &mut Self {
        for (place, head) in (0..).zip(heads) {
            self.write16(ring.available + 4 + 2 * place, *head);
        }
        self.write16(ring.available + 2, index)
    }

    pub fn notify(&mut self, device: u64, queue: u32) -> &mut Self {
        self.write32(device + QUEUE_NOTIFY, queue)
    }

    /// Has the entropy device, which has one queue, fill 8 bytes of the buffer by good means; the guest waits
    /// for it, and prints the used index: `\x01`, if the device works.
    pub fn prove_entropy(&mut self, device: u64) -> &mut Self {
        let ring = Ring::number(0);
        self.bring_up(device, VERSION_1, 1)
            .descriptor(ring.descriptors, 0, (BUFFER, 8, WRITE, 0))
            .offer(ring, &[0], 1)
            .notify(device, 0)
            .wait(ring.used + 2, 1, 1_000_000)
            .show(ring.used + 2)
    }
}
