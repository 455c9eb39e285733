//! A file of the host's as memory of the guest: its page cache, with no copy.
//!
//! ```text
//!                  2 MiB                                              2 MiB
//!   host address   |  the file's pages, the last one's rest zeros  |  zeros  |
//! ```
//!
//! The guest is given whole units of [`UNIT`]. What is behind the file's last page is anonymous
//! memory: there the file's own mapping would be a fault (SIGBUS, mmap(2)).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};

use crate::config::DaxMode;
use crate::memory::sigbus::Named;

/// Linux takes persistent memory in these units only (memremap_compat_align,
/// include/linux/mmzone.h SUBSECTION_SIZE). It is also the size of a huge page.
pub const UNIT: u64 = 2 << 20;

/// A file, mapped so that the guest's address and the host's agree below [`UNIT`].
#[derive(Debug)]
pub struct DaxMapping {
    /// What is said of the file where a page of it has gone; before the mappings go.
    _named: Vec<Named>,
    _reserved: Mapped,
    start: u64,
    file_len: u64,
    len: u64,
    /// Where devices write, and how much: see [`DaxMapping::region`].
    for_devices: (u64, u64),
    _view: Option<Mapped>,
}

impl DaxMapping {
    /// Maps all `size` bytes of `file`, which must be open for writing if the guest's writes are
    /// to go there, and which has the name `path`. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// The host has no address space left, or the file's kind can't be mapped.
    pub fn new(file: &File, size: u64, mode: DaxMode, path: &Path) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let len = size.checked_next_multiple_of(UNIT).ok_or_else(too_large)?;
        let file_len = size.next_multiple_of(page);
        let bytes = len.checked_add(UNIT);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(too_large)?;
        // Behind the end of the file, only a guest whose writes are its own may write.
        let (rest, of_file, sharing) = match mode {
            DaxMode::ReadOnly => (libc::PROT_READ, libc::PROT_READ, libc::MAP_SHARED),
            DaxMode::Shared => (libc::PROT_READ, READ_WRITE, libc::MAP_SHARED),
            DaxMode::Private => (READ_WRITE, READ_WRITE, libc::MAP_PRIVATE),
        };
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let reserved = Mapped::new(bytes, rest, anonymous, -1)?;
        let start = (reserved.base as u64).next_multiple_of(UNIT);
        let (host, flags) = (start as *mut libc::c_void, sharing | libc::MAP_FIXED);
        // SAFETY: it replaces a part of the mapping made above, which nobody uses yet: `start` is
        // less than UNIT behind its base, and `file_len` at most `len`.
        let mapped = unsafe {
            let flags = flags | libc::MAP_NORESERVE;
            libc::mmap(host, file_len as usize, of_file, flags, file.as_raw_fd(), 0)
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A core dump of the monitor should not hold the guest's files.
        // SAFETY: the range lies in the mapping made above.
        unsafe { libc::madvise(host, len as usize, libc::MADV_DONTDUMP) };
        let view = match mode {
            DaxMode::ReadOnly => {
                let (bytes, private) = (file_len as usize, libc::MAP_PRIVATE);
                Some(Mapped::new(bytes, READ_WRITE, private, file.as_raw_fd())?)
            }
            DaxMode::Shared | DaxMode::Private => None,
        };
        let for_devices = match (&view, mode) {
            (Some(view), _) => (view.base as u64, file_len),
            (None, DaxMode::Private) => (start, len),
            (None, _) => (start, file_len),
        };
        let text = format!(
            "drive {}: the host has no page where one was used: the file, which a guest maps \
             (dax), has shrunk, or its disk is full or failing",
            path.display()
        );
        let mut named = vec![Named::new(start..start + file_len, &text)];
        if view.is_some() {
            named.push(Named::new(for_devices.0..for_devices.0 + file_len, &text));
        }
        Ok(DaxMapping {
            _named: named,
            _reserved: reserved,
            start,
            file_len,
            len,
            for_devices,
            _view: view,
        })
    }

    /// The mapping as the guest's other devices see it at `guest`: they can read and write
    /// buffers in it, as in RAM. What they write to a file that is read-only, neither the file nor
    /// the guest's processors ever see: it goes to copies of the pages.
    ///
    /// # Safety
    ///
    /// `self` must outlive the region and its clones.
    pub unsafe fn region(&self, guest: GuestAddress) -> Option<GuestRegionMmap<()>> {
        let (start, len) = self.for_devices;
        let bytes = usize::try_from(len).ok()?;
        // SAFETY: mapped for reading and writing, and for as long as `self` lives; the region
        // doesn't unmap it.
        let builder =
            unsafe { MmapRegionBuilder::new(bytes).with_raw_mmap_pointer(start as *mut u8) };
        let builder = builder.with_mmap_prot(READ_WRITE);
        GuestRegionMmap::new(
            builder.with_mmap_flags(libc::MAP_NORESERVE).build().ok()?,
            guest,
        )
    }

    /// Where the guest's range starts in this process: a multiple of [`UNIT`].
    pub fn host_address(&self) -> u64 {
        self.start
    }

    /// The size of the guest's range: a multiple of [`UNIT`].
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: an empty file can't be mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How much of it is the file, in whole pages.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The host addresses of the guest's range, and of what devices see.
    pub fn host_ranges(&self) -> [Range<u64>; 2] {
        let (start, len) = self.for_devices;
        [self.start..self.start + self.len, start..start + len]
    }
}

/// A mapping that goes with this value.
#[derive(Debug)]
struct Mapped {
    base: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone, which makes no reference to it.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(bytes: usize, protection: i32, flags: i32, file: RawFd) -> io::Result<Self> {
        let flags = flags | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) };
        match base {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            base => Ok(Mapped { base, bytes }),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave; whoever was given the address is gone (see
        // machine::dax).
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn at(mapping: &DaxMapping, offset: u64) -> *mut u8 {
        assert!(offset < mapping.len());
        (mapping.host_address() + offset) as *mut u8
    }

    fn read(mapping: &DaxMapping, offset: u64) -> u8 {
        // SAFETY: within the mapping.
        unsafe { at(mapping, offset).read_volatile() }
    }

    fn write(mapping: &DaxMapping, offset: u64, value: u8) {
        // SAFETY: within the mapping, in a mode that may write there.
        unsafe { at(mapping, offset).write_volatile(value) };
    }

    #[test]
    fn the_range_is_aligned_and_ends_in_zeros() {
        let size = (2 << 20) + 5000;
        for mode in [DaxMode::ReadOnly, DaxMode::Shared, DaxMode::Private] {
            let mapping =
                DaxMapping::new(&file(&vec![7; size]), size as u64, mode, Path::new("image"))
                    .unwrap();
            assert_eq!(mapping.host_address() % UNIT, 0);
            assert_eq!(
                (mapping.len(), mapping.file_len()),
                (4 << 20, (2 << 20) + 8192)
            );
            assert_eq!(mapping.host_ranges()[0].start, mapping.host_address());
            for (offset, value) in [
                (0, 7),
                (size as u64 - 1, 7),
                (size as u64, 0),
                ((2 << 20) + 8192, 0),
                ((4 << 20) - 1, 0),
            ] {
                assert_eq!(read(&mapping, offset), value, "{mode:?} {offset:#x}");
            }
        }
        let exact = DaxMapping::new(
            &file(&vec![7; 2 << 20]),
            2 << 20,
            DaxMode::Shared,
            Path::new("image"),
        )
        .unwrap();
        assert_eq!((exact.len(), exact.file_len()), (2 << 20, 2 << 20));
    }

    #[test]
    fn writes_are_in_the_file_or_thrown_away() {
        for (mode, expected) in [(DaxMode::Shared, 9), (DaxMode::Private, 7)] {
            let file = file(&[7; 8192]);
            let mapping = DaxMapping::new(&file, 8192, mode, Path::new("image")).unwrap();
            write(&mapping, 4096, 9);
            assert_eq!(read(&mapping, 4096), 9);
            drop(mapping);
            let mut bytes = [0; 1];
            file.read_exact_at(&mut bytes, 4096).unwrap();
            assert_eq!(bytes, [expected], "{mode:?}");
        }
        let private = DaxMapping::new(
            &file(&[7; 4096]),
            4096,
            DaxMode::Private,
            Path::new("image"),
        )
        .unwrap();
        write(&private, UNIT - 1, 1);
        assert_eq!(read(&private, UNIT - 1), 1);
    }

    #[test]
    fn devices_see_the_file_and_cannot_change_one_that_is_read_only() {
        for (mode, size, seen, kept) in [
            (DaxMode::ReadOnly, 8192, 7, 7),
            (DaxMode::Shared, 8192, 9, 9),
            (DaxMode::Private, UNIT, 9, 7),
        ] {
            let file = file(&[7; 8192]);
            let mapping = DaxMapping::new(&file, 8192, mode, Path::new("image")).unwrap();
            // SAFETY: dropped before the mapping.
            let region = unsafe { mapping.region(GuestAddress(0x1000)) }.unwrap();
            assert_eq!(
                (region.start_addr().0, region.len()),
                (0x1000, size),
                "{mode:?}"
            );
            let first = MemoryRegionAddress(0);
            assert_eq!(region.read_obj::<u8>(first).unwrap(), 7);
            region.write_obj(9u8, first).unwrap();
            assert_eq!(region.read_obj::<u8>(first).unwrap(), 9);
            assert_eq!(read(&mapping, 0), seen, "{mode:?}");
            let mut bytes = [0; 1];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, [kept], "{mode:?}");
        }
    }

    #[test]
    fn what_is_not_there_to_be_mapped_is_an_error() {
        let directory = File::open("/").unwrap();
        assert!(DaxMapping::new(&directory, 4096, DaxMode::ReadOnly, Path::new("image")).is_err());
        for size in [1 << 60, u64::MAX] {
            assert!(
                DaxMapping::new(
                    &file(&[7; 4096]),
                    size,
                    DaxMode::ReadOnly,
                    Path::new("image")
                )
                .is_err()
            );
        }
    }
}
