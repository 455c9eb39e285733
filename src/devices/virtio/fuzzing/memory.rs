//! The guest's memory: on the heap, so that AddressSanitizer sees each access beside it.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Two regions that touch each other, and one after a gap: start and size.
const REGIONS: [(u64, usize); 3] = [(0, 0x4_0000), (0x4_0000, 0x1_0000), (1 << 32, 0x1_0000)];
/// Where they begin and end.
pub const EDGES: [u64; 5] = [0, 0x4_0000, 0x5_0000, 1 << 32, (1 << 32) + 0x1_0000];

/// Where a driver has its data, in slots, and its indirect tables; its rings are below.
pub const DATA: u64 = 0x2_0000;
pub const SLOT: u64 = 0x1000;
pub const SLOTS: u64 = 16;
pub const TABLES: u64 = 0x3_0000;

/// The memory of a thread's guests, one after the other.
struct Memory {
    guest: GuestMemoryMmap<()>,
    _heap: [Heap; REGIONS.len()],
}

/// Page-aligned memory, freed at the end of its thread.
struct Heap(*mut u8, Layout);

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; guests end before their thread does.
        unsafe { dealloc(self.0, self.1) };
    }
}

/// The memory of this thread's guest, with nothing in it.
pub fn fresh() -> GuestMemoryMmap<()> {
    thread_local! {
        static MEMORY: Memory = make();
    }
    MEMORY.with(|memory| {
        for (start, size) in REGIONS {
            static ZEROS: [u8; 0x4_0000] = [0; 0x4_0000];
            let result = (memory.guest).write_slice(&ZEROS[..size], GuestAddress(start));
            result.unwrap();
        }
        memory.guest.clone()
    })
}

fn make() -> Memory {
    let heap = REGIONS.map(|(_, size)| {
        let layout = Layout::from_size_align(size, 4096).unwrap();
        // SAFETY: `size` is not 0.
        Heap(unsafe { alloc_zeroed(layout) }, layout)
    });
    let regions = REGIONS.iter().zip(&heap).map(|((start, size), heap)| {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: it is as large, and stays for as long as the thread does.
        let region = unsafe { MmapRegion::build_raw(heap.0, *size, prot, flags) };
        GuestRegionMmap::new(region.unwrap(), GuestAddress(*start)).unwrap()
    });
    Memory {
        guest: GuestMemoryMmap::from_regions(regions.collect()).unwrap(),
        _heap: heap,
    }
}
