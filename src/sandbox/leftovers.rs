//! What a process was started with and needs no more: descriptors, and its environment.

use std::ffi::{CStr, c_char, c_uint};
use std::io;
use std::os::fd::RawFd;

/// Closes all descriptors but the standard ones and these.
///
/// # Errors
///
/// The host has no close_range(2): before Linux 5.9.
pub fn close_all_but(mut kept: Vec<RawFd>) -> io::Result<()> {
    kept.sort_unstable();
    let mut next = libc::STDERR_FILENO + 1;
    for fd in kept.into_iter().filter(|fd| *fd > libc::STDERR_FILENO) {
        close_range(next, fd - 1)?;
        next = next.max(fd.saturating_add(1));
    }
    close_range(next, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    let (first, last) = (first as c_uint, last as c_uint);
    // SAFETY: takes no pointer. Whoever calls it means descriptors that nothing here uses any more.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0 as c_uint) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Clears the environment, also where /proc shows it.
///
/// # Safety
///
/// No other thread may read it any more.
pub unsafe fn forget_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut c_char;
    }
    // SAFETY: the caller's promise; the list ends with a null pointer, and each string, which is this
    // process's own memory, with a NUL.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let length = CStr::from_ptr(*entry).count_bytes();
            std::ptr::write_bytes(*entry, 0, length);
            entry = entry.add(1);
        }
        libc::clearenv();
    }
}
