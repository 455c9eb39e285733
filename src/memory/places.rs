//! Where a process keeps its VMs' memory, in a table that another process can find and read.
//!
//! `mote mem PID` has /proc/PID/smaps, which knows no guests: their RAM is some anonymous memory among
//! others, and the guest's kernel is a part of it. So each VM writes the addresses of its parts into a table
//! at a place that can be found in the program's file, by the name of a section ([`SECTION`]). That is plain
//! stores into memory: no system call on the way to the first KVM_RUN. Reading it is
//! [`crate::footprint`]'s part.
//!
//! Any number of VMs may write at the same time; the reader may come at any moment.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The ELF section that holds the [`Header`], in every program with this library in it.
pub const SECTION: &str = ".mote.places";
/// What the header starts with.
pub const MAGIC: [u8; 8] = *b"motemem\0";
/// Raised when the header or the table changes.
pub const VERSION: u32 = 1;
/// How many ranges all VMs of a process may have together. A VM has 4, and 2 more for each mapped drive.
pub const CAPACITY: usize = 1024;

/// What is at a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// RAM of the guest.
    Ram = 1,
    /// The part of it where the guest's kernel has its code and read-only data.
    KernelText = 2,
    /// A file that the guest maps, and what fills up its last unit.
    MappedDrive = 3,
    /// Pages of device registers that the guest reads.
    Registers = 4,
    /// A byte of the stack of a thread: the whole mapping around it is that stack.
    Stack = 5,
}

impl Kind {
    /// The kind of a number in the table.
    pub fn from_number(number: u64) -> Option<Self> {
        use Kind::*;
        let kinds = [Ram, KernelText, MappedDrive, Registers, Stack];
        kinds.into_iter().find(|kind| *kind as u64 == number)
    }
}

/// What the section holds. 32 bytes, in the machine's own byte order.
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: u32,
    capacity: u32,
    /// Where the table is: a relocation puts the address here.
    table: &'static [Entry; CAPACITY],
    /// How many ranges found no room.
    lost: AtomicU64,
}

/// One range, in the table: 32 bytes.
#[repr(C)]
pub struct Entry {
    /// 0: free; [`CLAIMED`]: being written; else the kind and, in the upper half, the VM's number.
    tag: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    /// For a stack, the number of its vCPU.
    detail: AtomicU64,
}

/// The size of an entry in the table.
pub const ENTRY_SIZE: usize = size_of::<Entry>();
const CLAIMED: u64 = u32::MAX as u64;

static TABLE: [Entry; CAPACITY] = [const { Entry::free() }; CAPACITY];

// SAFETY: nothing else has this section's name, and nothing is asked of its contents but by name.
#[unsafe(link_section = ".mote.places")]
#[used]
static HEADER: Header = Header {
    magic: MAGIC,
    version: VERSION,
    capacity: CAPACITY as u32,
    table: &TABLE,
    lost: AtomicU64::new(0),
};

/// A range as it was read from a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is there.
    pub kind: Kind,
    /// Which VM's it is: a number that no two VMs of the process have.
    pub vm: u32,
    /// The host addresses.
    pub range: Range<u64>,
    /// For a stack, the number of its vCPU.
    pub detail: u64,
}

/// Ranges that are in the table as long as this lives.
#[derive(Debug)]
pub struct Told {
    vm: u32,
    entries: Vec<&'static Entry>,
}

impl Told {
    /// Nothing, of a new VM.
    pub fn of_a_vm() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Told {
            vm: NEXT.fetch_add(1, Ordering::Relaxed),
            entries: Vec::with_capacity(4),
        }
    }

    /// Tells of one range more. Where the table is full, it is counted as lost.
    pub fn add(&mut self, kind: Kind, range: Range<u64>) {
        if !range.is_empty() {
            self.entries.extend(claim(place(kind, self.vm, range, 0)));
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.entries.drain(..).for_each(Entry::clear);
    }
}

/// Tells of the stack of the calling thread, which runs a vCPU, as long as what it returns lives.
pub fn stack_of_vcpu(index: u8) -> Told {
    let here = 0u8;
    let address = (&raw const here) as u64;
    let place = place(Kind::Stack, 0, address..address + 1, index.into());
    Told {
        vm: 0,
        entries: claim(place).into_iter().collect(),
    }
}

/// What is in this process's own table.
pub fn of_this_process() -> Vec<Place> {
    let read = |entry: &Entry| {
        let tag = entry.tag.load(Ordering::Acquire);
        let [start, end, detail] =
            [&entry.start, &entry.end, &entry.detail].map(|v| v.load(Ordering::Relaxed));
        decode([tag, start, end, detail])
    };
    HEADER.table.iter().filter_map(read).collect()
}

/// A range from the four words of its entry, if there is one. The words may be another process's, so
/// anything may be in them.
pub fn decode([tag, start, end, detail]: [u64; 4]) -> Option<Place> {
    let kind = Kind::from_number(tag & u64::from(u32::MAX))?;
    let vm = (tag >> 32) as u32;
    (start < end).then_some(Place {
        kind,
        vm,
        range: start..end,
        detail,
    })
}

fn place(kind: Kind, vm: u32, range: Range<u64>, detail: u64) -> Place {
    Place {
        kind,
        vm,
        range,
        detail,
    }
}

/// Writes a range into the first free entry.
fn claim(place: Place) -> Option<&'static Entry> {
    let (free, mine) = (Ordering::Acquire, Ordering::Relaxed);
    let claimed = |entry: &&Entry| {
        entry.tag.load(mine) == 0 && entry.tag.compare_exchange(0, CLAIMED, free, mine).is_ok()
    };
    let Some(entry) = HEADER.table.iter().find(claimed) else {
        HEADER.lost.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    entry.start.store(place.range.start, Ordering::Relaxed);
    entry.end.store(place.range.end, Ordering::Relaxed);
    entry.detail.store(place.detail, Ordering::Relaxed);
    let tag = place.kind as u64 | u64::from(place.vm) << 32;
    entry.tag.store(tag, Ordering::Release);
    Some(entry)
}

impl Entry {
    const fn free() -> Self {
        Entry {
            tag: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            detail: AtomicU64::new(0),
        }
    }

    fn clear(&self) {
        self.tag.store(0, Ordering::Release);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.start.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_in_the_table_until_it_is_dropped() {
        let mut told = Told::of_a_vm();
        told.add(Kind::Ram, 0x10_0000..0x20_0000);
        told.add(Kind::KernelText, 0x5000..0x5000); // empty: nothing to tell
        let found = |vm| {
            let places = of_this_process().into_iter();
            places.filter(|place| place.vm == vm).collect::<Vec<_>>()
        };
        let vm = told.vm;
        let expected = place(Kind::Ram, vm, 0x10_0000..0x20_0000, 0);
        assert_eq!(found(vm), [expected]);
        assert_ne!(Told::of_a_vm().vm, vm);
        drop(told);
        assert_eq!(found(vm), []);
    }

    #[test]
    fn a_vcpu_tells_its_stack() {
        let here = 0u8;
        let stack = stack_of_vcpu(77);
        let places = of_this_process();
        let mine = places.iter().find(|place| place.detail == 77).unwrap();
        assert_eq!(mine.kind, Kind::Stack);
        let address = (&raw const here) as u64;
        assert!(mine.range.start.abs_diff(address) < 1 << 16);
        drop(stack);
    }

    #[test]
    fn words_that_make_no_sense_are_no_range() {
        for words in [
            [0, 1, 2, 0],
            [CLAIMED, 1, 2, 0],
            [99, 1, 2, 0],
            [1, 2, 2, 0],
            [1, 3, 2, 0],
        ] {
            assert_eq!(decode(words), None, "{words:?}");
        }
        let place = decode([2 | 7 << 32, 1, u64::MAX, 0]).unwrap();
        assert_eq!((place.kind, place.vm), (Kind::KernelText, 7));
    }
}
