//! Where the serial port or hvc0 leads: standard input and output, a file, or a pseudo-terminal.

mod input;
mod marker;
mod output;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::config::{self, Endpoint};
use crate::handed::{self, Access};

pub use input::{EscapeFilter, Request};
pub use marker::Marker;
pub use output::{Drain, Output};

/// Why the console could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The output file could not be made.
    #[error("--console file={path}: {source}", path = path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// What the system call said.
        source: io::Error,
    },
    /// No pseudo-terminal could be had.
    #[error("--console pty: {0}; is /dev/pts mounted?")]
    Pty(io::Error),
    /// Standard input or output is closed.
    #[error("--console stdio: {0}; give --console none where there is no standard output")]
    Stdio(io::Error),
}

/// The guest's end of a console, for input.
pub trait InputPort: Send + Sync {
    /// Gives input to the guest; how many bytes it took. The port has an event that is signalled
    /// when it can take more.
    fn enqueue(&self, input: &[u8]) -> usize;

    /// A descriptor that is readable when it's time for [`tick`](Self::tick).
    fn timer(&self) -> Option<RawFd> {
        None
    }

    /// To be called by whoever calls [`enqueue`](Self::enqueue), which may then take more.
    fn tick(&self) {}
}

/// The two ends of a console.
#[derive(Debug)]
pub struct Console {
    /// What the guest reads, if anything.
    pub input: Option<File>,
    /// Where what the guest prints goes.
    pub output: File,
    /// Input comes from a terminal in front of a person: Ctrl-A x quits.
    pub escapes: bool,
    /// The name of the pseudo-terminal, and its other end, kept open so that readers may come
    /// and go.
    pub pty: Option<(PathBuf, OwnedFd)>,
    /// What is looked for in the output.
    pub marker: Option<Marker>,
}

impl Console {
    /// Opens what `config` says; `None` for no console.
    ///
    /// # Errors
    ///
    /// See [`ConsoleError`].
    pub fn open(config: &config::Console) -> Result<Option<Self>, ConsoleError> {
        let Some(endpoint) = config.endpoint() else {
            return Ok(None);
        };
        match endpoint {
            Endpoint::Stdio => Self::stdio().map_err(ConsoleError::Stdio).map(Some),
            Endpoint::Pty => Self::pty().map_err(ConsoleError::Pty).map(Some),
            Endpoint::File(path) => {
                // O_NONBLOCK: opening a FIFO must not wait for a reader. The writer waits itself.
                let mut options = File::options();
                options
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .custom_flags(libc::O_NONBLOCK);
                let output = handed::open(&path, Access::Write, &options);
                let output = output.map_err(|source| ConsoleError::File {
                    path: path.clone(),
                    source,
                })?;
                Ok(Some(Console {
                    input: None,
                    output,
                    escapes: false,
                    pty: None,
                    marker: None,
                }))
            }
        }
    }

    /// The columns and rows of the terminal that it leads to; zeros where there is none.
    pub fn terminal_size(&self) -> (u16, u16) {
        terminal_size(&self.output)
    }

    fn stdio() -> io::Result<Self> {
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let stdin = io::stdin();
        let terminal = io::IsTerminal::is_terminal(&stdin);
        // A background job that reads its terminal would be stopped by the kernel (SIGTTIN).
        let readable = !terminal || in_foreground(stdin.as_fd().as_raw_fd());
        let input = if readable {
            stdin.as_fd().try_clone_to_owned().ok()
        } else {
            None
        };
        Ok(Console {
            input: input.map(File::from),
            output: output.into(),
            escapes: terminal,
            pty: None,
            marker: None,
        })
    }

    fn pty() -> io::Result<Self> {
        let (mut main, mut other) = (-1, -1);
        // SAFETY: an all-zero termios is a valid value, filled in by cfmakeraw.
        let mut raw: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: a valid termios.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        raw.c_cflag |= libc::CREAD;
        // SAFETY: room for two descriptors; no name, the settings above, no window size.
        let result = unsafe {
            libc::openpty(
                &raw mut main,
                &raw mut other,
                std::ptr::null_mut(),
                &raw const raw,
                std::ptr::null(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: openpty gave these two, which nobody else owns.
        let (main, other) = unsafe { (OwnedFd::from_raw_fd(main), OwnedFd::from_raw_fd(other)) };
        let mut name = [0u8; 64];
        // SAFETY: the buffer's length is passed.
        let result =
            unsafe { libc::ptsname_r(main.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        let name = std::ffi::CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        let input = File::from(main.try_clone()?);
        Ok(Console {
            input: Some(input),
            output: main.into(),
            escapes: false,
            pty: Some((name, other)),
            marker: None,
        })
    }
}

/// The columns and rows of a terminal; zeros for anything else.
pub fn terminal_size(file: &impl AsRawFd) -> (u16, u16) {
    // SAFETY: an all-zero winsize is a valid value, filled in by the call.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: a valid winsize. Where the call fails it stays zero.
    unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (size.ws_col, size.ws_row)
}

fn in_foreground(terminal: i32) -> bool {
    // SAFETY: plain system calls on a descriptor number.
    unsafe { libc::tcgetpgrp(terminal) == libc::getpgrp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_pty_carries_bytes_both_ways_unchanged() {
        let console = Console::open(&config::Console::Pty).unwrap().unwrap();
        let (name, _other) = console.pty.as_ref().unwrap();
        // Not as the controlling terminal, whose end would be a SIGHUP for the test program.
        let mut peer = File::options();
        peer.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let mut peer = peer.open(name).unwrap();
        let mut buffer = [0; 3];
        (&console.output).write_all(b"a\nb").unwrap();
        peer.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"a\nb");
        peer.write_all(b"c\rd").unwrap();
        console
            .input
            .as_ref()
            .unwrap()
            .read_exact(&mut buffer)
            .unwrap();
        assert_eq!(&buffer, b"c\rd");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let config = config::Console::File("/nonexistent/out".into());
        let error = Console::open(&config).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/out"), "{error}");
    }
}
