//! poll(2) over any number of descriptors, with a moment at which to go on in any case.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

/// The descriptor, or one that [`poll`] passes over.
pub fn raw(fd: Option<&impl AsRawFd>) -> RawFd {
    fd.map_or(-1, AsRawFd::as_raw_fd)
}

/// What is waited for at a descriptor.
pub fn polled(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Waits until one is ready, at most until `deadline`. Negative descriptors are passed over.
pub fn poll(fds: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up, so as not to wake before it is time.
        let left = left.map_or(-1, |left| left.as_millis() as i32 + 1);
        // SAFETY: the slice and its length.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, left) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
