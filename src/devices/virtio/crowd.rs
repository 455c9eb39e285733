//! Several vCPUs at once, each a wild driver, on one bus with all the devices: what a guest with
//! more than one CPU can do that the tests with one driver can't.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::blk::{BlkConfig, BlkDevice};
use super::registers::RegisterPage;
use super::rng::RngDevice;
use super::testing::{DRIVER_OK, EVENT_IDX, FEATURES_OK, INDIRECT, NEXT, VERSION_1, WRITE};
use super::{MmioTransport, VirtioDevice};
use crate::bus::Bus;
use crate::config::Engine;

/// As in a machine with more than 3 GiB: RAM up to the device gap, and on after it.
const LOW_END: u64 = 0xc000_0000;
const REGIONS: [(GuestAddress, usize); 3] = [
    (GuestAddress(0), 1 << 20),
    (GuestAddress(LOW_END - (1 << 20)), 1 << 20),
    (GuestAddress(1 << 32), 1 << 20),
];
const PAGE: u64 = 0x1000;
const DEVICES: u64 = 0xd000_1000;
const SECTORS: u64 = 64;
const CPUS: u64 = 4;

/// xorshift64*: reproducible, and no lock between the threads.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// A place in memory or at the border of it.
    fn address(&mut self) -> u64 {
        let near = self.below(64);
        match self.below(12) {
            0 => LOW_END - 32 + near,
            1 => (1 << 32) - 32 + near,
            2 => (1 << 20) - 32 + near,
            3 => u64::MAX - near,
            4 => self.next() << 8,
            5 => LOW_END - 16 * self.below(0x100),
            _ => PAGE + self.below(0x8000),
        }
    }
}

struct Cpu<'a> {
    random: Random,
    bus: &'a Bus,
    memory: &'a GuestMemoryMmap<()>,
    devices: u64,
}

impl Cpu<'_> {
    fn set(&self, device: u64, register: u32, value: u32) {
        let at = DEVICES + device * PAGE + u64::from(register);
        self.bus.write(at, &value.to_le_bytes());
    }

    fn get(&self, device: u64, register: u32) -> u32 {
        let mut data = [0; 4];
        let at = DEVICES + device * PAGE + u64::from(register);
        self.bus.read(at, &mut data);
        u32::from_le_bytes(data)
    }

    /// Where a device's rings are, for those that are set up as they should be.
    fn rings(device: u64) -> [u64; 3] {
        let base = 0x1000 + device * 0x4000;
        [base, base + 0x1000, base + 0x2000]
    }

    fn set_up(&self, device: u64, features: u64, rings: [u64; 3], size: u32) {
        for status in [0, 1, 3] {
            self.set(device, VIRTIO_MMIO_STATUS, status);
        }
        for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.set(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, sel);
            self.set(device, VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        self.set(device, VIRTIO_MMIO_STATUS, FEATURES_OK);
        self.set(device, VIRTIO_MMIO_QUEUE_SEL, 0);
        self.set(device, VIRTIO_MMIO_QUEUE_NUM, size);
        let registers = [
            VIRTIO_MMIO_QUEUE_DESC_LOW,
            VIRTIO_MMIO_QUEUE_AVAIL_LOW,
            VIRTIO_MMIO_QUEUE_USED_LOW,
        ];
        for (register, address) in registers.into_iter().zip(rings) {
            self.set(device, register, address as u32);
            self.set(device, register + 4, (address >> 32) as u32);
        }
        self.set(device, VIRTIO_MMIO_QUEUE_READY, 1);
        self.set(device, VIRTIO_MMIO_STATUS, DRIVER_OK);
    }

    /// One thing that a wild driver does.
    fn step(&mut self) {
        let device = self.random.below(self.devices);
        match self.random.below(100) {
            0..8 => {
                let features = VERSION_1 | self.random.one_of(&[0, EVENT_IDX]);
                let size = self.random.one_of(&[1, 8, 256, 256]);
                // Rings in the same place for all, or wherever.
                let rings = match self.random.below(8) {
                    0 => [0; 3].map(|_| self.random.address() & !15),
                    _ => Self::rings(device),
                };
                for ring in rings {
                    let _ = self.memory.write_slice(&[0; 4], GuestAddress(ring));
                }
                self.set_up(device, features, rings, size);
            }
            8 => self.set(device, VIRTIO_MMIO_STATUS, 0),
            9 => {
                let register = self.random.below(0x180) as u32;
                let value = self.random.next() as u32;
                self.set(device, register, value);
            }
            10 => {
                let at = DEVICES + device * PAGE + self.random.below(0x200);
                let mut data = vec![0xa5; self.random.below(17) as usize];
                self.bus.write(at, &data);
                self.bus.read(at, &mut data);
            }
            11 => {
                let place = GuestAddress(self.random.address());
                let data = self.random.next().to_le_bytes();
                let _ = self.memory.write_slice(&data, place);
            }
            12..50 => self.descriptors(device),
            50..75 => self.publish(device),
            _ => {
                self.set(device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// A chain of three in the first descriptors, right or nearly so, direct or not.
    fn descriptors(&mut self, device: u64) {
        let kind = self.random.one_of(&[0u32, 0, 1, 1, 4, 8, 11, 13, 99]);
        let sector = self.random.below(SECTORS) & !7;
        let header = 0x1_0000 + 0x100 * self.random.below(8);
        let content = [u64::from(kind), sector].map(u64::to_le_bytes).concat();
        let _ = self.memory.write_slice(&content, GuestAddress(header));
        let wild = self.random.below(16) == 0;
        let fits = if kind == 0 || kind == 8 { WRITE } else { 0 };
        let mut flags = NEXT | if device != 1 { fits } else { WRITE };
        let (mut data, mut len) = (0x2_0000, self.random.one_of(&[512, 4096, 65536]));
        if wild {
            flags = self.random.one_of(&[NEXT, NEXT | WRITE, INDIRECT, 0]);
            data = self.random.address();
            len = self.random.one_of(&[0u32, 16, 64, u32::MAX]);
        }
        let table = match self.random.below(3) {
            0 => 0x1_8000,
            _ => Self::rings(device)[0],
        };
        let first = 3 * self.random.below(2);
        let head = if device != 1 { NEXT } else { NEXT | WRITE };
        let chain = [
            (header, 16, head),
            (data, len, flags),
            (header + 64, 1, WRITE),
        ];
        for (i, (address, len, flags)) in (first..).zip(chain) {
            self.descriptor(table, i, address, len, flags, i as u16 + 1);
        }
        if self.random.below(4) == 0 {
            let rings = Self::rings(device);
            self.descriptor(rings[0], first, 0x1_8000, 96, INDIRECT, 0);
        }
    }

    fn descriptor(&self, table: u64, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let _ = self
            .memory
            .write_slice(&bytes, GuestAddress(table + 16 * at));
    }

    /// Makes some heads available: a few more than before, or any number.
    fn publish(&mut self, device: u64) {
        let available = Self::rings(device)[1];
        for slot in 0..8 {
            let head = match self.random.below(200) {
                0 => self.random.one_of(&[1, 2, 300]),
                _ => self.random.one_of(&[0u16, 3]),
            };
            let place = GuestAddress(available + 4 + 2 * slot);
            let _ = self.memory.write_obj(head, place);
        }
        let place = GuestAddress(available + 2);
        let index: u16 = self.memory.read_obj(place).unwrap_or(0);
        let more = match self.random.below(100) {
            0 => self.random.next() as u16,
            _ => self.random.below(4) as u16,
        };
        let _ = self.memory.write_obj(index.wrapping_add(more), place);
    }

    /// From reset to one answered request of `kind`, by a driver of good manners.
    fn prove(&self, device: u64, chain: &[(u64, u32, u16)]) {
        let rings = Self::rings(device);
        for ring in rings {
            let page = GuestAddress(ring);
            self.memory.write_slice(&[0; PAGE as usize], page).unwrap();
        }
        self.set_up(device, VERSION_1, rings, 8);
        assert_eq!(self.get(device, VIRTIO_MMIO_STATUS), DRIVER_OK);
        for (i, &(address, len, flags)) in (0u64..).zip(chain) {
            self.descriptor(rings[0], i, address, len, flags, i as u16 + 1);
        }
        let index = GuestAddress(rings[1] + 2);
        self.memory.write_obj(1u16, index).unwrap();
        self.set(device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        super::testing::wait_until("a request after the storm", || {
            let used: u16 = self.memory.read_obj(GuestAddress(rings[2] + 2)).unwrap();
            used == 1
        });
    }
}

/// Whatever the guest's CPUs do at the same time: no panic, no deadlock, nothing that goes on
/// after a reset, and afterwards each device works.
#[test]
fn a_crowd_of_wild_drivers_hurts_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let bytes: Vec<u8> = (0..SECTORS).flat_map(|s| [s as u8; 512]).collect();
    std::fs::write(&path, &bytes).unwrap();
    let memory = GuestMemoryMmap::<()>::from_ranges(&REGIONS).unwrap();
    let other = folder.path().join("other.img");
    std::fs::copy(&path, &other).unwrap();
    let drive = BlkConfig::new("vda", &path);
    let ring = BlkConfig {
        engine: Engine::IoUring,
        ..BlkConfig::new("vdb", &other)
    };
    let devices: [Box<dyn VirtioDevice>; 3] = [
        Box::new(BlkDevice::open(&drive).unwrap()),
        Box::new(RngDevice::new()),
        Box::new(BlkDevice::open(&ring).unwrap()),
    ];
    let count = devices.len() as u64;
    let mut bus = Bus::new();
    let mut transports = Vec::new();
    for (index, device) in (0..).zip(devices) {
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport =
            MmioTransport::new(device, memory.clone(), irq, RegisterPage::alone().unwrap())
                .unwrap();
        let transport = Arc::new(Mutex::new(transport));
        let start = DEVICES + index * PAGE;
        bus.insert("virtio", start, PAGE, transport.clone())
            .unwrap();
        transports.push(transport);
    }
    let seed = std::env::var("MOTE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("MOTE_SEED={seed}");
    let cpu = |number: u64| Cpu {
        random: Random((seed << 8 | number) + 1),
        bus: &bus,
        memory: &memory,
        devices: count,
    };
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for number in 0..CPUS {
            let mut cpu = cpu(number);
            scope.spawn(move || {
                while Instant::now() < end {
                    cpu.step();
                }
            });
        }
    });

    let cpu = cpu(CPUS);
    for device in 0..count {
        cpu.set(device, VIRTIO_MMIO_STATUS, 0);
    }
    // All that was in flight has ended with the reset: memory stays as it is.
    let fill = |value: u8| {
        for (start, len) in REGIONS {
            memory.write_slice(&vec![value; len], start).unwrap();
        }
    };
    fill(0x5a);
    std::thread::sleep(Duration::from_millis(5));
    for (start, len) in REGIONS {
        let mut now = vec![0; len];
        memory.read_slice(&mut now, start).unwrap();
        assert!(now.iter().all(|byte| *byte == 0x5a), "at {start:?}");
    }
    fill(0);
    let (header, data) = (0x1_0000, 0x2_0000);
    for device in [0, 2] {
        cpu.prove(
            device,
            &[
                (header, 16, NEXT),
                (data, 512, NEXT | WRITE),
                (data + 512, 1, WRITE),
            ],
        );
        assert_eq!(memory.read_obj::<u8>(GuestAddress(data + 512)).unwrap(), 0);
    }
    cpu.prove(1, &[(data, 64, WRITE)]);
    for image in [path, other] {
        assert_eq!(std::fs::metadata(image).unwrap().len(), SECTORS * 512);
    }
    drop(bus);
    for transport in transports {
        assert_eq!(Arc::strong_count(&transport), 1);
    }
}
