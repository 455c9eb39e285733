//! The device's thread: one loop between the guest's queues and the sockets.
//!
//! A turn takes what epoll has, then up to [`BUDGET`] packets from the guest, then up to as many
//! to the guest, a packet for each connection in turn. Nothing in it waits: a socket that doesn't take
//! data leaves it in its connection's ring, and a guest that gives no buffers leaves connections
//! in the queue of those that have something to send.
//!
//! epoll tells of sockets by edges. A connection remembers that it's readable until a read finds nothing,
//! so one without credit, or with no buffer to read into, costs nothing while it waits.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::connection::{After, Connection, State};
use super::counts::Counts;
use super::credit::BUF_ALLOC;
use super::host::{Greeting, SocketFile, read_greeting};
use super::packet::{HEADER_LEN, HOST_CID, Header, STREAM, op};
use super::table::{Ports, Table, Token};
use crate::devices::virtio::buffers::{Buffers, ChainError};
use crate::devices::virtio::queue::{pop, push_used};
use crate::devices::virtio::{Activation, ActiveQueue, Interrupt};

/// The most packets in one direction before the other gets its turn.
const BUDGET: usize = 128;

/// The most programs taken in before others get their turn.
const ACCEPTS: usize = 64;

/// With so many RSTs waiting for the guest's buffers, no packet is taken from it, as each may make
/// one. So they are bounded and none is lost: a RST without a packet of the guest's is for a connection
/// of which the guest was told, and that happens only while no RST waits.
const RSTS: usize = 256;

/// Ports of the host for connections that its programs make: from here up, as others do it.
const FIRST_PORT: u32 = 1 << 30;

/// When the host refuses to let a program in (there's no descriptor left), how long until the next try,
/// if no connection ends before.
const NO_DESCRIPTORS: Duration = Duration::from_secs(1);

const STOP: u64 = Token::FIRST_FREE;
const LISTENER: u64 = Token::FIRST_FREE + 1;
const TRANSPORT_RESET: u64 = Token::FIRST_FREE + 2;
/// The queues, by their numbers.
const QUEUE: u64 = Token::FIRST_FREE + 16;

const RX: u16 = 0;
const TX: u16 = 1;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (§5.10.6.7).
const EVENT_TRANSPORT_RESET: u32 = 0;

/// What a device allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// From a program's connection until the guest has accepted it.
    pub handshake: Duration,
}

/// Why the thread stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum MuxerError {
    /// A chain of descriptors can't be used.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A queue can't be used.
    #[error("{0}")]
    Queue(virtio_queue::Error),
    /// A receive buffer is too small for a packet (§5.10.6.2).
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
}

/// A refusal that waits for a buffer.
struct Rst {
    ports: Ports,
    kind: u16,
}

/// The thread's data.
pub struct Muxer {
    given: Given,
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
    erred: bool,
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

    fn new(given: Given, activation: Activation) -> io::Result<Self> {
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
            next_port: FIRST_PORT,
            reset_due: false,
            interrupt_due: false,
            erred: false,
        };
        muxer.watch(muxer.given.stop.as_raw_fd(), STOP, EventSet::IN)?;
        let reset = muxer.given.transport_reset.as_raw_fd();
        muxer.watch(reset, TRANSPORT_RESET, EventSet::IN)?;
        let listener = muxer.listener();
        muxer.watch(listener, LISTENER, EventSet::IN)?;
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

    fn listener(&self) -> i32 {
        use std::os::fd::AsFd;
        self.given.socket.as_fd().as_raw_fd()
    }

    fn serve(&mut self) -> Result<(), MuxerError> {
        let mut events = [EpollEvent::default(); 64];
        let mut busy = true;
        loop {
            let timeout = if busy { 0 } else { self.timeout() };
            let count = match self.epoll.wait(timeout, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(MuxerError::Host("waiting for events", error)),
            };
            for event in &events[..count] {
                match event.data() {
                    STOP => return Ok(()),
                    LISTENER => self.accept()?,
                    TRANSPORT_RESET => self.transport_reset(),
                    data if data >= Token::FIRST_FREE => {} // the queues are looked at in any case
                    data => self.on_socket(Token(data), event.event_set()),
                }
            }
            self.expire()?;
            self.tell_reset()?;
            // Both in any case: the first may have made work for the second.
            busy = self.take_packets()?;
            let full = self.rsts.len() >= RSTS;
            busy |= self.give_packets()?;
            // Packets that waited for room among the RSTs can be taken now.
            busy |= full && self.rsts.len() < RSTS;
            if std::mem::take(&mut self.interrupt_due) {
                self.interrupt.used_buffers();
            }
        }
    }

    // --- time ---

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

    // --- the host's programs ---

    fn accept(&mut self) -> Result<(), MuxerError> {
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

    fn open_door(&mut self) -> Result<(), MuxerError> {
        self.closed_until = None;
        self.watch_door(EventSet::IN)
    }

    fn watch_door(&self, events: EventSet) -> Result<(), MuxerError> {
        let event = EpollEvent::new(events, LISTENER);
        let result = self
            .epoll
            .ctl(ControlOperation::Modify, self.listener(), event);
        result.map_err(|error| MuxerError::Host("watching the socket", error))
    }

    fn insert(&mut self, connection: Connection) -> Option<Token> {
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

    fn on_socket(&mut self, token: Token, events: EventSet) {
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

    // --- connections ---

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

    /// Tells the guest that all of its connections are gone, once it has given a buffer for that.
    fn tell_reset(&mut self) -> Result<(), MuxerError> {
        let Some(event) = self.event.as_mut().filter(|_| self.reset_due) else {
            return Ok(());
        };
        let queue = &mut event.queue;
        let (chain, _) = loop {
            if let Some(chain) = pop(queue, &self.memory)? {
                break chain;
            }
            if !queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        };
        let head = chain.head_index();
        self.buffers.load(chain)?;
        let room = self.buffers.writable.len();
        let bytes = EVENT_TRANSPORT_RESET.to_le_bytes();
        if self.buffers.writable.write(&bytes) < bytes.len() {
            return Err(MuxerError::Room(room));
        }
        self.interrupt_due |= push_used(queue, &self.memory, head, bytes.len() as u32)?;
        self.reset_due = false;
        Ok(())
    }

    // --- packets from the guest ---

    /// Takes packets from the guest; whether more are there.
    fn take_packets(&mut self) -> Result<bool, MuxerError> {
        let Some(mut tx) = self.tx.take() else {
            return Ok(false);
        };
        let result = self.take_from(&mut tx.queue);
        self.tx = Some(tx);
        result
    }

    fn take_from(&mut self, queue: &mut Queue) -> Result<bool, MuxerError> {
        queue.disable_notification(&self.memory)?;
        for _ in 0..BUDGET {
            if self.rsts.len() >= RSTS {
                // The guest has to take some first; its buffers wake this thread.
                return Ok(false);
            }
            let memory = self.memory.clone();
            let Some((chain, _)) = pop(queue, &memory)? else {
                return Ok(queue.enable_notification(&self.memory)?);
            };
            let head = chain.head_index();
            self.buffers.load(chain)?;
            self.on_packet();
            self.given.counts.packets_from_guest.inc();
            self.interrupt_due |= push_used(queue, &self.memory, head, 0)?;
        }
        Ok(true)
    }

    /// A packet from the guest, in `buffers.readable`.
    fn on_packet(&mut self) {
        let mut bytes = [0; HEADER_LEN];
        if self.buffers.readable.read(&mut bytes) < HEADER_LEN {
            self.given.counts.dropped.inc();
            return self.driver_error("sends a packet without a whole header");
        }
        let header = Header::from_bytes(&bytes);
        if header.src_cid != self.given.cid || header.dst_cid != HOST_CID {
            self.given.counts.dropped.inc();
            return self.driver_error("sends a packet from or to another's CID");
        }
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        let token = match header.kind {
            STREAM => self.table.find(ports),
            _ => None,
        };
        match token {
            None if header.op == op::RST => {} // never answered, or two would go on for ever
            None if header.kind == STREAM && header.op == op::REQUEST => {
                self.connect(ports, &header);
            }
            // §5.10.6.4.1: an unknown type; or a connection that is over or never was.
            None => self.rst(ports, header.kind),
            Some(token) => self.on_connection_packet(token, &header),
        }
    }

    fn on_connection_packet(&mut self, token: Token, header: &Header) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let before = connection.state;
        let after = connection.on_packet(header, &mut self.buffers.readable);
        let (now, since) = (connection.state, connection.since);
        let counts = &self.given.counts;
        match (before, now) {
            (State::Requested, State::Open) => {
                counts.from_host.inc();
                if let Some(since) = since {
                    counts.connect.record(since.elapsed());
                }
                self.forget_deadline(token);
            }
            (State::Requested, State::Requested) if header.op == op::RST => {
                counts.refused_by_guest.inc();
            }
            (State::Open, _) if header.op == op::RST => counts.resets.inc(),
            (State::Open, _) if header.op == op::RW && after == After::Goes => {
                counts.bytes_to_host.add(header.len.into());
            }
            _ => {}
        }
        if now == State::Draining {
            // The guest may use its port again.
            self.table.clear_ports(token);
        }
        self.settle(token, after);
    }

    /// The guest connects to a port of the host.
    fn connect(&mut self, ports: Ports, request: &Header) {
        let refused = match self.table.len() >= self.given.limits.connections {
            true => Err(io::Error::other("too many connections")),
            false => self.given.socket.connect_port(ports.host),
        };
        let inserted = match refused {
            Ok(socket) => self.insert(Connection::accepted(socket, ports, request)),
            Err(error) => {
                log::debug!("vsock: the guest connects to port {}: {error}", ports.host);
                self.given.counts.refused_by_host.inc();
                return self.rst(ports, STREAM);
            }
        };
        if let Some(token) = inserted {
            self.given.counts.from_guest.inc();
            self.settle(token, After::Goes);
        }
    }

    // --- packets to the guest ---

    /// Gives the guest what there is for it; whether more could be given at once.
    fn give_packets(&mut self) -> Result<bool, MuxerError> {
        let Some(mut rx) = self.rx.take() else {
            return Ok(false);
        };
        let result = self.give_to(&mut rx.queue);
        self.rx = Some(rx);
        result
    }

    fn give_to(&mut self, queue: &mut Queue) -> Result<bool, MuxerError> {
        queue.disable_notification(&self.memory)?;
        let memory = self.memory.clone();
        for _ in 0..BUDGET {
            if self.has_nothing() {
                break;
            }
            let Some((chain, _)) = pop(queue, &memory)? else {
                break;
            };
            let head = chain.head_index();
            self.buffers.load(chain)?;
            let Some(len) = self.give_one()? else {
                queue.go_to_previous_position();
                break;
            };
            self.given.counts.packets_to_guest.inc();
            self.interrupt_due |= push_used(queue, &memory, head, len)?;
        }
        // Without something to send, buffers are no news.
        Ok(!self.has_nothing() && queue.enable_notification(&memory)?)
    }

    fn has_nothing(&self) -> bool {
        self.rsts.is_empty() && self.ready.is_empty()
    }

    /// Fills the buffer that is loaded with one packet; its length. `None` if there is nothing to send.
    fn give_one(&mut self) -> Result<Option<u32>, MuxerError> {
        let size = self.buffers.writable.len();
        let Some(room) = size.checked_sub(HEADER_LEN) else {
            return Err(MuxerError::Room(size));
        };
        // The header stays in `writable`; `tail` is for the data.
        self.buffers.split_tail(room);
        let Some(header) = self.next_packet(size)? else {
            return Ok(None);
        };
        self.buffers.writable.write(&header.to_bytes());
        Ok(Some(HEADER_LEN as u32 + header.len))
    }

    fn next_packet(&mut self, size: usize) -> Result<Option<Header>, MuxerError> {
        let from_host = |ports: Ports| Header {
            src_cid: HOST_CID,
            dst_cid: self.given.cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            ..Header::default()
        };
        if let Some(Rst { ports, kind }) = self.rsts.pop_front() {
            return Ok(Some(Header {
                kind,
                op: op::RST,
                ..from_host(ports)
            }));
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(connection) = self.table.get(token) else {
                continue; // ended since
            };
            connection.queued = false;
            let packet = connection.next_packet(&mut self.buffers.tail);
            let packet = packet.map_err(|_| MuxerError::Room(size))?;
            if connection.wants_turn() {
                connection.queued = true;
                self.ready.push_back(token);
            }
            if let (Some(packet), Some(ports)) = (packet, connection.ports) {
                self.given.counts.bytes_to_guest.add(packet.len.into());
                return Ok(Some(Header {
                    op: packet.op,
                    flags: packet.flags,
                    len: packet.len,
                    buf_alloc: BUF_ALLOC,
                    fwd_cnt: connection.credit.tell(),
                    ..from_host(ports)
                }));
            }
        }
        Ok(None)
    }

    // --- what goes wrong ---

    /// Logged once where people see it, and then for those who ask.
    fn level(&mut self) -> log::Level {
        match std::mem::replace(&mut self.erred, true) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        }
    }

    fn driver_error(&mut self, what: &str) {
        log::log!(self.level(), "vsock: the guest's driver {what}");
    }

    fn host_error(&mut self, what: &dyn std::fmt::Display) {
        log::log!(self.level(), "vsock: {what}");
    }
}

const SOCKET_EVENTS: EventSet = EventSet::IN
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);
