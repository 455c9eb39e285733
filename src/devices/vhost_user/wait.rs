//! Waiting for descriptors.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// Waits until one of the descriptors is readable or hung up, or the time is over; negative ones
/// never are. Which ones are ready.
///
/// # Errors
///
/// As poll(2).
pub fn readable<const N: usize>(fds: [RawFd; N], time: Option<Duration>) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let end = time.map(|time| Instant::now() + time);
    loop {
        let left = match end {
            // Up to the next millisecond, so that the time is over when poll(2) says so.
            Some(end) => (end.saturating_duration_since(Instant::now()))
                .as_micros()
                .div_ceil(1000)
                .min(i32::MAX as u128) as i32,
            None => -1,
        };
        // SAFETY: the array and its length.
        if unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, left) } >= 0 {
            return Ok(polled.map(|p| p.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
