//! Packets that a driver must not send, and buffers that it must not give.

use proptest::prelude::*;

use super::*;

#[test]
fn packets_for_no_connection_are_answered_by_one_rst_each() {
    let mut guest = Guest::new();
    let nobody = stream(5, 6);
    for op in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        8,
        0xffff,
    ] {
        guest.say(&nobody, op);
        guest.expect(&nobody, op::RST);
    }
    // But never a RST by a RST.
    guest.say(&nobody, op::RST);
    guest.nothing_more();
}

#[test]
fn another_type_is_refused_in_kind() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(5, 80);
    for kind in [0, 2, 0xffff] {
        for op in [op::REQUEST, op::RW, op::RST] {
            let header = Header {
                kind,
                ..stream.header(op, 0)
            };
            guest.send(header, &[]);
            if op != op::RST {
                assert_eq!(guest.expect(&stream, op::RST).kind, kind);
            }
        }
    }
    guest.nothing_more();
    guest.connect(&listener, &stream);
}

#[test]
fn another_address_and_half_a_header_are_dropped() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(5, 80);
    let good = stream.header(op::REQUEST, 0);
    for (src_cid, dst_cid) in [
        (u64::from(CID) + 1, 2),
        (u64::from(CID) | 1 << 32, 2),
        (2, 2),
        (CID.into(), 1),
        (CID.into(), CID.into()),
        (CID.into(), 0xffff_ffff),
    ] {
        guest.send(
            Header {
                src_cid,
                dst_cid,
                ..good
            },
            &[],
        );
    }
    for len in [0, 1, 43] {
        let head = guest.tx.add(&[Read(guest.tx_at, len)]);
        guest.fake.kick(&mut guest.tx, &[head]);
        guest.fake.wait_used(&mut guest.tx);
    }
    // Nothing to read at all.
    let head = guest.tx.add(&[Write(guest.tx_at, 100)]);
    guest.fake.kick(&mut guest.tx, &[head]);
    guest.fake.wait_used(&mut guest.tx);
    guest.nothing_more();
    assert_eq!(guest.counts.dropped.get(), 10);
    guest.connect(&listener, &stream);
}

#[test]
fn what_has_no_place_in_a_connection_ends_it() {
    type Step = fn(&mut Guest, &Stream);
    let steps: [(&str, Step); 7] = [
        ("a length beyond the data", |guest, stream| {
            guest.send(stream.header(op::RW, 100), b"ten bytes.");
        }),
        ("the largest length", |guest, stream| {
            let header = Header {
                len: u32::MAX,
                ..stream.header(op::RW, 0)
            };
            guest.send(header, &[]);
        }),
        ("data after the end", |guest, stream| {
            guest.shut(stream, SHUTDOWN_SEND);
            guest.data(stream, b"more");
        }),
        ("a second request", |guest, stream| {
            guest.say(stream, op::REQUEST);
        }),
        ("a response to nothing", |guest, stream| {
            guest.say(stream, op::RESPONSE);
        }),
        ("an unknown operation", |guest, stream| guest.say(stream, 8)),
        ("operation 0", |guest, stream| guest.say(stream, 0)),
    ];
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(5, 80);
    for (what, step) in steps {
        let mut program = guest.connect(&listener, &stream);
        step(&mut guest, &stream);
        guest.expect(&stream, op::RST);
        assert_eq!(rest(&mut program), b"", "{what}");
        assert_eq!(guest.counts.open(), 0, "{what}");
    }
    guest.nothing_more();
}

#[test]
fn an_answer_out_of_order_refuses_the_program() {
    for op in [op::RW, op::SHUTDOWN, op::REQUEST, op::CREDIT_UPDATE] {
        let mut guest = Guest::new();
        let mut program = UnixStream::connect(guest.socket()).unwrap();
        program.write_all(b"CONNECT 5\n").unwrap();
        let (header, _) = guest.receive();
        let stream = stream(5, header.src_port);
        guest.say(&stream, op);
        guest.expect(&stream, op::RST);
        assert_eq!(rest(&mut program), b"");
    }
}

#[test]
fn data_may_be_cut_in_any_way() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(5, 80);
    let mut program = guest.connect(&listener, &stream);
    let at = guest.tx_at;
    let header = stream.header(op::RW, 10);
    guest.fake.store(at, &header.to_bytes());
    guest
        .fake
        .store(at + 44, b"0123456789, and what has no meaning");
    for cut in [
        vec![Read(at, 54)],
        vec![Read(at, 80)],
        vec![Read(at, 10), Read(at + 10, 34), Read(at + 44, 10)],
        vec![
            Read(at, 44),
            Read(at + 44, 0),
            Read(at + 44, 1),
            Read(at + 45, 30),
        ],
        (0..54).map(|i| Read(at + i, 1)).collect(),
    ] {
        let head = guest.tx.add(&cut);
        guest.fake.kick(&mut guest.tx, &[head]);
        guest.fake.wait_used(&mut guest.tx);
        let mut bytes = [0; 10];
        program.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"0123456789");
    }
}

#[test]
fn receive_buffers_may_be_cut_in_any_way() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(5, 80);
    let mut program = guest.connect(&listener, &stream);
    guest.use_up_buffers();
    program.write_all(b"0123456789").unwrap();
    let at = guest.fake.alloc(0x1000);
    let cut: Vec<Buffer> = (0..50).map(|i| Write(at + 2 * i, 1)).collect();
    let head = guest.rx.add(&cut);
    guest.fake.kick(&mut guest.rx, &[head]);
    let (_, len) = guest.fake.wait_used(&mut guest.rx);
    assert_eq!(len, 50);
    let bytes: Vec<u8> = guest.fake.load(at, 100).into_iter().step_by(2).collect();
    let header = Header::from_bytes(bytes[..44].try_into().unwrap());
    assert_eq!((header.op, header.len), (op::RW, 6));
    assert_eq!(&bytes[44..], b"012345");
}

#[test]
fn a_receive_buffer_without_room_fails_the_device() {
    for len in [0, 43, 44] {
        let mut guest = Guest::new();
        let listener = guest.listen(80);
        let stream = stream(5, 80);
        let mut program = guest.connect(&listener, &stream);
        guest.use_up_buffers();
        let head = guest.give_buffer(len);
        guest.fake.kick(&mut guest.rx, &[head]);
        program.write_all(b"data").unwrap();
        guest.fake.expect_failure();
        // Programs are told, and the driver may begin again.
        assert_eq!(rest(&mut program), b"");
        assert_eq!(guest.counts.open(), 0);
    }
}

#[test]
fn an_address_nowhere_fails_the_device() {
    for receive in [false, true] {
        let mut guest = Guest::new();
        let nobody = stream(5, 80);
        if receive {
            guest.use_up_buffers();
            let head = guest.rx.add(&[Write(NOWHERE, 4096)]);
            guest.fake.kick(&mut guest.rx, &[head]);
            guest.post(nobody.header(op::REQUEST, 0), &[]);
        } else {
            let head = guest.tx.add(&[Read(NOWHERE, 44)]);
            guest.fake.kick(&mut guest.tx, &[head]);
        }
        wait_until("failure", || guest.fake.status() & NEEDS_RESET != 0);
    }
}

#[test]
fn broken_rings_fail_the_device() {
    for receive in [false, true] {
        for loops in [false, true] {
            let mut guest = Guest::new();
            if receive {
                guest.use_up_buffers();
            }
            let queue = match receive {
                true => &mut guest.rx,
                false => &mut guest.tx,
            };
            if loops {
                let head = queue.next_head();
                queue.set_descriptor(
                    head,
                    0x1000,
                    64,
                    if receive { WRITE } else { 0 } | NEXT,
                    head,
                );
                queue.publish(&[head]);
            } else {
                queue.set_available_index(queue.size * 3);
            }
            if receive {
                guest.fake.set(0x50, 0);
                guest.post(stream(1, 2).header(op::RW, 0), &[]);
            } else {
                guest.fake.set(0x50, 1);
            }
            wait_until("failure", || guest.fake.status() & NEEDS_RESET != 0);
        }
    }
}

/// A driver that gives no buffers doesn't get the device to remember more and more.
#[test]
fn rsts_wait_for_buffers_and_are_bounded() {
    let mut guest = Guest::new();
    let nobody = |i: u32| stream(i, 80);
    guest.use_up_buffers();
    // Nothing to answer into from here on. 256 are kept; the rest stays in the ring.
    for i in 0..256 {
        guest.say(&nobody(i), op::RW);
    }
    for i in 256..266 {
        guest.post_at(nobody(i).header(op::RW, 0), 0x100 * u64::from(i % 16));
    }
    guest.give_buffers(1);
    guest.expect_in_order(0);
    // One more was taken for the one that went.
    guest.fake.wait_used(&mut guest.tx);
    for i in 1..266 {
        guest.give_buffers(1);
        guest.expect_in_order(i);
    }
    for _ in 0..9 {
        guest.fake.wait_used(&mut guest.tx);
    }
}

impl Guest {
    fn post_at(&mut self, header: Header, offset: u64) {
        let at = self.tx_at + offset;
        self.fake.store(at, &header.to_bytes());
        let head = self.tx.add(&[Read(at, 44)]);
        self.fake.kick(&mut self.tx, &[head]);
    }

    fn expect_in_order(&mut self, port: u32) {
        let (header, _) = self.receive_for_good();
        assert_eq!((header.op, header.dst_port), (op::RST, port));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Packet(Header, usize),
    Connect(u32),
    Program(usize, Act),
    Receive,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Write(usize),
    Read,
    Shut,
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ports = (
        0u32..3,
        prop_oneof![Just(80u32), Just(1 << 30), Just((1 << 30) + 1), Just(9)],
    );
    let header = (
        ports,
        prop_oneof![9 => 1u16..8, 1 => any::<u16>()],
        0u32..4,
        prop_oneof![Just(0u32), Just(1), Just(1000), any::<u32>()],
        prop_oneof![Just(GUEST_ROOM), any::<u32>()],
        prop_oneof![Just(0u32), 0u32..100_000, any::<u32>()],
        prop_oneof![30 => Just(STREAM), 1 => any::<u16>()],
    );
    let packet = (
        header,
        prop_oneof![Just(0usize), Just(1000), 0usize..20_000],
    )
        .prop_map(
            |(((guest, host), op, flags, len, buf_alloc, fwd_cnt, kind), size)| {
                let header = Header {
                    len: if len == 1000 { size as u32 } else { len },
                    kind,
                    op,
                    flags,
                    buf_alloc,
                    fwd_cnt,
                    ..stream(guest, host).header(op, 0)
                };
                Step::Packet(header, size)
            },
        );
    let act = prop_oneof![
        (1usize..50_000).prop_map(Act::Write),
        Just(Act::Read),
        Just(Act::Shut),
        Just(Act::Leave)
    ];
    let step = prop_oneof![
        8 => packet,
        2 => (0u32..3).prop_map(Step::Connect),
        4 => (0usize..8, act).prop_map(|(index, act)| Step::Program(index, act)),
        4 => Just(Step::Receive),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    /// Whatever driver and programs do: nothing hangs, nothing fails, credit is kept to, and
    /// afterwards the device works and holds nothing.
    #[test]
    fn nothing_that_anyone_says_hurts_others(steps in steps()) {
        let mut guest = Guest::new();
        let listener = guest.listen(80);
        listener.set_nonblocking(true).unwrap();
        let mut programs: Vec<UnixStream> = Vec::new();
        for step in steps {
            match step {
                Step::Packet(header, size) => guest.send(header, &pattern(size, 1)),
                Step::Connect(port) => {
                    let mut program = UnixStream::connect(guest.socket()).unwrap();
                    writeln!(program, "CONNECT {port}").unwrap();
                    program.set_nonblocking(true).unwrap();
                    programs.push(program);
                }
                Step::Program(index, act) => {
                    while let Ok((program, _)) = listener.accept() {
                        program.set_nonblocking(true).unwrap();
                        programs.push(program);
                    }
                    if programs.is_empty() {
                        continue;
                    }
                    let index = index % programs.len();
                    let program = &mut programs[index];
                    match act {
                        Act::Write(len) => drop(program.write(&pattern(len, 2))),
                        Act::Read => drop(program.read(&mut [0; 10_000])),
                        Act::Shut => drop(program.shutdown(Shutdown::Write)),
                        Act::Leave => drop(programs.remove(index)),
                    }
                }
                Step::Receive => {
                    while let Some((_, len)) = guest.rx.take_used() {
                        assert!(len >= 44);
                        guest.give_buffers(1);
                    }
                }
            }
        }
        drop(programs);
        // All that exists is ended by the guest, which then finds the device as new.
        for host in [80, 9].into_iter().chain((0..200).map(|i| (1 << 30) + i)) {
            for port in 0..3 {
                guest.say(&stream(port, host), op::RST);
            }
            while guest.rx.take_used().is_some() {
                guest.give_buffers(1);
            }
        }
        prop_assert_eq!(guest.fake.status() & NEEDS_RESET, 0);
        while listener.accept().is_ok() {}
        let last = stream(77, 80);
        guest.say(&last, op::REQUEST);
        loop {
            let (header, _) = guest.receive();
            if header.dst_port == 77 {
                prop_assert_eq!(header.op, op::RESPONSE);
                break;
            }
        }
        wait_until("all others have ended", || {
            while guest.rx.take_used().is_some() {
                guest.give_buffers(1);
            }
            guest.counts.open() == 1
        });
    }
}
