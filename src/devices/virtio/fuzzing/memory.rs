//! The guest's memory: on the heap, so that AddressSanitizer sees each access beside it.

use std::alloc::{Layout, alloc_zeroed};

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

/// The memory of this thread's guest, with nothing in it.
pub fn fresh() -> GuestMemoryMmap<()> {
    thread_local! {
        static MEMORY: GuestMemoryMmap<()> = make();
    }
    MEMORY.with(|memory| {
        for (start, size) in REGIONS {
            static ZEROS: [u8; 0x4_0000] = [0; 0x4_0000];
            memory
                .write_slice(&ZEROS[..size], GuestAddress(start))
                .unwrap();
        }
        memory.clone()
    })
}

fn make() -> GuestMemoryMmap<()> {
    let region = |(start, size)| {
        let layout = Layout::from_size_align(size, 4096).unwrap();
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: `size` is not 0, and the memory stays for as long as the process does.
        let region = unsafe { MmapRegion::build_raw(alloc_zeroed(layout), size, prot, flags) };
        GuestRegionMmap::new(region.unwrap(), GuestAddress(start)).unwrap()
    };
    GuestMemoryMmap::from_regions(REGIONS.map(region).into()).unwrap()
}
