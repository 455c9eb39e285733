//! Copying between containerd's pipes and the guest's connections, so that neither side can hold it up for ever.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use log::debug;

use crate::wake::Wake;

/// Copied at a time.
const ROOM: usize = 64 << 10;
/// For the guest to end the outputs of a process that has ended. Who reads them isn't hurried.
const AFTER_THE_END: Duration = match cfg!(test) {
    false => Duration::from_secs(10),
    true => Duration::from_millis(300),
};
/// What may come after the end: more than pipes and buffers on the way hold.
const BYTES_AFTER_THE_END: usize = 16 << 20;

/// Waits for any of these, and tells which are ready.
fn poll<const N: usize>(of: [(RawFd, libc::c_short); N]) -> io::Result<[libc::c_short; N]> {
    poll_within(of, None)
}

/// None is ready where it takes longer.
fn poll_within<const N: usize>(
    of: [(RawFd, libc::c_short); N],
    patience: Option<Duration>,
) -> io::Result<[libc::c_short; N]> {
    let milliseconds = patience.map(|patience| i32::try_from(patience.as_millis()));
    let milliseconds = milliseconds.map_or(-1, |time| time.unwrap_or(i32::MAX));
    let mut entries = of.map(|(fd, events)| libc::pollfd {
        fd,
        events,
        revents: 0,
    });
    loop {
        // SAFETY: the entries and their number.
        if unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, milliseconds) } >= 0 {
            return Ok(entries.map(|entry| entry.revents));
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Until its writers are gone, or containerd says that there is no more, or the process takes none any more.
pub fn copy_input(mut from: File, to: &UnixStream, closed: &Wake, given_up: &Wake) {
    if to.set_nonblocking(true).is_err() {
        return;
    }
    let mut bytes = vec![0; ROOM];
    let mut last = false;
    loop {
        if !last {
            let Ok([readable, gone, is_last, end]) = poll([
                (from.as_raw_fd(), libc::POLLIN),
                (to.as_raw_fd(), 0),
                (closed.fd(), libc::POLLIN),
                (given_up.fd(), libc::POLLIN),
            ]) else {
                return;
            };
            if end != 0 || gone & (libc::POLLHUP | libc::POLLERR) != 0 {
                return;
            }
            // What is in the pipe by then is all that comes.
            last = is_last != 0;
            if readable == 0 && !last {
                continue;
            }
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if !write_all(to, &bytes[..count], given_up) {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && last => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Until the guest ends it, or has taken too long for that.
pub fn copy_output(mut from: &UnixStream, to: File, ended: &Wake, given_up: &Wake) {
    let mut bytes = vec![0; ROOM];
    let mut left = None;
    let mut bytes_left = BYTES_AFTER_THE_END;
    while wait_for_output(from, ended, given_up, &mut left) {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if left.is_some() {
                    bytes_left = bytes_left.saturating_sub(count);
                }
                if bytes_left == 0 {
                    debug!("the guest goes on with the output of a process that has ended");
                    break;
                }
                if !write_all(&to, &bytes[..count], given_up) {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
}

/// Whether there is something to read. Once the process has ended, `left` is what the guest may take yet, in all.
fn wait_for_output(
    from: &UnixStream,
    ended: &Wake,
    given_up: &Wake,
    left: &mut Option<Duration>,
) -> bool {
    loop {
        let end = if left.is_none() { ended.fd() } else { -1 }; // which poll(2) passes over
        let begin = Instant::now();
        let ready = poll_within(
            [
                (from.as_raw_fd(), libc::POLLIN),
                (given_up.fd(), libc::POLLIN),
                (end, libc::POLLIN),
            ],
            *left,
        );
        if let Some(left) = left {
            *left = left.saturating_sub(begin.elapsed());
        }
        let Ok([readable, given_up, ended]) = ready else {
            return false;
        };
        if given_up != 0 {
            return false;
        }
        if ended != 0 {
            *left = Some(AFTER_THE_END);
        }
        if readable != 0 {
            return true;
        }
        if ended == 0 {
            debug!("the guest doesn't end a process's output");
            return false;
        }
    }
}

/// To what doesn't block.
fn write_all<T>(mut to: &T, mut bytes: &[u8], given_up: &Wake) -> bool
where
    T: AsRawFd,
    for<'a> &'a T: Write,
{
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let ready = poll([
                    (to.as_raw_fd(), libc::POLLOUT),
                    (given_up.fd(), libc::POLLIN),
                ]);
                if !matches!(ready, Ok([_, 0])) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}
