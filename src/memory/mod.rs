//! Guest RAM: reserved from the host without being touched, aligned so that huge pages fit.
//!
//! It is anonymous memory of the monitor, or, where another process serves a device (vhost-user),
//! a memfd that both map ([`Backing`]). [`pages`]: memory of the monitor's that the guest reads.
//! [`release`]: what the guest gives back.
//! [`dax`]: files of the host that the guest maps.

pub mod dax;
pub mod pages;
pub mod release;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Huge pages need the host's and the guest's address to agree below this power of two.
const HUGE_PAGE: usize = 2 << 20;

/// Where guest RAM comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Memory of this process alone: the quickest to have.
    #[default]
    Anonymous,
    /// A memfd for each range, which can be given to other processes. Its size is sealed, so that
    /// none of them can take memory away under the others.
    Shared,
}

/// Why guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has not enough address space or memory.
    #[error(
        "reserving {size} MiB of guest memory: {source}; give less --memory, or raise the limit \
         (ulimit -v, vm.overcommit_memory)"
    )]
    Reserve {
        /// What was asked for, in MiB.
        size: u64,
        /// What the system call said.
        source: io::Error,
    },
    /// The ranges overlap or are empty: a defect of the layout.
    #[error("guest memory at {0:#x} can't be laid out: {1}")]
    Layout(u64, String),
}

/// The guest's RAM, for as long as this value lives.
///
/// [`GuestRam::memory`] hands out views of it; whoever holds one (devices, vCPUs) should be gone
/// before the `GuestRam` is dropped, as otherwise the memory is never given back.
/// [`crate::machine::Vm`] keeps to that by the order of its fields.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap<()>,
    reservations: Vec<Reservation>,
}

impl GuestRam {
    /// Reserves RAM at the given guest ranges (start, bytes). Nothing is touched yet: a page
    /// costs memory when it is first written, and reads as zero until then.
    ///
    /// # Errors
    ///
    /// The host has not enough address space, or `ranges` overlap.
    pub fn new(ranges: &[(GuestAddress, u64)], backing: Backing) -> Result<Self, MemoryError> {
        let mut reservations = Vec::with_capacity(ranges.len());
        let mut regions = Vec::with_capacity(ranges.len());
        for &(start, size) in ranges {
            let layout = |e: &dyn std::fmt::Display| MemoryError::Layout(start.0, e.to_string());
            let bytes = usize::try_from(size).map_err(|e| layout(&e))?;
            let refused = |source| MemoryError::Reserve {
                size: size >> 20,
                source,
            };
            let file = match backing {
                Backing::Anonymous => None,
                Backing::Shared => Some(shared_file(size).map_err(refused)?),
            };
            let reservation = Reservation::new(start, bytes, file.as_ref()).map_err(refused)?;
            let flags = reservation.flags;
            // SAFETY: the reservation maps `bytes` at this address, and outlives the region (see
            // Drop).
            let builder =
                unsafe { MmapRegionBuilder::new(bytes).with_raw_mmap_pointer(reservation.start) };
            let mut builder = builder.with_mmap_prot(PROTECTION).with_mmap_flags(flags);
            if let Some(file) = file {
                builder = builder.with_file_offset(FileOffset::new(file, 0));
            }
            let mapping = builder.build().map_err(|e| layout(&e))?;
            let region = GuestRegionMmap::new(mapping, start).ok_or_else(|| layout(&"overflow"))?;
            regions.push(region);
            reservations.push(reservation);
        }
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|e| MemoryError::Layout(ranges.first().map_or(0, |r| r.0.0), e.to_string()))?;
        Ok(GuestRam {
            memory,
            reservations,
        })
    }

    /// The guest's RAM, as devices and loaders see it. Cloning it is cheap.
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    /// The host addresses of the guest's RAM.
    pub fn host_ranges(&self) -> Vec<Range<u64>> {
        let range = |r: &Reservation| r.start as u64..r.start as u64 + r.bytes as u64;
        self.reservations.iter().map(range).collect()
    }
}

impl Drop for GuestRam {
    /// Unmaps what nobody can reach any more. The rest leaks: less harm than a view into nothing.
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        for reservation in self.reservations.drain(..) {
            let removed = memory.remove_region(reservation.guest, reservation.bytes as u64);
            let last = removed.ok().and_then(|(rest, region)| {
                memory = rest;
                Arc::into_inner(region)
            });
            if last.is_none() {
                log::error!("guest memory is still in use after its end, and stays mapped");
                std::mem::forget(reservation);
            }
        }
    }
}

const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// A memfd of `size` bytes whose size nobody can change.
fn shared_file(size: u64) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a string with its NUL.
    let fd = unsafe { libc::memfd_create(c"mote-guest".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes no pointer.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// A mapping that is unmapped when dropped.
#[derive(Debug)]
struct Reservation {
    /// Where the guest sees it.
    guest: GuestAddress,
    /// What was mapped, with the slack that alignment takes.
    mapped: (*mut u8, usize),
    /// The first usable byte, aligned to a huge page.
    start: *mut u8,
    bytes: usize,
    /// How `start` is mapped.
    flags: i32,
}

// SAFETY: the pointers are only an address range; access goes through vm-memory.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    fn new(guest: GuestAddress, bytes: usize, file: Option<&File>) -> io::Result<Self> {
        // Slack, so that an aligned start exists wherever the kernel puts the mapping. It is
        // never touched, and so costs no memory.
        let size = bytes
            .checked_add(HUGE_PAGE)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, PROTECTION, ANONYMOUS, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = base.cast::<u8>();
        let offset = base.align_offset(HUGE_PAGE);
        // SAFETY: `offset` is below HUGE_PAGE, and the mapping is that much longer than `bytes`.
        let start = unsafe { base.add(offset) };
        let reservation = Reservation {
            guest,
            mapped: (base, size),
            start,
            bytes,
            flags: if file.is_some() { SHARED } else { ANONYMOUS },
        };
        if let Some(file) = file {
            // SAFETY: it replaces a part of the mapping made above, which nobody uses yet.
            let mapped = unsafe {
                let flags = SHARED | libc::MAP_FIXED;
                libc::mmap(start.cast(), bytes, PROTECTION, flags, file.as_raw_fd(), 0)
            };
            if mapped == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        // Huge pages make loading the kernel some 50 times fewer faults. Where the host forbids
        // them (transparent_hugepage=never) small pages do, so the result is not looked at.
        // SAFETY: the range lies in the mapping made above.
        unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
        // A core dump of the monitor should not hold the guest's memory.
        // SAFETY: as above.
        unsafe { libc::madvise(start.cast(), bytes, libc::MADV_DONTDUMP) };
        Ok(reservation)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave; nobody uses it any more (see GuestRam).
        unsafe { libc::munmap(self.mapped.0.cast(), self.mapped.1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn ram_is_zero_aligned_and_where_it_was_asked_for() {
        let ranges = [
            (GuestAddress(0), 64 << 20),
            (GuestAddress(4 << 30), 32 << 20),
        ];
        let ram = GuestRam::new(&ranges, Backing::Anonymous).unwrap();
        let host = ram
            .memory()
            .get_host_address(GuestAddress(4 << 30))
            .unwrap();
        assert_eq!(host as usize % HUGE_PAGE, 0);
        let value: u64 = ram.memory().read_obj(GuestAddress(0x1000)).unwrap();
        assert_eq!(value, 0);
        ram.memory().write_obj(7u64, GuestAddress(4 << 30)).unwrap();
        assert!(ram.memory().write_obj(7u64, GuestAddress(1 << 30)).is_err());
    }

    #[test]
    fn it_is_unmapped_at_its_end_unless_someone_still_reaches_it() {
        let mapped = |address: u64| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let range = |line: &str| {
                let (start, end) = line.split(' ').next()?.split_once('-')?;
                let number = |text| u64::from_str_radix(text, 16).ok();
                Some(number(start)?..number(end)?)
            };
            let mut ranges = maps.lines().filter_map(range);
            ranges.any(|range| range.contains(&address))
        };
        // Large enough that no other test's mapping is put there.
        let ranges = [(GuestAddress(0), 2 << 30), (GuestAddress(4 << 30), 2 << 30)];
        let start = {
            let ram = GuestRam::new(&ranges, Backing::Anonymous).unwrap();
            assert!(ram.host_ranges().iter().all(|r| mapped(r.start)));
            ram.host_ranges()
        };
        assert!(!mapped(start[0].start + (1 << 30)) && !mapped(start[1].start + (1 << 30)));
        let view = GuestRam::new(&[(GuestAddress(0), 1 << 20)], Backing::Anonymous)
            .unwrap()
            .memory()
            .clone();
        view.write_obj(7u64, GuestAddress(0x1000)).unwrap();
        assert_eq!(view.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 7);
    }

    #[test]
    fn shared_memory_is_seen_through_its_file_and_keeps_its_size() {
        use std::os::unix::fs::FileExt;
        use vm_memory::GuestMemoryRegion;
        let ram = GuestRam::new(&[(GuestAddress(0x1000), 8 << 20)], Backing::Shared).unwrap();
        ram.memory()
            .write_obj(0x0102_0304u32, GuestAddress(0x3000))
            .unwrap();
        let region = ram.memory().iter().next().unwrap();
        let file = region.file_offset().unwrap();
        let mut bytes = [0; 4];
        file.file().read_exact_at(&mut bytes, 0x2000).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x0102_0304);
        assert!(file.file().set_len(4096).is_err());
        assert_eq!(ram.host_ranges()[0].start % HUGE_PAGE as u64, 0);
    }

    #[test]
    fn too_much_memory_is_an_error_that_says_what_to_do() {
        let error = GuestRam::new(&[(GuestAddress(0), 1 << 60)], Backing::Anonymous).unwrap_err();
        assert!(error.to_string().contains("--memory"), "{error}");
    }
}
