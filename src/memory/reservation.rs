//! The mappings of the monitor that are the guest's RAM, and the memfd behind those that are shared.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use vm_memory::GuestAddress;

use super::hugetlb;
use crate::config::HugePages;

/// Huge pages need the host's and the guest's address to agree below this power of two.
pub(super) const HUGE_PAGE: usize = 2 << 20;

pub(super) const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub(super) const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// A memfd of `size` bytes whose size nobody can change.
pub(super) fn shared_file(size: u64, pages: Option<HugePages>) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let flags = flags | pages.map_or(0, hugetlb::memfd_flags);
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
pub(super) struct Reservation {
    /// Where the guest sees it.
    pub guest: GuestAddress,
    /// What was mapped, with the slack that alignment takes.
    mapped: (*mut u8, usize),
    /// The first usable byte, aligned to a huge page.
    pub start: *mut u8,
    /// How many bytes from there on.
    pub bytes: usize,
    /// How `start` is mapped.
    pub flags: i32,
}

// SAFETY: the pointers are only an address range; access goes through vm-memory.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Ordinary pages, huge ones where the host has them to give (`thp`).
    pub fn new(
        guest: GuestAddress,
        bytes: usize,
        file: Option<&File>,
        thp: bool,
    ) -> io::Result<Self> {
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
        let pages = if thp {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        // SAFETY: the range lies in the mapping made above.
        unsafe { libc::madvise(start.cast(), bytes, pages) };
        reservation.keep_out_of_dumps();
        Ok(reservation)
    }

    /// Pages of the host's pool, set aside: with no MAP_NORESERVE, mmap(2) fails where there are
    /// too few. They are aligned by themselves.
    pub fn of_pool(
        guest: GuestAddress,
        bytes: usize,
        file: Option<&File>,
        pages: HugePages,
    ) -> io::Result<Self> {
        let (sharing, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        let flags = sharing | hugetlb::map_flags(pages);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, PROTECTION, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let reservation = Reservation {
            guest,
            mapped: (base.cast(), bytes),
            start: base.cast(),
            bytes,
            flags,
        };
        reservation.keep_out_of_dumps();
        Ok(reservation)
    }

    /// A core dump of the monitor should not hold the guest's memory.
    fn keep_out_of_dumps(&self) {
        // SAFETY: the range lies in the mapping that this is.
        unsafe { libc::madvise(self.start.cast(), self.bytes, libc::MADV_DONTDUMP) };
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave; nobody uses it any more (see GuestRam).
        unsafe { libc::munmap(self.mapped.0.cast(), self.mapped.1) };
    }
}
