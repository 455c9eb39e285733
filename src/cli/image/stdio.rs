//! The process's standard streams, each to or from a stream of the guest's.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use motevm::devices::console::{EscapeFilter, Request};

const ROOM: usize = 64 << 10;

/// One of the standard streams, which stays open.
fn standard(fd: RawFd) -> ManuallyDrop<std::fs::File> {
    // SAFETY: it is never closed by this.
    ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd) })
}

/// Copies what the guest writes until it ends, or until nobody takes it any more: then the guest learns of it.
pub fn copy_output(mut from: &UnixStream, to: RawFd) {
    let mut to = standard(to);
    let mut bytes = vec![0; ROOM];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
}

/// Copies standard input to the guest until it ends, or the guest takes no more. From a terminal, Ctrl-A x is for mote: true
/// then.
pub fn copy_input(mut to: &UnixStream, from_terminal: bool) -> bool {
    let mut input = standard(libc::STDIN_FILENO);
    let mut escapes = from_terminal.then(EscapeFilter::default);
    let mut bytes = vec![0; ROOM];
    loop {
        match wait(libc::STDIN_FILENO, to.as_raw_fd()) {
            Ok(true) => {}
            _ => return false,
        }
        let count = match input.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let mut piece = bytes[..count].to_vec();
        if let Some(escapes) = &mut escapes
            && escapes.filter(&mut piece) == Request::Quit
        {
            return true;
        }
        if to.write_all(&piece).is_err() {
            return false;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    false
}

/// Until there is input (true), or the other side has gone.
fn wait(input: RawFd, to: RawFd) -> io::Result<bool> {
    let entry = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    loop {
        let mut polled = [entry(input, libc::POLLIN), entry(to, 0)];
        // SAFETY: the entries and their number.
        if unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if polled[1].revents & (libc::POLLHUP | libc::POLLERR) != 0 {
            return Ok(false);
        }
        if polled[0].revents != 0 {
            return Ok(true);
        }
    }
}

/// The terminal's size.
pub fn window() -> (u16, u16) {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: it takes a winsize.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match result {
        0 if size.ws_col > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}
