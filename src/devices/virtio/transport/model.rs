//! What a driver must see of the registers, said once more and in another way: as virtio 1.3 has it (§2.1, §3.1.1,
//! §4.2.2), with what it leaves to devices. [`Pair`] has the real transport and this model take the same accesses.

use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use virtio_bindings::virtio_mmio::*;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::devices::virtio::ActivateError;
use crate::devices::virtio::testing::FakeGuest;

/// The model's device: two queues, and a configuration space of which every byte can be written.
const SIZES: [u16; 2] = [16, 64];
const DEVICE_FEATURES: u64 = 1 << 3 | 1 << 50;
const OFFERED: u64 = DEVICE_FEATURES | 1 << 28 | 1 << 29 | 1 << 32;
const CONFIG_BYTES: usize = 8;

/// Guest memory: start and size.
const RAM: [(u64, u64); 2] = [(0, 0x8000), (0x1_0000_0000, 0x4000)];

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

/// What happens to a device.
#[derive(Arbitrary, Clone, Debug)]
pub enum Access {
    /// A write of a register: most often one that there is, and in its width.
    Set(Register, u32),
    /// A write of any width anywhere.
    Write(u16, u8, u64),
    /// A read of any width anywhere.
    Read(u16, u8),
    /// A queue is set up, as it should be or not quite.
    SetUp(u8, Setup),
    /// The next right steps on the way to DRIVER_OK.
    Onward,
    /// The device fails.
    Fail,
    /// The device has used buffers.
    Used,
    /// The device changes its configuration space: a byte.
    Change(u8, u8),
    /// From now on the device can start, or can't.
    MayStart(bool),
}

/// Registers that mean something to write, and two that don't.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[repr(u16)]
#[allow(missing_docs)] // as in virtio 1.3 §4.2.2
pub enum Register {
    DeviceId = 0x008,
    DeviceFeatures = 0x010,
    DeviceFeaturesSel = 0x014,
    DriverFeatures = 0x020,
    DriverFeaturesSel = 0x024,
    QueueSel = 0x030,
    QueueNum = 0x038,
    QueueReady = 0x044,
    QueueNotify = 0x050,
    InterruptAck = 0x064,
    Status = 0x070,
    QueueDescLow = 0x080,
    QueueDescHigh = 0x084,
    QueueDriverLow = 0x090,
    QueueDriverHigh = 0x094,
    QueueDeviceLow = 0x0a0,
    QueueDeviceHigh = 0x0a4,
}

/// Where a queue's rings are.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Setup {
    /// The binary logarithm of its size, and what is added to that.
    pub size: (u8, i8),
    /// In units of 16 bytes, which three of four times stay in memory; and what is added.
    pub places: [(u16, i8); 3],
    /// Which of them are above 4 GiB.
    pub high: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ModelQueue {
    max: u32,
    size: u32,
    ready: bool,
    /// Descriptor table, available ring, used ring.
    places: [u64; 3],
}

impl ModelQueue {
    fn new(max: u16) -> Self {
        ModelQueue {
            max: max.into(),
            size: max.into(),
            ready: false,
            places: [0; 3],
        }
    }

    /// §2.7: a power of two up to the maximum; rings that are aligned, and in memory as a whole. (And no available
    /// ring at 0: nobody has one there.)
    fn works(&self) -> bool {
        let size = u64::from(self.size);
        let rings = [(16 * size, 16), (6 + 2 * size, 2), (6 + 8 * size, 4)];
        let in_ram = |at: u64, len: u64| {
            let ends = |(start, size): &(u64, u64)| {
                at >= *start && at - start < *size && size - (at - start) >= len
            };
            RAM.iter().any(ends)
        };
        let fits = |(at, (len, align)): (&u64, &(u64, u64))| at % align == 0 && in_ram(*at, *len);
        self.size.is_power_of_two()
            && self.size <= self.max
            && self.places[1] != 0
            && self.places.iter().zip(&rings).all(fits)
    }
}

/// A queue's number, its size and its rings.
type ActiveOne = (u16, u16, [u64; 3]);

/// What the device behind the transport has seen.
#[derive(Debug, Default)]
struct Seen {
    activations: u32,
    resets: u32,
    refuses: bool,
    config: [u8; CONFIG_BYTES],
    /// The features of the last activation, and its queues.
    last: Option<(u64, Vec<ActiveOne>)>,
    interrupt: Option<Arc<Interrupt>>,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

struct Device(Arc<Mutex<Seen>>);

impl VirtioDevice for Device {
    fn name(&self) -> &str {
        "model"
    }
    fn device_type(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        DEVICE_FEATURES
    }
    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let seen = self.0.lock().unwrap();
        crate::devices::virtio::read_config_bytes(&seen.config, offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        for (at, byte) in (offset..).zip(data) {
            if let Some(place) = seen.config.get_mut(at as usize) {
                *place = *byte;
            }
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut seen = self.0.lock().unwrap();
        seen.activations += 1;
        if seen.refuses {
            return Err(ActivateError::Host {
                what: "starting".to_owned(),
                source: io::Error::other("as it was told"),
            });
        }
        let queue = |active: &ActiveQueue| {
            let queue = &active.queue;
            let places = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
            (active.index, queue.size(), places)
        };
        let queues = activation.queues.iter().map(queue).collect();
        seen.last = Some((activation.features, queues));
        seen.interrupt = Some(activation.interrupt);
        Ok(())
    }
    fn reset(&mut self) {
        let mut seen = self.0.lock().unwrap();
        seen.resets += 1;
        seen.last = None;
        seen.interrupt = None;
    }
}

/// The state of a device as its driver knows it.
struct Model {
    status: u32,
    needs_reset: bool,
    /// DRIVER_OK was reached: the device may interrupt.
    live: bool,
    interrupt_status: u32,
    generation: u32,
    config: [u8; CONFIG_BYTES],
    device_sel: u32,
    driver_sel: u32,
    features: u64,
    /// Features past the 64 that there are.
    foreign: bool,
    queue_sel: u32,
    queues: [ModelQueue; 2],
    refuses: bool,
    activations: u32,
    resets: u32,
    /// `activate` was called since the last reset, and whether it worked.
    activated: Option<bool>,
}

impl Model {
    fn new() -> Self {
        Model {
            status: 0,
            needs_reset: false,
            live: false,
            interrupt_status: 0,
            generation: 0,
            config: [0; CONFIG_BYTES],
            device_sel: 0,
            driver_sel: 0,
            features: 0,
            foreign: false,
            queue_sel: 0,
            queues: SIZES.map(ModelQueue::new),
            refuses: false,
            activations: 0,
            resets: 0,
            activated: None,
        }
    }

    /// What a register reads as; `None` for those that say nothing.
    fn register(&self, register: u32) -> Option<u32> {
        let queue = self.queues.get(self.queue_sel as usize);
        Some(match register {
            VIRTIO_MMIO_MAGIC_VALUE => u32::from_le_bytes(*b"virt"),
            VIRTIO_MMIO_VERSION => 2,
            VIRTIO_MMIO_DEVICE_ID => 42,
            VIRTIO_MMIO_VENDOR_ID => u32::from_le_bytes(*b"mote"),
            VIRTIO_MMIO_DEVICE_FEATURES => match self.device_sel {
                0 => OFFERED as u32,
                1 => (OFFERED >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.max),
            VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| queue.ready.into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.status | if self.needs_reset { NEEDS_RESET } else { 0 },
            VIRTIO_MMIO_CONFIG_GENERATION => self.generation,
            0xb0..=0xbc => !0, // no shared memory
            _ => return None,
        })
    }

    fn fail(&mut self) {
        self.needs_reset = true;
        self.notify_config();
    }

    fn notify_config(&mut self) {
        if self.live {
            self.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
        }
    }

    fn set(&mut self, register: u32, value: u32) {
        let negotiating = self.status & (DRIVER | FEATURES_OK) == DRIVER;
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES if negotiating && self.status & FAILED == 0 => {
                match self.driver_sel {
                    0 => self.features = self.features >> 32 << 32 | u64::from(value),
                    1 => self.features = u64::from(value) << 32 | self.features & 0xffff_ffff,
                    _ => self.foreign |= value != 0,
                }
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_INTERRUPT_ACK => {
                // The bit for used buffers stays while the device is live.
                self.interrupt_status &= !(value & VIRTIO_MMIO_INT_CONFIG);
            }
            VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.set_queue(register, value),
        }
    }

    /// §3.1.1, §4.2.3.2: between FEATURES_OK and DRIVER_OK, and each while it isn't ready.
    fn set_queue(&mut self, register: u32, value: u32) {
        let stops = register == VIRTIO_MMIO_QUEUE_READY && value & 1 == 0;
        if self.status & (DRIVER_OK | FAILED) == DRIVER_OK && stops {
            // §4.2.2.2: at work, a queue can be stopped.
            let queue = self.queues.get_mut(self.queue_sel as usize);
            if queue.is_some_and(|queue| std::mem::take(&mut queue.ready)) {
                self.resets += u32::from(self.activated.take().is_some());
            }
            return;
        }
        if self.status & (FEATURES_OK | DRIVER_OK | FAILED) != FEATURES_OK {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else {
            return;
        };
        if register == VIRTIO_MMIO_QUEUE_READY {
            let wanted = value & 1 == 1;
            queue.ready = wanted && queue.works();
            if wanted && !queue.ready {
                self.fail();
            }
            return;
        }
        if queue.ready {
            return;
        }
        let place = match register {
            VIRTIO_MMIO_QUEUE_NUM => return queue.size = value,
            0x80..0x88 => &mut queue.places[0],
            0x90..0x98 => &mut queue.places[1],
            0xa0..0xa8 => &mut queue.places[2],
            _ => return,
        };
        *place = match register & 4 {
            0 => *place >> 32 << 32 | u64::from(value),
            _ => u64::from(value) << 32 | *place & 0xffff_ffff,
        };
    }

    /// §2.1.1: bits are only ever set, but for a reset; each in its order.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let value = value & (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED);
        if value & self.status != self.status || self.status & FAILED != 0 {
            return;
        }
        let before = self.status;
        self.status |= value & (ACKNOWLEDGE | DRIVER | FAILED);
        if self.status & FAILED != 0 {
            return;
        }
        if value & FEATURES_OK != 0 && before & FEATURES_OK == 0 {
            let introduced = self.status & ACKNOWLEDGE != 0 && self.status & DRIVER != 0;
            let version_1 = self.features & 1 << 32 != 0;
            let offered = self.features & !OFFERED == 0 && !self.foreign;
            if !(introduced && version_1 && offered) {
                return;
            }
            self.status |= FEATURES_OK;
        }
        if value & DRIVER_OK != 0 && before & DRIVER_OK == 0 && before & FEATURES_OK != 0 {
            self.status |= DRIVER_OK;
            self.live = true;
            self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
            if self.needs_reset {
                return;
            }
            self.activations += 1;
            self.activated = Some(!self.refuses);
            if self.refuses {
                self.fail();
            }
        }
    }

    fn reset(&mut self) {
        *self = Model {
            generation: self.generation,
            config: self.config,
            refuses: self.refuses,
            activations: self.activations,
            resets: self.resets + u32::from(self.activated.is_some()),
            ..Model::new()
        };
    }

    /// A write of any width: registers take 32 bits, the configuration space takes any from a driver.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(at) = offset.checked_sub(0x100) {
            if self.status & DRIVER != 0 && self.status & FAILED == 0 {
                for (at, byte) in (at..).zip(bytes) {
                    if let Some(place) = self.config.get_mut(at as usize) {
                        *place = *byte;
                    }
                }
            }
        } else if let (0, Ok(value)) = (offset % 4, bytes.try_into()) {
            self.set(offset as u32, u32::from_le_bytes(value));
        }
    }
}

/// A transport and its model.
pub struct Pair {
    guest: FakeGuest,
    seen: Arc<Mutex<Seen>>,
    model: Model,
}

impl Pair {
    /// Both, as after a start.
    pub fn new() -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let ranges = RAM.map(|(start, size)| (GuestAddress(start), size as usize));
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let guest = FakeGuest::with_memory(Device(seen.clone()), memory);
        let mut pair = Pair {
            guest,
            seen,
            model: Model::new(),
        };
        pair.compare();
        pair
    }

    /// Has both take an access, and compares them.
    pub fn access(&mut self, access: &Access) {
        match access {
            Access::Set(register, value) => self.set(*register as u32, *value),
            Access::Write(offset, width, value) => {
                // Up to the end of the page and beyond it.
                let (offset, bytes) = (u64::from(offset % 0x1010), value.to_le_bytes());
                self.write(offset, &bytes[..usize::from(width % 9)]);
            }
            Access::Read(offset, width) => self.read(u64::from(offset % 0x1010), width % 9),
            Access::SetUp(queue, setup) => self.set_up(queue % 3, setup),
            Access::Onward => self.onward(),
            Access::Fail => {
                if let Some(interrupt) = self.interrupt() {
                    interrupt.fail(&"as it was told");
                    self.model.fail();
                }
            }
            Access::Used => {
                if let Some(interrupt) = self.interrupt() {
                    interrupt.used_buffers();
                }
            }
            Access::Change(at, value) => {
                let at = usize::from(*at) % CONFIG_BYTES;
                self.seen.lock().unwrap().config[at] = *value;
                self.model.config[at] = *value;
                match self.interrupt() {
                    Some(interrupt) => {
                        interrupt.set_config(at, &[*value]);
                        self.model.generation += 2;
                        self.model.notify_config();
                    }
                    // As a device does that isn't live: it shows with the next reset.
                    None => self.set(VIRTIO_MMIO_STATUS, 0),
                }
            }
            Access::MayStart(may) => {
                self.seen.lock().unwrap().refuses = !may;
                self.model.refuses = !may;
            }
        }
        self.compare();
    }

    fn interrupt(&self) -> Option<Arc<Interrupt>> {
        self.seen.lock().unwrap().interrupt.clone()
    }

    fn set(&mut self, register: u32, value: u32) {
        self.write(register.into(), &value.to_le_bytes());
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.guest.transport.write(offset, bytes);
        self.model.write(offset, bytes);
    }

    /// Reads take any width, as of memory.
    fn read(&mut self, offset: u64, width: u8) {
        let mut bytes = vec![0x55; width.into()];
        self.guest.transport.read(offset, &mut bytes);
        for (at, byte) in (offset..).zip(&bytes) {
            let expected = match at.checked_sub(0x100) {
                Some(at) => Some(self.model.config.get(at as usize).copied().unwrap_or(0)),
                None => {
                    let word = self.model.register(at as u32 & !3);
                    word.map(|word| word.to_le_bytes()[at as usize % 4])
                }
            };
            assert_eq!(*byte, expected.unwrap_or(0), "at {at:#x}");
        }
    }

    fn set_up(&mut self, queue: u8, setup: &Setup) {
        self.set(VIRTIO_MMIO_QUEUE_SEL, queue.into());
        let (log, add) = setup.size;
        let size = (1u32 << (log % 8)).wrapping_add_signed(match add {
            -2..=2 => add.into(),
            _ => 0,
        });
        self.set(VIRTIO_MMIO_QUEUE_NUM, size);
        for (index, (at, add)) in setup.places.iter().enumerate() {
            let add = if (-16..16).contains(add) {
                i64::from(*add)
            } else {
                0
            };
            let at = (u64::from(*at) % 0xa00 * 16).wrapping_add_signed(add);
            let register = 0x80 + 0x10 * index as u32;
            self.set(register, at as u32);
            let high = u32::from(setup.high >> index & 1);
            self.set(register + 4, high.wrapping_add((at >> 32) as u32));
        }
        self.set(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn onward(&mut self) {
        let status = self.model.status;
        if status & DRIVER == 0 {
            self.set(VIRTIO_MMIO_STATUS, status | ACKNOWLEDGE);
            self.set(VIRTIO_MMIO_STATUS, status | ACKNOWLEDGE | DRIVER);
        } else if status & FEATURES_OK == 0 {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, OFFERED as u32);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, (OFFERED >> 32) as u32);
            self.set(VIRTIO_MMIO_STATUS, status | ACKNOWLEDGE | FEATURES_OK);
        } else {
            self.set(VIRTIO_MMIO_STATUS, status | DRIVER_OK);
        }
    }

    fn compare(&mut self) {
        for register in (0..0x100).step_by(4) {
            let expected = self.model.register(register).unwrap_or(0);
            assert_eq!(self.guest.get(register), expected, "{register:#x}");
        }
        assert_eq!(self.guest.config(0), self.model.config);
        let seen = self.seen.lock().unwrap();
        let model = &self.model;
        assert_eq!(
            (seen.activations, seen.resets),
            (model.activations, model.resets)
        );
        let Some((features, queues)) = &seen.last else {
            return assert_ne!(model.activated, Some(true));
        };
        assert_eq!(model.activated, Some(true));
        assert_eq!(*features, model.features);
        let ready = (0u16..).zip(&model.queues).filter(|(_, queue)| queue.ready);
        let ready: Vec<_> = ready.map(|(n, q)| (n, q.size as u16, q.places)).collect();
        assert_eq!(*queues, ready);
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}
