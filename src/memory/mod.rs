//! Guest RAM: reserved from the host without being touched, aligned so that huge pages fit.
//!
//! It is anonymous memory of the monitor, or, where another process serves a device (vhost-user),
//! a memfd that both map ([`Backing`]); of ordinary pages or of the host's pool of huge ones
//! (`hugetlb`). [`prefault`]: all of it brought before the guest starts. `keep`: locked, or merged.
//! [`pages`]: memory of the monitor's that the guest reads. [`release`]: what the guest gives back.
//! [`places`]: where all of it is, for who looks from outside.
//! [`numa`]: which node of the host it is on.
//! [`dax`]: files of the host that the guest maps. [`over_ram`]: a file's pages as RAM, the kernel's.

pub mod dax;
mod error;
mod hugetlb;
mod keep;
pub mod numa;
pub mod over_ram;
pub mod pages;
pub mod places;
pub mod prefault;
pub mod release;
mod reservation;
pub(crate) mod sigbus;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use self::reservation::{PROTECTION, Reservation, shared_file};
use crate::config::{HugePages, Memory};

pub use error::MemoryError;

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
    /// RAM as it is by default: see [`GuestRam::with`].
    ///
    /// # Errors
    ///
    /// The host has not enough address space, or `ranges` overlap.
    pub fn new(ranges: &[(GuestAddress, u64)], backing: Backing) -> Result<Self, MemoryError> {
        Self::with(ranges, backing, &Memory::default())
    }

    /// Reserves RAM at the given guest ranges (start, bytes), kept as `how` says. Nothing is touched
    /// yet: a page costs memory when it is first written, and reads as zero until then. Pages of
    /// the host's pool are set aside now.
    ///
    /// # Errors
    ///
    /// The host has not enough of what is asked for, or `ranges` overlap.
    pub fn with(
        ranges: &[(GuestAddress, u64)],
        backing: Backing,
        how: &Memory,
    ) -> Result<Self, MemoryError> {
        let mut reservations = Vec::with_capacity(ranges.len());
        let mut regions = Vec::with_capacity(ranges.len());
        let mut rest = ranges.iter().map(|(_, size)| size).sum::<u64>();
        let total = rest;
        for &(start, size) in ranges {
            let layout = |e: &dyn std::fmt::Display| MemoryError::Layout(start.0, e.to_string());
            let bytes = usize::try_from(size).map_err(|e| layout(&e))?;
            let refused = |source| match how.hugepages {
                Some(pages) => hugetlb::refused(Path::new("/"), pages, rest, total, source),
                None => MemoryError::Reserve {
                    size: size >> 20,
                    source,
                },
            };
            let file = match backing {
                Backing::Anonymous => None,
                Backing::Shared => Some(shared_file(size, how.hugepages).map_err(refused)?),
            };
            let reservation = match how.hugepages {
                Some(pages) => Reservation::of_pool(start, bytes, file.as_ref(), pages),
                None => Reservation::new(start, bytes, file.as_ref(), how.thp),
            };
            let reservation = reservation.map_err(refused)?;
            rest -= size;
            if how.ksm {
                keep::merge(reservation.start, bytes)?;
            }
            if how.mlock {
                keep::lock(reservation.start, bytes)?;
            }
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
        if how.ksm {
            keep::warn_of_no_merging(Path::new("/"));
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

/// Refuses a node of the host whose pool has too few huge pages for `bytes` of guest memory.
///
/// # Errors
///
/// [`MemoryError::NodeHugePages`]
pub fn check_node(pages: HugePages, node: u16, bytes: u64) -> Result<(), MemoryError> {
    hugetlb::check_node(Path::new("/"), pages, node, bytes)
}

/// The size of the host's ordinary pages.
pub(crate) fn page_size() -> u64 {
    // SAFETY: takes no pointer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096).max(1)
}

#[cfg(test)]
mod tests {
    use super::reservation::HUGE_PAGE;
    use super::*;
    use crate::config::Size;
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
    fn a_pool_with_too_few_pages_refuses_before_anything_is_touched() {
        for backing in [Backing::Anonymous, Backing::Shared] {
            for pages in [HugePages::Size2M, HugePages::Size1G] {
                let how = Memory {
                    hugepages: Some(pages),
                    ..Memory::from(Size::gib(1024))
                };
                // More than any host has.
                let ranges = [
                    (GuestAddress(0), 3 << 30),
                    (GuestAddress(4 << 30), 1021 << 30),
                ];
                let error = GuestRam::with(&ranges, backing, &how).unwrap_err();
                let text = error.to_string();
                let option = format!("--memory hugepages={}: ", pages.size());
                assert!(text.starts_with(&option), "{text}");
                assert!(
                    text.contains("/sys/kernel/mm/hugepages/hugepages-"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn too_much_memory_is_an_error_that_says_what_to_do() {
        let error = GuestRam::new(&[(GuestAddress(0), 1 << 60)], Backing::Anonymous).unwrap_err();
        assert!(error.to_string().contains("--memory"), "{error}");
    }
}
