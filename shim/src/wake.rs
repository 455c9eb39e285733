//! Something that happens once, and that threads in poll(2) hear of.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An eventfd that stays ready once it was fired.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes numbers; the descriptor is new.
        unsafe {
            match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Wake(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    pub fn fire(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes that live through the call. That it fails, at 2^64 calls, changes nothing.
        unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
