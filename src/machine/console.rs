//! The console as the event loop serves it: input on its way to the guest's serial port.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::devices::console::{Drain, EscapeFilter, Output, Request};
use crate::devices::serial::SerialPort;

/// How much of a person's typing waits for a guest that doesn't read. A file or a pipe waits by
/// itself: no more is read from it before the guest has taken what there is.
const TYPED_AHEAD: usize = 4096;

/// Both ends of the guest's console.
pub(super) struct ConsoleEnd {
    pub input: Option<File>,
    pub serial: Arc<Mutex<SerialPort<Output>>>,
    /// Signalled when the guest can take more input.
    pub input_space: EventFd,
    pub drain: Drain,
    /// There is a person at a terminal, who may want to leave.
    pub escapes: Option<EscapeFilter>,
    pub pty: Option<(PathBuf, OwnedFd)>,
    /// Read, and not yet taken by the guest.
    pub pending: Vec<u8>,
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
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = serial.enqueue(&self.pending);
            self.pending.drain(..taken);
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock)
}
