//! Programs on the host: letting them in, and hearing what they want.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

use super::{LISTENER, Muxer, MuxerError, SOCKET_EVENTS};
use crate::devices::virtio::vsock::connection::{After, Connection, State};
use crate::devices::virtio::vsock::host::{Greeting, read_greeting};
use crate::devices::virtio::vsock::table::{Ports, Token};

/// The most programs taken in before others get their turn.
const ACCEPTS: usize = 64;

/// Ports of the host for connections that its programs make: from here up, as others do it.
pub(super) const FIRST_PORT: u32 = 1 << 30;

/// When the host refuses to let a program in (there's no descriptor left), how long until the next try,
/// if no connection ends before.
const NO_DESCRIPTORS: Duration = Duration::from_secs(1);

impl Muxer {
    pub(super) fn accept(&mut self) -> Result<(), MuxerError> {
        for _ in 0..ACCEPTS {
            let socket = match self.given.socket.accept() {
                Ok(socket) => socket,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(()),
                    Some(libc::ECONNABORTED | libc::EINTR) => continue,
                    _ => {
                        self.host_error(&format_args!("accepting a connection: {error}"));
                        return self.close_door();
                    }
                },
            };
            if self.table.len() >= self.given.limits.connections {
                self.given.counts.refused_by_host.inc();
                continue;
            }
            let now = Instant::now();
            let deadline = now + self.given.limits.handshake;
            let connection = Connection::greeting(socket, now, deadline);
            if let Some(token) = self.insert(connection) {
                self.deadlines.insert((deadline, token));
            }
        }
        Ok(())
    }

    /// Lets no program in for a while: epoll would tell of them again and again.
    fn close_door(&mut self) -> Result<(), MuxerError> {
        self.closed_until = Some(Instant::now() + NO_DESCRIPTORS);
        self.watch_door(EventSet::empty())
    }

    pub(super) fn open_door(&mut self) -> Result<(), MuxerError> {
        self.closed_until = None;
        self.watch_door(EventSet::IN)
    }

    fn watch_door(&self, events: EventSet) -> Result<(), MuxerError> {
        let event = EpollEvent::new(events, LISTENER);
        let result = self.epoll.ctl(
            ControlOperation::Modify,
            self.given.socket.listener().unwrap_or(-1),
            event,
        );
        result.map_err(|error| MuxerError::Host("watching the socket", error))
    }

    pub(super) fn insert(&mut self, connection: Connection) -> Option<Token> {
        let fd = connection.socket.as_raw_fd();
        let token = self.table.insert(connection);
        self.given.counts.opened();
        match self.watch(fd, token.0, SOCKET_EVENTS) {
            Ok(()) => Some(token),
            Err(error) => {
                self.host_error(&format_args!("watching a connection: {error}"));
                self.given.counts.refused_by_host.inc();
                self.end(token, After::Done);
                None
            }
        }
    }

    pub(super) fn on_socket(&mut self, token: Token, events: EventSet) {
        let Some(connection) = self.table.get(token) else {
            return; // ended in the same turn
        };
        connection.on_events(events);
        if connection.state == State::Greeting {
            return self.greet(token);
        }
        let after = connection.flush();
        self.settle(token, after);
    }

    fn greet(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        match read_greeting(&connection.socket) {
            Greeting::Partial => {}
            Greeting::Wrong => {
                self.given.counts.refused_by_host.inc();
                self.end(token, After::Gone);
            }
            Greeting::Connect(guest) => {
                connection.request();
                let ports = self.free_ports(guest);
                self.table.set_ports(token, ports);
                self.settle(token, After::Goes);
            }
        }
    }

    /// A port of the host that isn't in use with this one of the guest's.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let host = self.next_port;
            // There are fewer connections than ports, so this ends.
            self.next_port = match host {
                0xffff_fffe => FIRST_PORT, // the last one means "any"
                _ => host + 1,
            };
            let ports = Ports { guest, host };
            if self.table.find(ports).is_none() {
                return ports;
            }
        }
    }
}
