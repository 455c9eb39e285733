//! Sockets between a guest that lies and host programs that do: floods of connections, of resets and of packets
//! with any field wrong.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::driver::{self, *};
use crate::kvm;
use crate::monitor::{MEMORY_KIB, Monitor};
use crate::native;
use crate::process::limit;
use crate::random::Random;
use crate::script::{Act, Script};

const ONE_OF: u64 = native::ONE_OF as u64;
const TX: u32 = 1;
const CID: u64 = 3;
/// The operations of a packet (virtio 1.3 §5.10.6).
pub const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// A packet's header; what isn't said is right.
#[derive(Clone, Copy)]
pub struct Packet {
    source: u64,
    target: u64,
    ports: (u32, u32),
    pub length: u32,
    kind: u16,
    operation: u16,
    pub flags: u32,
    credit: (u32, u32),
}

impl Packet {
    pub fn new(operation: u16, ports: (u32, u32)) -> Self {
        Packet {
            source: CID,
            target: 2,
            ports,
            length: 0,
            kind: 1,
            operation,
            flags: 0,
            credit: (1 << 20, 0),
        }
    }
}

impl Script {
    pub fn vsock_up(&mut self) -> &mut Self {
        self.bring_up(driver::device(0), VERSION_1, 3)
    }

    /// Sends a packet, as the `count`th of its queue, from a buffer of 64 KiB.
    pub fn packet(&mut self, count: u64, packet: Packet) -> &mut Self {
        let ring = Ring::number(TX.into());
        let double = |(low, high): (u32, u32)| u64::from(low) | u64::from(high) << 32;
        let middle = u64::from(packet.length)
            | u64::from(packet.kind) << 32
            | u64::from(packet.operation) << 48;
        self.write64(BUFFER, packet.source)
            .write64(BUFFER + 8, packet.target)
            .write64(BUFFER + 16, double(packet.ports))
            .write64(BUFFER + 24, middle)
            .write64(BUFFER + 32, double((packet.flags, packet.credit.0)))
            .write32(BUFFER + 40, packet.credit.1)
            .write16(ring.available + 2, count as u16 + 1)
            .notify(driver::device(0), TX)
            .op(Act::Await, ring.used + 2, (count as u16 + 1).into())
            .times(400)
    }

    /// One chain for all packets, and no buffers for what comes back; or some.
    pub fn packet_buffers(&mut self, receive: bool) -> &mut Self {
        let (tx, rx) = (Ring::number(TX.into()), Ring::number(0));
        self.descriptor(tx.descriptors, 0, (BUFFER, 44, NEXT, 1));
        self.descriptor(tx.descriptors, 1, (BUFFER + 44, 1 << 16, 0, 0));
        if receive {
            self.descriptor(rx.descriptors, 0, (BUFFER + 0x2_0000, 4096, WRITE, 0));
            self.offer(rx, &[0; 8], 8).notify(driver::device(0), 0);
        }
        self
    }
}

pub fn monitor(folder: &Path, script: &Script) -> Monitor {
    let socket = format!("cid=3,socket={}", folder.join("v").display());
    Monitor::of(folder, script).with(&["--rng", "off", "--vsock", &socket])
}

#[test]
fn connections_to_nobody_and_resets_without_end() {
    if !kvm() {
        return;
    }
    for receive in [false, true] {
        let mut script = Script::new();
        script.vsock_up().packet_buffers(receive);
        script.repeat(600 / ONE_OF, |script, n| {
            let operation = [REQUEST, RST, RW, CREDIT_REQUEST][n as usize % 4];
            script.packet(n, Packet::new(operation, (n as u32, 5000)));
        });
        let folder = tempfile::tempdir().unwrap();
        monitor(folder.path(), script.end()).run().survived();
    }
}

/// More than a process with so few descriptors may have.
const FLOOD: u64 = 1200;
const DESCRIPTORS: u64 = 500;

#[test]
fn more_connections_than_there_may_be_to_a_program_that_stalls() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("v_5000")).unwrap();
    // It takes them, and never says or reads anything.
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let mut script = Script::new();
    script.vsock_up().packet_buffers(false);
    script.repeat(FLOOD, |script, n| {
        script.packet(n, Packet::new(REQUEST, (n as u32, 5000)));
    });
    // What each connection holds for a guest that sends more than it may.
    script.repeat(600 / ONE_OF, |script, n| {
        let data = Packet {
            length: 1 << 16,
            ..Packet::new(RW, (n as u32 % 40, 5000))
        };
        script.packet(FLOOD + n, data);
    });
    let monitor = monitor(folder.path(), script.end());
    monitor
        .memory_kib(MEMORY_KIB + (80 << 10))
        .before(|| limit(libc::RLIMIT_NOFILE, DESCRIPTORS))
        .run()
        .survived();
}

#[test]
fn packets_with_any_field_wrong() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("v_5000")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
    let mut random = Random::new();
    let mut script = Script::new();
    script.vsock_up().packet_buffers(true);
    script.repeat(3000 / ONE_OF, |script, n| {
        let operations = [
            0,
            REQUEST,
            RESPONSE,
            RST,
            SHUTDOWN,
            RW,
            CREDIT_UPDATE,
            CREDIT_REQUEST,
            8,
            !0,
        ];
        let mut packet = Packet::new(random.of(&operations), (random.below(4) as u32, 5000));
        match random.below(12) {
            0 => packet.source = random.of(&[0, 1, 2, 4, !0]),
            1 => packet.target = random.of(&[0, 1, 3, !0]),
            2 => packet.ports.1 = random.next() as u32,
            3 | 4 => packet.length = random.of(&[1, 5, 1 << 16, (1 << 16) + 1, 1 << 31, !0]),
            5 => packet.kind = random.of(&[0, 2, !0]),
            6 => packet.flags = random.of(&[1, 2, 3, !0]),
            // Credit that goes backwards, or is more than there is.
            7..9 => packet.credit = (random.next() as u32, random.next() as u32),
            9 => packet.credit = (0, 0),
            _ => {}
        }
        script.packet(n % 200, packet);
        if n % 200 == 199 {
            script.vsock_up().packet_buffers(n % 400 == 199);
            // The queue begins anew.
            let ring = Ring::number(TX.into());
            script.write16(ring.available + 2, 0);
        }
    });
    monitor(folder.path(), script.end()).run().survived();
}

#[test]
fn host_programs_that_stall_say_nonsense_and_come_by_the_hundred() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    script
        .vsock_up()
        .packet_buffers(false)
        .print("up")
        .code(native::spin_for_ever());
    let monitor = monitor(folder.path(), &script).unread();
    let mut running = monitor.memory_kib(MEMORY_KIB + (80 << 10)).start();
    running.hear(b"up");
    let path = folder.path().join("v");
    let mut kept = Vec::new();
    for n in 0..1500 {
        let mut stream = UnixStream::connect(&path).unwrap();
        let words: &[u8] = match n % 6 {
            0 => b"",
            1 => b"CONNECT 5000\n",
            2 => b"CONNECT 99999999999999999999\n",
            3 => b"CONN",
            4 => &[0xff; 5000],
            _ => b"CONNECT -1\n\0\0\r\n",
        };
        // It may have been refused already.
        let _ = stream.write_all(words);
        if n % 3 == 0 {
            kept.push(stream);
        }
    }
    // One that is wrong is told, or let go.
    let mut wrong = UnixStream::connect(&path).unwrap();
    let _ = wrong.write_all(b"CONNECT x\n");
    drop(kept);
    let mut answer = Vec::new();
    let _ = wrong.read_to_end(&mut answer);
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
}
