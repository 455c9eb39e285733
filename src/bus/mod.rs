//! Finds the device behind an MMIO or port address.
//!
//! One [`Bus`] for memory-mapped I/O, one for port I/O. A bus is filled while the machine is
//! built and never changes afterwards, so that vCPU threads look devices up without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a device on a [`Bus`] can do. `offset` counts from the start of the device's range.
///
/// The bus only passes on accesses that lie within the device's range as a whole; their width
/// is the guest's choice.
pub trait BusDevice: Send {
    /// Fills all of `data` with what the guest is to read.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest wrote.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device can't be placed on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty.
    #[error("device {name} at {start:#x} has a range of zero bytes")]
    Empty {
        /// The device's name.
        name: String,
        /// The first address asked for.
        start: u64,
    },
    /// The range goes past the end of the address space.
    #[error("device {name}: {len:#x} bytes at {start:#x} go past the end of the address space")]
    Wraps {
        /// The device's name.
        name: String,
        /// The first address asked for.
        start: u64,
        /// The number of bytes asked for.
        len: u64,
    },
    /// Another device is there.
    #[error("device {name}: {len:#x} bytes at {start:#x} overlap with device {other}")]
    Overlap {
        /// The device's name.
        name: String,
        /// The first address asked for.
        start: u64,
        /// The number of bytes asked for.
        len: u64,
        /// The name of the device that has the place.
        other: String,
    },
}

struct Entry {
    name: String,
    start: u64,
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
    reads: AtomicU64,
    writes: AtomicU64,
}

/// The accesses that one device has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<'a> {
    /// The device's name.
    pub name: &'a str,
    /// Reads by the guest.
    pub reads: u64,
    /// Writes by the guest.
    pub writes: u64,
}

/// Devices by address, sorted.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
    unclaimed_reads: AtomicU64,
    unclaimed_writes: AtomicU64,
}

impl Bus {
    /// A bus with no devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Places `device` at the `len` bytes from `start`.
    ///
    /// # Errors
    ///
    /// See [`BusError`].
    pub fn insert(
        &mut self,
        name: &str,
        start: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let name = name.to_owned();
        if len == 0 {
            return Err(BusError::Empty { name, start });
        }
        // The last address, not the end: a device may reach up to the very last byte.
        let Some(last) = start.checked_add(len - 1) else {
            return Err(BusError::Wraps { name, start, len });
        };
        let at = self.entries.partition_point(|e| e.start <= start);
        let before = at.checked_sub(1).map(|i| &self.entries[i]);
        let overlapped = before
            .filter(|e| start - e.start < e.len)
            .or(self.entries.get(at).filter(|e| e.start <= last));
        if let Some(other) = overlapped {
            return Err(BusError::Overlap {
                name,
                start,
                len,
                other: other.name.clone(),
            });
        }
        self.entries.insert(
            at,
            Entry {
                name,
                start,
                len,
                device,
                reads: AtomicU64::new(0),
                writes: AtomicU64::new(0),
            },
        );
        Ok(())
    }

    /// Reads from whichever device has all of the addresses; where there's none, fills `data`
    /// with ones, as an empty bus does, and says false.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        let Some((entry, offset)) = self.find(addr, data.len()) else {
            self.unclaimed_reads.fetch_add(1, Ordering::Relaxed);
            data.fill(0xff);
            return false;
        };
        entry.reads.fetch_add(1, Ordering::Relaxed);
        let mut device = entry.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.read(offset, data);
        true
    }

    /// Writes to whichever device has all of the addresses; false where there's none.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        let Some((entry, offset)) = self.find(addr, data.len()) else {
            self.unclaimed_writes.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        entry.writes.fetch_add(1, Ordering::Relaxed);
        let mut device = entry.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.write(offset, data);
        true
    }

    /// How often each device was read and written, in the order of their addresses.
    pub fn counts(&self) -> impl Iterator<Item = Count<'_>> {
        self.entries.iter().map(|e| Count {
            name: &e.name,
            reads: e.reads.load(Ordering::Relaxed),
            writes: e.writes.load(Ordering::Relaxed),
        })
    }

    /// How often nobody was at the address read or written.
    pub fn unclaimed(&self) -> Count<'static> {
        Count {
            name: "unclaimed",
            reads: self.unclaimed_reads.load(Ordering::Relaxed),
            writes: self.unclaimed_writes.load(Ordering::Relaxed),
        }
    }

    fn find(&self, addr: u64, len: usize) -> Option<(&Entry, u64)> {
        let at = self.entries.partition_point(|e| e.start <= addr);
        let entry = &self.entries[at.checked_sub(1)?];
        let offset = addr - entry.start;
        let room = entry.len.checked_sub(offset)?;
        (room > 0 && len as u64 <= room).then_some((entry, offset))
    }
}

/// A machine's buses.
#[derive(Default)]
pub struct Buses {
    /// Devices by memory address.
    pub mmio: Bus,
    /// Devices by port number, where the processor has ports.
    pub ports: Bus,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory addresses.
    Memory,
    /// Port numbers.
    Ports,
}

impl Buses {
    /// The bus of a space.
    pub fn of(&mut self, space: Space) -> &mut Bus {
        match space {
            Space::Memory => &mut self.mmio,
            Space::Ports => &mut self.ports,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn device() -> Arc<Mutex<Recorder>> {
        Arc::default()
    }

    #[test]
    fn finds_the_device_at_an_address() {
        let mut bus = Bus::new();
        let (a, b) = (device(), device());
        bus.insert("b", 0x2000, 0x100, b.clone()).unwrap();
        bus.insert("a", 0x1000, 0x1000, a.clone()).unwrap();
        assert!(bus.write(0x1ffc, &[1, 2, 3, 4]));
        assert!(bus.write(0x2000, &[5]));
        assert_eq!(a.lock().unwrap().0, [(0xffc, vec![1, 2, 3, 4])]);
        assert_eq!(b.lock().unwrap().0, [(0, vec![5])]);
        let mut data = [0; 2];
        assert!(bus.read(0x20fe, &mut data));
        assert_eq!(data, [0xfe, 0xfe]);
        let counts: Vec<_> = bus.counts().map(|c| (c.name, c.reads, c.writes)).collect();
        assert_eq!(counts, [("a", 0, 1), ("b", 1, 1)]);
    }

    #[test]
    fn nobody_there_reads_as_ones() {
        let mut bus = Bus::new();
        bus.insert("a", 0x1000, 0x10, device()).unwrap();
        // Before, after, across either end, and across the end of the address space.
        for (addr, len) in [
            (0xfff, 1),
            (0x1010, 1),
            (0x100e, 4),
            (0xffe, 4),
            (u64::MAX, 8),
        ] {
            let mut data = vec![0; len];
            assert!(!bus.read(addr, &mut data), "{addr:#x}");
            assert!(data.iter().all(|b| *b == 0xff));
            assert!(!bus.write(addr, &data));
        }
        assert!(!Bus::new().read(0, &mut [0]));
        let unclaimed = bus.unclaimed();
        assert_eq!((unclaimed.reads, unclaimed.writes), (5, 5));
    }

    #[test]
    fn refuses_bad_ranges() {
        let mut bus = Bus::new();
        bus.insert("a", 0x1000, 0x100, device()).unwrap();
        bus.insert("top", u64::MAX - 0xf, 0x10, device()).unwrap();
        assert!(bus.read(u64::MAX, &mut [0]));
        for (start, len) in [
            (0x1000, 1),
            (0xfff, 2),
            (0x10ff, 1),
            (0, u64::MAX),
            (0x1080, 0x1000),
        ] {
            let error = bus.insert("x", start, len, device()).unwrap_err();
            assert!(
                matches!(error, BusError::Overlap { ref other, .. } if other == "a"),
                "{error}"
            );
        }
        assert!(matches!(
            bus.insert("x", 5, 0, device()),
            Err(BusError::Empty { .. })
        ));
        assert!(matches!(
            bus.insert("x", 2, u64::MAX, device()),
            Err(BusError::Wraps { .. })
        ));
        bus.insert("between", 0x1100, 0x10, device()).unwrap();
    }
}
