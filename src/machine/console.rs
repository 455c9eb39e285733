//! The console as the event loop serves it: input on its way to the guest's port, and the size of
//! the terminal.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::error::BuildError;
use crate::devices::console::{Drain, EscapeFilter, InputPort, Request, terminal_size};
use crate::devices::virtio::console::Window;

/// How much of a person's typing waits for a guest that doesn't read. A file or a pipe waits by
/// itself: no more is read from it before the guest has taken what there is.
const TYPED_AHEAD: usize = 4096;

/// Both ends of the guest's console.
pub(super) struct ConsoleEnd {
    pub input: Option<File>,
    pub port: Arc<dyn InputPort>,
    /// Signalled when the guest can take more input.
    pub input_space: Arc<EventFd>,
    pub drain: Drain,
    /// There is a person at a terminal, who may want to leave.
    pub escapes: Option<EscapeFilter>,
    pub pty: Option<(PathBuf, OwnedFd)>,
    /// Read, and not yet taken by the guest.
    pub pending: Vec<u8>,
    /// For a port whose driver asks for the terminal's size, with that terminal.
    pub resizer: Option<(ConsoleResizer, File)>,
}

/// Tells the guest of another size of its terminal (`--console hvc`), from any thread or from a
/// signal handler.
#[derive(Clone)]
pub struct ConsoleResizer {
    window: Arc<Window>,
    event: Arc<EventFd>,
}

impl ConsoleResizer {
    pub(super) fn new(window: Arc<Window>) -> Result<Self, BuildError> {
        let event = EventFd::new(libc::EFD_CLOEXEC).map_err(BuildError::Event)?;
        let event = Arc::new(event);
        Ok(ConsoleResizer { window, event })
    }

    /// The guest's terminal has this many columns and rows from now on.
    pub fn set_size(&self, columns: u16, rows: u16) {
        self.window.set_size(columns, rows);
    }

    /// The descriptor to which a signal handler (of SIGWINCH) may write an 8-byte 1, for the size
    /// of the terminal on standard output, or of the pseudo-terminal, to be read anew.
    pub fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl ConsoleEnd {
    /// The descriptor to wait for input on, if any is wanted now. A terminal's always is: the
    /// guest may never read, and the person must still be able to leave.
    pub fn wants_input(&self) -> Option<RawFd> {
        let wanted = self.pending.is_empty() || self.escapes.is_some();
        self.input
            .as_ref()
            .filter(|_| wanted)
            .map(AsRawFd::as_raw_fd)
    }

    /// Reads what there is of input; at its end, input is no longer waited for.
    pub fn read_input(&mut self) -> Request {
        let Some(file) = &mut self.input else {
            return Request::None;
        };
        let mut buffer = [0; 512];
        let mut typed = match file.read(&mut buffer) {
            Ok(0) => {
                self.input = None;
                return Request::None;
            }
            Ok(count) => buffer[..count].to_vec(),
            Err(e) if is_passing(&e) => return Request::None,
            Err(e) => {
                log::debug!("console input: {e}");
                self.input = None;
                return Request::None;
            }
        };
        let escapes = self.escapes.as_mut();
        let request = escapes.map_or(Request::None, |escapes| escapes.filter(&mut typed));
        let room = TYPED_AHEAD.saturating_sub(self.pending.len());
        typed.truncate(room);
        self.pending.append(&mut typed);
        request
    }

    /// Gives the guest as much input as its port takes; the rest goes when that has been read.
    pub fn feed(&mut self) {
        if !self.pending.is_empty() {
            let taken = self.port.enqueue(&self.pending);
            self.pending.drain(..taken);
        }
    }
}

impl ConsoleEnd {
    /// The descriptor to wait for a change of the terminal's size on.
    pub fn resized(&self) -> Option<RawFd> {
        self.resizer.as_ref().map(|(resizer, _)| resizer.event())
    }

    /// The terminal's size has changed.
    pub fn resize(&mut self) {
        if let Some((resizer, terminal)) = &self.resizer {
            let _ = resizer.event.read();
            let (columns, rows) = terminal_size(terminal);
            resizer.set_size(columns, rows);
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock)
}
