//! Copies one direction of a stream, with neither side waited for.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use crate::sys;

/// How much is under way in each direction.
const ROOM: usize = 64 << 10;

/// From one descriptor to another. The end of the first is passed on as the end of the second; where the second
/// can't be written any more, the first is let go, so that whoever writes there learns of it.
#[derive(Debug)]
pub struct Pump {
    /// `None` once it has ended.
    from: Option<Rc<OwnedFd>>,
    /// `None` once all has been passed on.
    to: Option<Rc<OwnedFd>>,
    bytes: Vec<u8>,
    taken: usize,
    /// Not to be written: the other direction uses it too, and its end comes by shutdown.
    shared: bool,
}

impl Pump {
    /// Both must not block. `shared` says that `to` has another use, and is not closed at the end.
    pub fn new(from: Rc<OwnedFd>, to: Rc<OwnedFd>, shared: bool) -> Self {
        Pump {
            from: Some(from),
            to: Some(to),
            bytes: Vec::with_capacity(ROOM),
            taken: 0,
            shared,
        }
    }

    /// Takes no more from where it comes.
    pub fn end(&mut self) {
        self.from = None;
        self.finish();
    }

    pub fn is_done(&self) -> bool {
        self.to.is_none()
    }

    /// What to wait for: to read where there is room, to write where there is something; and that nobody takes
    /// it any more.
    pub fn polled(&self) -> [libc::pollfd; 2] {
        let waiting = self.taken < self.bytes.len();
        let entry = |fd: &Option<Rc<OwnedFd>>, events| libc::pollfd {
            fd: fd.as_ref().map_or(-1, |fd| fd.as_raw_fd()),
            events,
            revents: 0,
        };
        let mut from = entry(&self.from, libc::POLLIN);
        if waiting {
            from.fd = -1;
        }
        [
            from,
            entry(&self.to, if waiting { libc::POLLOUT } else { 0 }),
        ]
    }

    /// Goes on, after either is ready.
    pub fn go(&mut self, ready: [libc::pollfd; 2]) {
        let gone = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        if ready[1].revents & gone != 0 {
            return self.give_up();
        }
        if ready[0].revents != 0 {
            self.fill();
        }
        self.drain();
    }

    fn fill(&mut self) {
        let Some(from) = &self.from else { return };
        if self.taken < self.bytes.len() {
            return;
        }
        self.bytes.resize(ROOM, 0);
        self.taken = 0;
        let result = sys::read(from, &mut self.bytes);
        self.bytes.truncate(*result.as_ref().unwrap_or(&0));
        match result {
            Ok(count) if count > 0 => {}
            Err(error) if would_wait(&error) => {}
            // The end. A terminal that nobody has open any more says EIO.
            _ => self.from = None,
        }
    }

    fn drain(&mut self) {
        while let Some(to) = &self.to
            && self.taken < self.bytes.len()
        {
            match sys::write(to, &self.bytes[self.taken..]) {
                Ok(count) => self.taken += count,
                Err(error) if would_wait(&error) => return,
                Err(_) => return self.give_up(),
            }
        }
        self.finish();
    }

    fn finish(&mut self) {
        if self.from.is_none() && self.taken >= self.bytes.len() {
            if let Some(to) = self.to.take()
                && !self.shared
            {
                sys::end_writing(&to);
            }
            self.bytes = Vec::new();
        }
    }

    fn give_up(&mut self) {
        self.from = None;
        self.to = None;
        self.bytes = Vec::new();
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
