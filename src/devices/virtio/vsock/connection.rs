//! One connection: a Unix socket on the host's side, packets on the guest's.
//!
//! ```text
//!   a program connects            CONNECT port            RESPONSE
//!        ------------> Greeting ---------------> Requested ------> Open <------ the guest connects
//!                                 (REQUEST is sent)                 |           (RESPONSE is sent)
//!                                                                   | RST behind a SHUTDOWN, and the
//!                                                                   | program still has data to take
//!                                                                   v
//!                                                                Draining
//! ```
//!
//! From each of these it ends: when its time is over (the first two), at a RST, at a mistake of the
//! guest, when the guest has shut down both directions and its data is passed on, or when that
//! is so of `Draining`.
//!
//! Data goes between socket and guest memory without a copy in between. Only what the program
//! doesn't take at once waits in a [`Ring`], which the guest's credit bounds.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vmm_sys_util::epoll::EventSet;

use super::credit::Credit;
use super::host::{receive, send};
use super::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};
use super::ring::Ring;
use super::table::Ports;
use crate::devices::virtio::buffers::GuestBytes;

/// The most data in one packet, as Linux has it. Receive buffers are smaller, usually.
pub const MAX_DATA: usize = 64 * 1024;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A program has connected; it is to say where to.
    Greeting,
    /// The guest has been asked.
    Requested,
    /// Data may go both ways.
    Open,
    /// The guest is done with it; the program isn't.
    Draining,
}

/// What became of a connection by something that happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// It goes on.
    Goes,
    /// It is over, in good order: the guest is told so by a RST.
    Done,
    /// It is over, and the guest knows.
    Gone,
    /// The guest has broken a rule: over, and the guest is told by a RST.
    Broken(&'static str),
}

/// A packet for the guest, behind whose header the data lies already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub op: u16,
    pub flags: u32,
    pub len: u32,
}

/// Packets without data that are to be sent when there's a buffer for them.
#[derive(Debug, Default)]
struct Due {
    /// REQUEST or RESPONSE.
    opening: Option<u16>,
    credit_update: bool,
}

/// One connection.
pub struct Connection {
    pub socket: UnixStream,
    pub state: State,
    pub ports: Option<Ports>,
    pub credit: Credit,
    /// When a program connected, and until when it has to be accepted.
    pub since: Option<Instant>,
    pub deadline: Option<Instant>,
    /// Waits for its turn to send to the guest.
    pub queued: bool,
    /// epoll tells when the socket takes data again.
    pub watches_room: bool,
    ring: Ring,
    due: Due,
    /// There may be something to read from the socket.
    readable: bool,
    /// The guest has been asked for credit since there was some.
    asked: bool,
    /// The program doesn't send any more, and all that it has sent has been read.
    program_done: bool,
    /// The program doesn't receive any more.
    program_deaf: bool,
    /// What the guest has shut down, and what it was told of the program: SHUTDOWN's flags.
    guest_shut: u32,
    told_shut: u32,
    /// The program has been told that the guest doesn't send any more.
    ended: bool,
}

impl Connection {
    fn new(socket: UnixStream, state: State) -> Self {
        Self {
            socket,
            state,
            ports: None,
            credit: Credit::default(),
            since: None,
            deadline: None,
            queued: false,
            watches_room: false,
            ring: Ring::default(),
            due: Due::default(),
            readable: false,
            asked: false,
            program_done: false,
            program_deaf: false,
            guest_shut: 0,
            told_shut: 0,
            ended: false,
        }
    }

    /// A program has connected.
    pub fn greeting(socket: UnixStream, since: Instant, deadline: Instant) -> Self {
        Self {
            since: Some(since),
            deadline: Some(deadline),
            ..Self::new(socket, State::Greeting)
        }
    }

    /// The guest has connected, by this REQUEST, and the program has accepted.
    pub fn accepted(socket: UnixStream, ports: Ports, request: &Header) -> Self {
        let mut connection = Self {
            ports: Some(ports),
            ..Self::new(socket, State::Open)
        };
        connection.credit.hear(request.buf_alloc, request.fwd_cnt);
        connection.due.opening = Some(op::RESPONSE);
        connection
    }

    /// The program has said where it wants to be connected to.
    pub fn request(&mut self) {
        self.state = State::Requested;
        self.due.opening = Some(op::REQUEST);
    }

    /// Takes note of what epoll says of the socket.
    pub fn on_events(&mut self, events: EventSet) {
        let ended = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        if events.intersects(EventSet::IN | ended) {
            self.readable = true;
        }
        if events.contains(EventSet::HANG_UP) && self.state != State::Greeting {
            // Both directions are shut: what isn't sent yet has nobody to go to.
            self.deafen();
        }
    }

    /// A packet has come from the guest. Its data is the start of `data`; what else there is
    /// behind it has no meaning.
    pub fn on_packet(&mut self, header: &Header, data: &mut GuestBytes) -> After {
        self.credit.hear(header.buf_alloc, header.fwd_cnt);
        if self.credit.available() > 0 {
            self.asked = false;
        }
        match (self.state, header.op) {
            (_, op::RST) => {
                let shut = self.guest_shut & SHUTDOWN_SEND != 0;
                if shut && !self.ring.is_empty() {
                    self.state = State::Draining;
                    return After::Goes;
                }
                return After::Gone;
            }
            (State::Requested, op::RESPONSE) => {
                self.state = State::Open;
                let host = self.ports.map_or(0, |ports| ports.host);
                // A new socket has room for a line; if not, it's no socket to go on with.
                let line = format!("OK {host}\n");
                let piece = libc::iovec {
                    iov_base: line.as_ptr().cast_mut().cast(),
                    iov_len: line.len(),
                };
                // SAFETY: the line, which is only read.
                if unsafe { send(&self.socket, &[piece]) }.ok() != Some(line.len()) {
                    return After::Done;
                }
            }
            (State::Open, op::RW) => return self.on_data(header.len, data),
            (State::Open, op::SHUTDOWN) => {
                self.guest_shut |= header.flags & SHUTDOWN_BOTH;
                if self.guest_shut & SHUTDOWN_RECEIVE != 0 {
                    // The program's next write fails. An error here means that it is gone already.
                    let _ = self.socket.shutdown(Shutdown::Read);
                }
                return self.after_flush();
            }
            (State::Open, op::CREDIT_UPDATE) => {}
            (State::Open, op::CREDIT_REQUEST) => self.due.credit_update = true,
            _ => return After::Broken("sends a packet that has no place in its connection"),
        }
        After::Goes
    }

    fn on_data(&mut self, len: u32, data: &mut GuestBytes) -> After {
        let count = len as usize;
        if count > data.len() {
            return After::Broken("sends less data than its header says");
        }
        if self.guest_shut & SHUTDOWN_SEND != 0 {
            return After::Broken("sends data after it has shut that down");
        }
        if self.credit.receive(len).is_err() {
            return After::Broken("sends more than it has credit for");
        }
        if count == 0 {
            return After::Goes;
        }
        let mut done = 0;
        if self.ring.is_empty() && !self.program_deaf {
            // SAFETY: pieces of guest memory, which `data` keeps mapped.
            match data.lend(count, |pieces| unsafe { send(&self.socket, pieces) }) {
                Ok(sent) => done = sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.deafen(),
            }
            data.advance(done);
        }
        if self.program_deaf {
            done = count;
        }
        self.credit.forward(done as u32);
        self.ring.push(data, count - done);
        After::Goes
    }

    /// Gives the program what waits for it, as much as it takes.
    pub fn flush(&mut self) -> After {
        while !self.ring.is_empty() {
            match self.ring.flush(&self.socket) {
                Ok(0) => break,
                Ok(done) => self.credit.forward(done as u32),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.deafen(),
            }
        }
        self.after_flush()
    }

    /// What comes when all data of the guest is passed on, if it is.
    fn after_flush(&mut self) -> After {
        if !self.ring.is_empty() {
            return After::Goes;
        }
        if self.state == State::Draining {
            return After::Gone;
        }
        if self.guest_shut == SHUTDOWN_BOTH {
            // §5.10.6.5: the answer to the end of both directions.
            return After::Done;
        }
        if self.guest_shut & SHUTDOWN_SEND != 0 && !self.ended {
            self.ended = true;
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        After::Goes
    }

    /// The program doesn't receive any more: what waits for it is done with.
    fn deafen(&mut self) {
        self.program_deaf = true;
        self.credit.forward(self.ring.len() as u32);
        self.ring.clear();
    }

    /// Whether the guest has heard of this connection.
    pub fn is_known_to_guest(&self) -> bool {
        self.due.opening != Some(op::REQUEST)
    }

    /// Whether data of the guest waits for the program.
    pub fn holds_data(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Whether there's something to send to the guest, so far as is known without trying.
    pub fn wants_turn(&self) -> bool {
        match self.state {
            State::Greeting | State::Draining => false,
            State::Requested => self.due.opening.is_some(),
            State::Open => {
                self.due.opening.is_some()
                    || self.due.credit_update
                    || self.shutdown_due() != 0
                    || self.credit.update_due()
                    || (self.may_read() && (self.credit.available() > 0 || !self.asked))
            }
        }
    }

    fn may_read(&self) -> bool {
        self.readable && !self.program_done && self.guest_shut & SHUTDOWN_RECEIVE == 0
    }

    fn shutdown_due(&self) -> u32 {
        let send = if self.program_done { SHUTDOWN_SEND } else { 0 };
        let receive = if self.program_deaf {
            SHUTDOWN_RECEIVE
        } else {
            0
        };
        (send | receive) & !self.told_shut
    }

    /// The next packet for the guest, its data in `room`; `None` if there is nothing after all.
    ///
    /// # Errors
    ///
    /// There's data to send and no room for a single byte.
    pub fn next_packet(&mut self, room: &mut GuestBytes) -> Result<Option<Packet>, NoRoom> {
        let bare = |op| {
            Ok(Some(Packet {
                op,
                flags: 0,
                len: 0,
            }))
        };
        if let Some(op) = self.due.opening.take() {
            return bare(op);
        }
        if self.state != State::Open {
            return Ok(None);
        }
        let limit = (self.credit.available() as usize).min(MAX_DATA);
        if self.may_read() && limit > 0 {
            if room.is_empty() {
                return Err(NoRoom);
            }
            // SAFETY: pieces of guest memory, which `room` keeps mapped.
            match room.lend(limit, |pieces| unsafe { receive(&self.socket, pieces) }) {
                Ok(0) => self.program_done = true,
                Ok(count) => {
                    let len = count as u32;
                    self.credit.send(len);
                    self.due.credit_update = false;
                    return Ok(Some(Packet {
                        op: op::RW,
                        flags: 0,
                        len,
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {
                    // The program left without reading everything. For the guest that is an end in
                    // good order: a RST would take away from it what it hasn't read yet.
                    self.program_done = true;
                    self.deafen();
                }
            }
        }
        if self.shutdown_due() != 0 {
            self.told_shut |= self.shutdown_due();
            return Ok(Some(Packet {
                op: op::SHUTDOWN,
                flags: self.told_shut,
                len: 0,
            }));
        }
        if self.due.credit_update || self.credit.update_due() {
            self.due.credit_update = false;
            return bare(op::CREDIT_UPDATE);
        }
        if self.may_read() && limit == 0 && !self.asked {
            self.asked = true;
            return bare(op::CREDIT_REQUEST);
        }
        Ok(None)
    }
}

/// A receive buffer of the guest has no room for data.
#[derive(Debug)]
pub struct NoRoom;
