//! Gives guest memory back to the host: the pages cost nothing from then on, and read as zeros when
//! the guest touches them again.

use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vm_memory::{GuestRegionMmap, MemoryRegionAddress};

use super::hugetlb;

/// Gives back the `len` bytes at `start`, or what of them is RAM; how many bytes that was.
///
/// Only whole pages of the host are given back: what covers a part of one is left as it is. Within
/// a huge page, the host's kernel frees the memory when all of the huge page has been given back,
/// or when it needs memory; until then it keeps the part that isn't mapped any more. Of pages of the
/// host's pool only whole ones go; they are set aside no more, and may be gone when they are needed.
///
/// # Errors
///
/// The host refused: the memory is locked (mlock), or its memfd sealed against writing.
pub fn release(memory: &GuestMemoryMmap<()>, start: GuestAddress, len: u64) -> io::Result<u64> {
    let end = start.0.saturating_add(len);
    let mut released = 0;
    for region in memory.iter().filter(|region| is_ram(region)) {
        let page = hugetlb::page_size(region.flags()).unwrap_or_else(super::page_size);
        let (first, last) = (region.start_addr().0, region.start_addr().0 + region.len());
        // Both relative to the region, whose start is aligned for the host (layout::ram_ranges).
        let from = (start.0.clamp(first, last) - first).next_multiple_of(page);
        let to = (end.clamp(first, last) - first) / page * page;
        if from < to {
            release_in(region, from, to - from)?;
            released += to - from;
        }
    }
    Ok(released)
}

/// RAM is a memfd or anonymous. What else a guest has, a drive that it maps, is not memory that it
/// could give back: a copy-on-write one would lose what the guest has written.
fn is_ram(region: &GuestRegionMmap<()>) -> bool {
    region.file_offset().is_some() || region.flags() & libc::MAP_ANONYMOUS != 0
}

/// Gives back whole pages that lie in `region`, `offset` bytes from its start.
fn release_in(region: &GuestRegionMmap<()>, offset: u64, len: u64) -> io::Result<()> {
    // A memfd is memory also when nobody maps it, and others may map it too: a hole takes the
    // pages from all of them.
    if let Some(file) = region.file_offset() {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let start = file.start() + offset;
        let fd = file.file().as_raw_fd();
        // SAFETY: takes no pointer.
        return done(unsafe { libc::fallocate(fd, mode, start as i64, len as i64) });
    }
    let host = region
        .get_host_address(MemoryRegionAddress(offset))
        .map_err(io::Error::other)?;
    // SAFETY: the caller has seen that the range lies in the region's mapping. Its content is the
    // guest's, which nobody holds a reference to: access goes through volatile copies, or by the
    // kernel, both of which find zeros.
    done(unsafe { libc::madvise(host.cast(), len as usize, libc::MADV_DONTNEED) })
}

fn done(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DaxMode;
    use crate::memory::dax::DaxMapping;
    use crate::memory::{Backing, GuestRam};
    use std::sync::Arc;
    use vm_memory::Bytes;

    const PAGE: u64 = 4096;
    const HIGH: u64 = 4 << 30;
    const MIB: u64 = 1 << 20;

    fn ram(backing: Backing) -> GuestRam {
        GuestRam::new(
            &[(GuestAddress(0), 16 * MIB), (GuestAddress(HIGH), 4 * MIB)],
            backing,
        )
        .unwrap()
    }

    /// The pages of the RAM that are resident, by mincore(2).
    fn resident(ram: &GuestRam) -> usize {
        let count = |range: std::ops::Range<u64>| {
            let len = (range.end - range.start) as usize;
            let mut pages = vec![0u8; len / PAGE as usize];
            // SAFETY: a mapping of `len` bytes, and room for a byte per page.
            let result = unsafe { libc::mincore(range.start as *mut _, len, pages.as_mut_ptr()) };
            assert_eq!(result, 0);
            pages.iter().filter(|&&page| page & 1 != 0).count()
        };
        ram.host_ranges().into_iter().map(count).sum()
    }

    fn fill(ram: &GuestRam) {
        for (start, len) in [(0, 16 * MIB), (HIGH, 4 * MIB)] {
            let bytes = vec![0xab; len as usize];
            ram.memory()
                .write_slice(&bytes, GuestAddress(start))
                .unwrap();
        }
    }

    #[test]
    fn what_is_released_is_gone_and_reads_as_zero() {
        for backing in [Backing::Anonymous, Backing::Shared] {
            let ram = ram(backing);
            fill(&ram);
            assert_eq!(resident(&ram), 5120);
            let released = release(ram.memory(), GuestAddress(2 * MIB), 8 * MIB).unwrap();
            assert_eq!(released, 8 * MIB);
            assert_eq!(resident(&ram), 5120 - 2048, "{backing:?}");
            let byte = |at| ram.memory().read_obj::<u8>(GuestAddress(at)).unwrap();
            assert_eq!(
                (byte(2 * MIB - 1), byte(2 * MIB), byte(10 * MIB)),
                (0xab, 0, 0xab)
            );
            ram.memory().write_obj(7u8, GuestAddress(3 * MIB)).unwrap();
            assert_eq!((byte(3 * MIB), byte(3 * MIB + 1)), (7, 0));
        }
    }

    #[test]
    fn only_whole_pages_go() {
        let ram = ram(Backing::Anonymous);
        fill(&ram);
        let some = |start, len| release(ram.memory(), GuestAddress(start), len).unwrap();
        assert_eq!(some(PAGE + 1, PAGE), 0);
        assert_eq!(some(PAGE - 1, PAGE), 0);
        assert_eq!(some(PAGE - 1, 2 * PAGE), PAGE);
        assert_eq!(some(7, 0), 0);
    }

    #[test]
    fn what_is_no_ram_is_passed_over() {
        let ram = ram(Backing::Anonymous);
        fill(&ram);
        let some = |start, len| release(ram.memory(), GuestAddress(start), len).unwrap();
        assert_eq!(some(1 << 30, 1 << 30), 0);
        assert_eq!(some(u64::MAX - 10, u64::MAX), 0);
        assert_eq!(some(15 * MIB, 100 * MIB), MIB);
        assert_eq!(some(0, u64::MAX), 20 * MIB);
        assert_eq!(resident(&ram), 0);
    }

    #[test]
    fn a_drive_that_the_guest_maps_keeps_what_was_written() {
        let (ram, file) = (ram(Backing::Anonymous), tempfile::tempfile().unwrap());
        file.set_len(2 * MIB).unwrap();
        let path = std::path::Path::new("image");
        let drive = DaxMapping::new(&file, 2 * MIB, DaxMode::Private, path).unwrap();
        let at = GuestAddress(2 * HIGH);
        // SAFETY: dropped before the mapping.
        let region = unsafe { drive.region(at) }.unwrap();
        let memory = ram.memory().insert_region(Arc::new(region)).unwrap();
        memory.write_obj(7u8, at).unwrap();
        assert_eq!(release(&memory, at, MIB).unwrap(), 0);
        assert_eq!(memory.read_obj::<u8>(at).unwrap(), 7);
    }

    #[test]
    fn a_part_of_a_huge_page_can_be_released() {
        let ram = ram(Backing::Anonymous);
        fill(&ram);
        for page in (0..4096).step_by(2) {
            release(ram.memory(), GuestAddress(page * PAGE), PAGE).unwrap();
        }
        let byte = |at| ram.memory().read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!((byte(0), byte(PAGE), byte(2 * PAGE)), (0, 0xab, 0));
    }
}
