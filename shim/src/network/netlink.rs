//! What is said with the kernel about devices: rtnetlink(7), one question at a time.

use std::cell::Cell;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// How often a list is read anew that changed while it was read.
const ATTEMPTS: usize = 10;

/// More than the kernel says at once: its lists come in parts of up to 32 KiB.
const LONGEST: usize = 1 << 16;

/// A connection to the kernel. It speaks of the network namespace that the thread was in which opened it.
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
}

impl Netlink {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
        })
    }

    /// Has the kernel do something. `flags` are `NLM_F_CREATE` and the like.
    pub fn order(&self, order: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.say(order, NLM_F_ACK | flags)?;
        self.answers().map(drop)
    }

    /// All that there is of a kind.
    pub fn list(&self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..ATTEMPTS {
            self.say(question.clone(), NLM_F_DUMP)?;
            if let Some(answers) = self.answers()? {
                return Ok(answers);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    fn say(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence.get();
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// What the kernel says to what was said last; none if that is of several moments.
    fn answers(&self) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let mut answers = Vec::new();
        let mut torn = false;
        let mut bytes = Vec::with_capacity(LONGEST);
        loop {
            bytes.clear();
            self.socket.recv(&mut bytes, 0)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // What is left of an earlier list that ended in an error.
                if message.header.sequence_number != self.sequence.get() {
                    continue;
                }
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                        return Ok((!torn).then_some(answers));
                    }
                    _ => {}
                }
            }
        }
    }
}
