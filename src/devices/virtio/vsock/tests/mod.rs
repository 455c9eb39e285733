//! A scripted driver, and programs on the host at the other end.

mod hostile;
mod life;
mod many;
mod streams;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use tempfile::TempDir;

use super::credit::BUF_ALLOC;
use super::packet::*;
use super::table::Ports;
use super::*;
use crate::devices::virtio::testing::{Buffer::*, *};

const CID: u32 = 42;
const RX_LEN: usize = 4096;
/// What the scripted guest has room for in each connection.
const GUEST_ROOM: u32 = 256 * 1024;

/// A guest with a vsock device and nothing else.
struct Guest {
    fake: FakeGuest,
    rx: DriverQueue,
    tx: DriverQueue,
    event: DriverQueue,
    /// Where each receive descriptor's buffer is.
    rx_at: u64,
    tx_at: u64,
    counts: Arc<Counts>,
    transport_reset: Arc<EventFd>,
    folder: TempDir,
}

/// The guest's view of one connection.
#[derive(Clone, Copy, Debug)]
struct Stream {
    ports: Ports,
    /// Data received and used up, as the guest tells.
    fwd_cnt: u32,
    room: u32,
}

fn stream(guest: u32, host: u32) -> Stream {
    Stream {
        ports: Ports { guest, host },
        fwd_cnt: 0,
        room: GUEST_ROOM,
    }
}

impl Stream {
    fn header(&self, op: u16, len: usize) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID,
            src_port: self.ports.guest,
            dst_port: self.ports.host,
            len: len as u32,
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: self.room,
            fwd_cnt: self.fwd_cnt,
        }
    }
}

const LIMITS: Limits = Limits {
    connections: MAX_CONNECTIONS,
    handshake: Duration::from_secs(1000),
};

impl Guest {
    fn new() -> Self {
        Self::with(LIMITS, EVENT_IDX)
    }

    fn with(limits: Limits, features: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let device =
            VsockDevice::with_limits(CID, SocketFile::bind(&path).unwrap(), limits).unwrap();
        let counts = device.counts.clone();
        let transport_reset = device.transport_reset();
        let mut fake = FakeGuest::new(device);
        let (rx_at, tx_at) = (fake.alloc(128 * RX_LEN), fake.alloc(128 * 1024));
        let queues = fake.start(features).try_into();
        let [rx, tx, event]: [DriverQueue; 3] = queues.ok().unwrap();
        let mut guest = Self {
            fake,
            rx,
            tx,
            event,
            rx_at,
            tx_at,
            counts,
            transport_reset,
            folder,
        };
        guest.give_buffers(128);
        guest
    }

    /// The next driver, after a reset.
    fn restart(&mut self, features: u64) {
        let queues = self.fake.start(features).try_into();
        [self.rx, self.tx, self.event] = queues.ok().unwrap();
        self.give_buffers(128);
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("v")
    }

    /// A program on the host that serves a port.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("v_{port}"))).unwrap()
    }

    fn give_buffers(&mut self, count: usize) {
        let heads: Vec<u16> = (0..count).map(|_| self.give_buffer(RX_LEN)).collect();
        self.fake.kick(&mut self.rx, &heads);
    }

    fn give_buffer(&mut self, len: usize) -> u16 {
        let at = |head: u16| self.rx_at + u64::from(head) * RX_LEN as u64;
        let head = self.rx.next_head();
        assert_eq!(self.rx.add(&[Write(at(head), len as u32)]), head);
        head
    }

    /// Sends a packet, in two descriptors as Linux does, and waits until it's taken.
    fn send(&mut self, header: Header, data: &[u8]) {
        self.post(header, data);
        self.fake.wait_used(&mut self.tx);
    }

    fn post(&mut self, header: Header, data: &[u8]) {
        let at = self.tx_at;
        self.fake.store(at, &header.to_bytes());
        self.fake.store(at + 0x1000, data);
        let head = match data.is_empty() {
            true => self.tx.add(&[Read(at, 44)]),
            false => self
                .tx
                .add(&[Read(at, 44), Read(at + 0x1000, data.len() as u32)]),
        };
        self.fake.kick(&mut self.tx, &[head]);
    }

    /// A packet of a kind that has no data.
    fn say(&mut self, stream: &Stream, op: u16) {
        self.send(stream.header(op, 0), &[]);
    }

    fn shut(&mut self, stream: &Stream, flags: u32) {
        let header = Header {
            flags,
            ..stream.header(op::SHUTDOWN, 0)
        };
        self.send(header, &[]);
    }

    fn data(&mut self, stream: &Stream, data: &[u8]) {
        self.send(stream.header(op::RW, data.len()), data);
    }

    /// The next packet from the device, whose buffer is given back.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let packet = self.receive_for_good();
        self.give_buffers(1);
        packet
    }

    fn receive_for_good(&mut self) -> (Header, Vec<u8>) {
        let (head, len) = self.fake.wait_used(&mut self.rx);
        let at = self.rx_at + u64::from(head) * RX_LEN as u64;
        let bytes = self.fake.load(at, len as usize);
        let header = Header::from_bytes(bytes[..HEADER_LEN].try_into().unwrap());
        assert_eq!(header.len as usize, bytes.len() - HEADER_LEN);
        assert_eq!(
            (header.src_cid, header.dst_cid),
            (HOST_CID, u64::from(CID)),
            "{header:?}"
        );
        (header, bytes[HEADER_LEN..].to_vec())
    }

    /// The next packet, which is this one.
    #[track_caller]
    fn expect(&mut self, stream: &Stream, op: u16) -> Header {
        let (header, data) = self.receive();
        let ports = Ports {
            guest: header.dst_port,
            host: header.src_port,
        };
        assert_eq!(
            (header.op, ports),
            (op, stream.ports),
            "{header:?} {data:?}"
        );
        header
    }

    /// All data of the stream until `len` bytes have come; other packets of it are left out.
    fn receive_data(&mut self, stream: &mut Stream, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let (header, data) = self.receive();
            if header.op == op::RW && header.dst_port == stream.ports.guest {
                all.extend(data);
            }
        }
        stream.fwd_cnt = stream.fwd_cnt.wrapping_add(all.len() as u32);
        all
    }

    /// Whether nothing comes: whatever was to come has come before the answer to this.
    fn nothing_more(&mut self) {
        let nobody = stream(0xdead, 0xbeef);
        self.say(&nobody, op::CREDIT_UPDATE);
        self.expect(&nobody, op::RST);
    }

    /// What the device now says of how much it has passed on.
    fn ask_credit(&mut self, stream: &Stream) -> usize {
        self.say(stream, op::CREDIT_REQUEST);
        let nobody = super::tests::stream(0xdead, 0xbeef);
        self.say(&nobody, op::CREDIT_UPDATE);
        // In either order.
        let (mut told, mut all) = (None, false);
        loop {
            let (header, _) = self.receive();
            if header.dst_port == nobody.ports.guest {
                all = true;
            } else {
                assert_eq!(header.op, op::CREDIT_UPDATE);
                told = Some(header.fwd_cnt as usize);
            }
            if let (Some(told), true) = (told, all) {
                return told;
            }
        }
    }

    /// Leaves the device with no receive buffer.
    fn use_up_buffers(&mut self) {
        let nobody = stream(0xdead, 0xbeef);
        for _ in 0..128 {
            self.say(&nobody, op::CREDIT_UPDATE);
            self.receive_for_good();
        }
    }

    /// Takes all that has been sent to the guest so far.
    fn discard(&mut self) {
        let nobody = stream(0xdead, 0xbeef);
        self.say(&nobody, op::CREDIT_UPDATE);
        while self.receive().0.dst_port != nobody.ports.guest {}
    }

    /// The guest connects to a program; the program's end.
    fn connect(&mut self, listener: &UnixListener, stream: &Stream) -> UnixStream {
        self.say(stream, op::REQUEST);
        let header = self.expect(stream, op::RESPONSE);
        assert_eq!((header.buf_alloc, header.fwd_cnt), (BUF_ALLOC, 0));
        listener.accept().unwrap().0
    }

    /// A program connects to the guest's port.
    fn connect_from_host(&mut self, port: u32) -> (UnixStream, Stream) {
        let mut program = UnixStream::connect(self.socket()).unwrap();
        writeln!(program, "CONNECT {port}").unwrap();
        let (header, _) = self.receive();
        assert_eq!((header.op, header.dst_port), (op::REQUEST, port));
        let stream = stream(port, header.src_port);
        self.say(&stream, op::RESPONSE);
        let mut line = String::new();
        // A reader of its own would keep what comes behind the line.
        while !line.ends_with('\n') {
            let mut byte = [0];
            program.read_exact(&mut byte).unwrap();
            line.push(byte[0].into());
        }
        assert_eq!(line, format!("OK {}\n", stream.ports.host));
        (program, stream)
    }
}

/// Bytes that don't repeat soon.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

/// All that comes until the end, or until the device has closed the socket with something unread.
fn rest(program: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    if let Err(error) = program.read_to_end(&mut all) {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    all
}

#[test]
fn the_device_has_its_cid_and_streams_only() {
    let mut guest = Guest::new();
    assert_eq!(guest.fake.config(0), [CID as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.fake.get(8), VIRTIO_ID_VSOCK);
    assert_eq!(guest.fake.offered() & 0xff, F_STREAM);
}

#[test]
fn the_guest_reaches_a_program_and_a_program_the_guest() {
    for features in [0, EVENT_IDX] {
        let mut guest = Guest::with(LIMITS, features);
        let listener = guest.listen(80);
        let mut out = stream(1000, 80);
        let mut program = guest.connect(&listener, &out);
        guest.data(&out, b"hello, host");
        let mut bytes = [0; 11];
        program.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello, host");
        program.write_all(b"hello, guest").unwrap();
        assert_eq!(guest.receive_data(&mut out, 12), b"hello, guest");

        let (mut program, mut incoming) = guest.connect_from_host(22);
        assert!(incoming.ports.host >= 1 << 30);
        program.write_all(b"anyone?").unwrap();
        assert_eq!(guest.receive_data(&mut incoming, 7), b"anyone?");
        guest.data(&incoming, b"yes");
        let mut bytes = [0; 3];
        program.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"yes");

        assert_eq!(guest.counts.open(), 2);
        let mut samples = crate::metrics::Samples::default();
        guest.counts.collect(&mut samples);
        let text = samples.to_string();
        for line in [
            "mote_vsock_connections{device=\"vsock\"} 2",
            "mote_vsock_connections_total{device=\"vsock\",from=\"host\"} 1",
            "mote_vsock_bytes_total{device=\"vsock\",to=\"guest\"} 19",
            "mote_vsock_bytes_total{device=\"vsock\",to=\"host\"} 14",
            "mote_vsock_connect_seconds_count{device=\"vsock\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}

#[test]
fn what_a_program_sends_behind_its_line_is_not_lost() {
    let mut guest = Guest::new();
    let mut program = UnixStream::connect(guest.socket()).unwrap();
    program.write_all(b"CONNECT 7\nearly").unwrap();
    let (header, _) = guest.receive();
    assert_eq!(header.op, op::REQUEST);
    let mut stream = stream(7, header.src_port);
    guest.say(&stream, op::RESPONSE);
    assert_eq!(guest.receive_data(&mut stream, 5), b"early");
}

#[test]
fn nobody_there_is_a_refusal_both_ways() {
    let mut guest = Guest::new();
    let nobody = stream(1, 81);
    guest.say(&nobody, op::REQUEST);
    guest.expect(&nobody, op::RST);
    // A socket whose program is gone.
    leave_socket(&guest.folder.path().join("v_82"));
    let gone = stream(1, 82);
    guest.say(&gone, op::REQUEST);
    guest.expect(&gone, op::RST);
    assert_eq!(guest.counts.refused_by_host.get(), 2);

    let mut program = UnixStream::connect(guest.socket()).unwrap();
    program.write_all(b"CONNECT 5\n").unwrap();
    let (header, _) = guest.receive();
    guest.say(&stream(5, header.src_port), op::RST);
    assert_eq!(rest(&mut program), b"");
    assert_eq!(guest.counts.refused_by_guest.get(), 1);
    guest.nothing_more();
    assert_eq!(guest.counts.open(), 0);
}
