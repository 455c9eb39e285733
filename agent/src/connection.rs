//! The control connection: what has come of it, what waits to be sent, and events that the host hasn't acknowledged.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};

use mote_agent_protocol::frame::{self, Pieces, TO_AGENT, TO_HOST};
use mote_agent_protocol::{Call, Event, FromAgent, Hello};

use crate::sys;

/// What is sent, in order. There is at most one connection at a time; events outlive it.
#[derive(Debug, Default)]
pub struct Control {
    connection: Option<Connection>,
    events: VecDeque<(u64, Event)>,
    last: u64,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    input: Pieces,
    output: VecDeque<u8>,
}

impl Control {
    /// Goes on with another connection: a greeting, and then all events that nobody has acknowledged.
    pub fn take(&mut self, socket: OwnedFd, hello: Hello) {
        self.connection = Some(Connection {
            socket,
            input: Pieces::default(),
            output: VecDeque::new(),
        });
        self.say(&FromAgent::Hello(hello));
        for (number, event) in self.events.clone() {
            self.say(&FromAgent::Event(number, event));
        }
    }

    /// Sends a message, or as much as there is room for now.
    pub fn say(&mut self, message: &FromAgent) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        match frame::encode(message, TO_HOST) {
            Ok(bytes) => connection.output.extend(bytes),
            // None of the agent's messages is as long; the host must not wait for an answer that can't come.
            Err(error) => {
                eprintln!("mote-agent: {error}");
                self.connection = None;
            }
        }
        self.send();
    }

    pub fn tell(&mut self, event: Event) {
        self.last += 1;
        self.events.push_back((self.last, event.clone()));
        self.say(&FromAgent::Event(self.last, event));
    }

    /// The host has these.
    pub fn acknowledge(&mut self, number: u64) {
        while self.events.front().is_some_and(|(of, _)| *of <= number) {
            self.events.pop_front();
        }
    }

    /// What to wait for.
    pub fn polled(&self) -> Option<libc::pollfd> {
        let connection = self.connection.as_ref()?;
        let output = match connection.output.is_empty() {
            true => 0,
            false => libc::POLLOUT,
        };
        Some(libc::pollfd {
            fd: connection.socket.as_raw_fd(),
            events: libc::POLLIN | output,
            revents: 0,
        })
    }

    /// Whether all has been sent, or nobody is there to get it.
    pub fn is_flushed(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_none_or(|connection| connection.output.is_empty())
    }

    pub fn send(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        while !connection.output.is_empty() {
            let (first, _) = connection.output.as_slices();
            match sys::write(&connection.socket, first) {
                Ok(count) => drop(connection.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.connection = None;
                    return;
                }
            }
        }
    }

    /// Takes in what has come.
    pub fn receive(&mut self) {
        let mut bytes = [0; 16 << 10];
        while let Some(connection) = &mut self.connection {
            match sys::read(&connection.socket, &mut bytes) {
                Ok(count) if count > 0 => connection.input.add(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The end, or a failure. Another connection may come.
                _ => self.connection = None,
            }
        }
    }

    /// The next call of what has come. One that can't be read ends the connection.
    pub fn next(&mut self) -> Option<Call> {
        let connection = self.connection.as_mut()?;
        match connection.input.next(TO_AGENT) {
            Ok(call) => call,
            Err(error) => {
                eprintln!("mote-agent: {error}");
                self.connection = None;
                None
            }
        }
    }
}
