//! The device's thread: one loop between the guest's queues and the sockets.
//!
//! A turn takes what epoll has, then up to [`BUDGET`] packets from the guest, then up to as many
//! to the guest, a packet for each connection in turn. Nothing in it waits: a socket that doesn't take
//! data leaves it in its connection's ring, and a guest that gives no buffers leaves connections
//! in the queue of those that have something to send.
//!
//! epoll tells of sockets by edges. A connection remembers that it's readable until a read finds nothing,
//! so one without credit, or with no buffer to read into, costs nothing while it waits.

mod from_guest;
mod programs;
mod to_guest;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::Limits;
use super::connection::{After, State};
use super::counts::Counts;
use super::host::SocketFile;
use super::packet::STREAM;
use super::table::{Ports, Table, Token};
use crate::devices::virtio::buffers::{Buffers, ChainError};
use crate::devices::virtio::{Activation, ActiveQueue, Interrupt};

/// The most packets in one direction before the other gets its turn.
const BUDGET: usize = 128;

/// With so many RSTs waiting for the guest's buffers, no packet is taken from it, as each may make
/// one (§5.10.6.1 allows that once there's no room left outside of the queue). So they are bounded and none is lost: a RST without a packet of the guest's is for a connection
/// of which the guest was told, and that happens only while no RST waits.
const RSTS: usize = 256;

/// What epoll tells of a connection's socket, besides room while that is waited for.
const SOCKET_EVENTS: EventSet = EventSet::IN
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);

const STOP: u64 = Token::FIRST_FREE;
const LISTENER: u64 = Token::FIRST_FREE + 1;
const TRANSPORT_RESET: u64 = Token::FIRST_FREE + 2;
/// The queues, by their numbers.
const QUEUE: u64 = Token::FIRST_FREE + 16;

const RX: u16 = 0;
const TX: u16 = 1;

/// Why the thread stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum MuxerError {
    /// A chain of descriptors can't be used.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A queue can't be used.
    #[error("{0}")]
    Queue(virtio_queue::Error),
    /// A receive buffer is too small for a packet (§5.10.6.4).
    #[error("a receive buffer of {0} bytes has no room for a packet")]
    Room(usize),
    /// The host refused.
    #[error("{0}: {1}")]
    Host(&'static str, io::Error),
}

impl From<virtio_queue::Error> for MuxerError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Queue(error)
    }
}

/// What the thread is given by the device, besides the queues.
pub struct Given {
    pub cid: u64,
    pub limits: Limits,
    pub socket: Arc<SocketFile>,
    pub counts: Arc<Counts>,
    /// Written to end the thread.
    pub stop: Arc<EventFd>,
    /// Written to have all connections end, and the guest told to ask for its CID again.
    pub transport_reset: Arc<EventFd>,
    /// An error has been logged: of this device, however often its driver resets it.
    pub erred: Arc<AtomicBool>,
}

/// A refusal that waits for a buffer.
struct Rst {
    ports: Ports,
    kind: u16,
}

/// The thread's data.
pub struct Muxer {
    pub(super) given: Given,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    rx: Option<ActiveQueue>,
    tx: Option<ActiveQueue>,
    event: Option<ActiveQueue>,
    buffers: Buffers,
    epoll: Epoll,
    table: Table,
    /// Connections with something for the guest, in the order of their turns.
    ready: VecDeque<Token>,
    rsts: VecDeque<Rst>,
    deadlines: BTreeSet<(Instant, Token)>,
    /// Programs aren't let in before this, or before a connection has ended.
    closed_until: Option<Instant>,
    next_port: u32,
    reset_due: bool,
    interrupt_due: bool,
}

impl Muxer {
    /// Serves until it's told to stop, or the driver errs.
    pub fn run(given: Given, activation: Activation) {
        let interrupt = activation.interrupt.clone();
        let muxer = Self::new(given, activation);
        let result = muxer
            .map_err(|error| MuxerError::Host("setting up epoll", error))
            .and_then(|mut muxer| {
                let result = muxer.serve();
                muxer.given.counts.closed(muxer.table.clear());
                result
            });
        if let Err(error) = result {
            interrupt.fail(&error);
        }
    }

    pub(super) fn new(given: Given, activation: Activation) -> io::Result<Self> {
        let mut muxer = Self {
            given,
            buffers: Buffers::new(&activation.memory),
            memory: activation.memory,
            interrupt: activation.interrupt,
            rx: None,
            tx: None,
            event: None,
            epoll: Epoll::new()?,
            table: Table::default(),
            ready: VecDeque::new(),
            rsts: VecDeque::new(),
            deadlines: BTreeSet::new(),
            closed_until: None,
            next_port: programs::FIRST_PORT,
            reset_due: false,
            interrupt_due: false,
        };
        muxer.watch(muxer.given.stop.as_raw_fd(), STOP, EventSet::IN)?;
        let reset = muxer.given.transport_reset.as_raw_fd();
        muxer.watch(reset, TRANSPORT_RESET, EventSet::IN)?;
        if let Some(listener) = muxer.given.socket.listener() {
            muxer.watch(listener, LISTENER, EventSet::IN)?;
        }
        for queue in activation.queues {
            // By edges: a kick is seen without a read of its eventfd.
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            let data = QUEUE + u64::from(queue.index);
            muxer.watch(queue.notify.as_raw_fd(), data, events)?;
            match queue.index {
                RX => muxer.rx = Some(queue),
                TX => muxer.tx = Some(queue),
                _ => muxer.event = Some(queue),
            }
        }
        Ok(muxer)
    }

    fn watch(&self, fd: i32, data: u64, events: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(events, data);
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    fn serve(&mut self) -> Result<(), MuxerError> {
        let mut busy = true;
        while let Some(more) = self.turn(busy)? {
            busy = more;
        }
        Ok(())
    }

    /// One turn, which waits for something to do unless there is more already (`busy`). Whether there is more
    /// then; `None` at the end.
    pub(super) fn turn(&mut self, busy: bool) -> Result<Option<bool>, MuxerError> {
        let mut events = [EpollEvent::default(); 64];
        let timeout = if busy { 0 } else { self.timeout() };
        let count = match self.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(MuxerError::Host("waiting for events", error)),
        };
        if events[..count].iter().any(|event| event.data() == STOP) {
            return Ok(None);
        }
        let interrupt = self.interrupt.clone();
        let _inside = interrupt.gate().enter();
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept()?,
                TRANSPORT_RESET => self.transport_reset(),
                data if data >= Token::FIRST_FREE => {} // the queues are looked at in any case
                data => self.on_socket(Token(data), event.event_set()),
            }
        }
        self.expire()?;
        self.tell_reset()?;
        // Both in any case: the first may have made work for the second.
        let mut busy = self.take_packets()?;
        let full = self.rsts.len() >= RSTS;
        busy |= self.give_packets()?;
        // Packets that waited for room among the RSTs can be taken now.
        busy |= full && self.rsts.len() < RSTS;
        if std::mem::take(&mut self.interrupt_due) {
            self.interrupt.used_buffers();
        }
        Ok(Some(busy))
    }

    /// Milliseconds until the first deadline, or -1.
    fn timeout(&self) -> i32 {
        let first = self.deadlines.first().map(|(at, _)| *at);
        let Some(at) = first.into_iter().chain(self.closed_until).min() else {
            return -1;
        };
        let ms = at.saturating_duration_since(Instant::now()).as_millis() + 1;
        i32::try_from(ms).unwrap_or(i32::MAX)
    }

    fn expire(&mut self) -> Result<(), MuxerError> {
        if self.deadlines.is_empty() && self.closed_until.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(&(at, token)) = self.deadlines.first()
            && at <= now
        {
            let greeting = self.table.get(token).map(|c| c.state) == Some(State::Greeting);
            let refused = match greeting {
                true => &self.given.counts.refused_by_host,
                false => &self.given.counts.refused_by_guest,
            };
            refused.inc();
            self.end(token, After::Done);
        }
        if self.closed_until.is_some_and(|at| at <= now) {
            self.open_door()?;
        }
        Ok(())
    }

    /// What follows from something that happened to a connection.
    fn settle(&mut self, token: Token, after: After) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if after != After::Goes {
            return self.end(token, after);
        }
        if connection.wants_turn() && !connection.queued {
            connection.queued = true;
            self.ready.push_back(token);
        }
        // Whether the socket has room matters while something waits for it.
        let holds = connection.holds_data();
        if holds == connection.watches_room {
            return;
        }
        connection.watches_room = holds;
        let events = match holds {
            true => SOCKET_EVENTS | EventSet::OUT,
            false => SOCKET_EVENTS,
        };
        let fd = connection.socket.as_raw_fd();
        let event = EpollEvent::new(events, token.0);
        if let Err(error) = self.epoll.ctl(ControlOperation::Modify, fd, event) {
            self.host_error(&format_args!("watching a connection: {error}"));
            self.end(token, After::Broken("can't be watched"));
        }
    }

    /// Ends a connection; the guest hears of it unless it knows already.
    fn end(&mut self, token: Token, after: After) {
        if self.table.get(token).is_none() {
            return;
        }
        if let After::Broken(what) = after {
            self.given.counts.resets.inc();
            self.driver_error(what);
        }
        self.forget_deadline(token);
        let Some(connection) = self.table.remove(token) else {
            return;
        };
        self.given.counts.closed(1);
        if let Some(ports) = connection.ports
            && after != After::Gone
            && connection.is_known_to_guest()
        {
            self.rst(ports, STREAM);
        }
        // Closing the socket takes it out of epoll, too.
        drop(connection);
        if self.closed_until.is_some() {
            self.closed_until = Some(Instant::now());
        }
    }

    fn forget_deadline(&mut self, token: Token) {
        if let Some(connection) = self.table.get(token)
            && let Some(deadline) = connection.deadline.take()
        {
            self.deadlines.remove(&(deadline, token));
        }
    }

    fn rst(&mut self, ports: Ports, kind: u16) {
        self.rsts.push_back(Rst { ports, kind });
    }

    fn transport_reset(&mut self) {
        let _ = self.given.transport_reset.read();
        self.given.counts.closed(self.table.clear());
        self.ready.clear();
        self.rsts.clear();
        self.deadlines.clear();
        self.closed_until = self.closed_until.map(|_| Instant::now());
        self.reset_due = true;
    }

    /// Logged once where people see it, and then for those who ask.
    fn level(&self) -> log::Level {
        match self.given.erred.swap(true, Ordering::Relaxed) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        }
    }

    fn driver_error(&self, what: &str) {
        log::log!(self.level(), "vsock: the guest's driver {what}");
    }

    fn host_error(&self, what: &dyn std::fmt::Display) {
        log::log!(self.level(), "vsock: {what}");
    }
}
