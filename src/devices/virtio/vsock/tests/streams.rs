//! Credit, the ends of streams, and those who don't read.

use super::*;

#[test]
fn a_program_that_does_not_read_holds_up_the_guest_and_nobody_else() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let (lazy, busy) = (stream(1, 80), stream(2, 80));
    let mut lazy_end = guest.connect(&listener, &lazy);
    let mut busy_end = guest.connect(&listener, &busy);
    // As much as there's credit for, and no more.
    let data = pattern(1 << 20, 3);
    let (mut sent, mut told) = (0, 0);
    loop {
        let room = BUF_ALLOC as usize - (sent - told);
        if room == 0 {
            // Some may have gone on to the socket meanwhile.
            let before = std::mem::replace(&mut told, guest.ask_credit(&lazy));
            if told == before {
                break;
            }
            continue;
        }
        let len = room.min(30_000);
        guest.data(&lazy, &data[sent..sent + len]);
        sent += len;
    }
    assert!(sent < data.len(), "a socket without end");
    assert_eq!(sent - told, BUF_ALLOC as usize, "all of the credit is used");

    guest.data(&busy, b"still here");
    let mut bytes = [0; 10];
    busy_end.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
    busy_end.write_all(b"and here").unwrap();
    assert_eq!(guest.receive_data(&mut busy.clone(), 8), b"and here");

    // Now it reads: all is there, in order, and the guest is told of the room.
    let mut all = vec![0; sent];
    lazy_end.read_exact(&mut all).unwrap();
    assert!(all == data[..sent]);
    while told < sent - BUF_ALLOC as usize / 4 {
        told = guest.expect(&lazy, op::CREDIT_UPDATE).fwd_cnt as usize;
    }
    guest.data(&lazy, b"on");
    let mut bytes = [0; 2];
    lazy_end.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"on");
}

#[test]
fn a_guest_that_does_not_read_gets_no_more_than_its_credit() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut lazy = Stream {
        room: 10_000,
        ..stream(1, 80)
    };
    let mut program = guest.connect(&listener, &lazy);
    let data = pattern(300_000, 5);
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        program.write_all(&sent).unwrap();
        program
    });
    let mut all = Vec::new();
    while all.len() < 10_000 {
        let (header, data) = guest.receive();
        assert_eq!(header.op, op::RW);
        all.extend(data);
    }
    assert_eq!(all.len(), 10_000);
    // It asks once, and then waits in silence.
    guest.expect(&lazy, op::CREDIT_REQUEST);
    guest.nothing_more();
    lazy.fwd_cnt = 5;
    guest.say(&lazy, op::CREDIT_UPDATE);
    let (header, five) = guest.receive();
    assert_eq!((header.op, header.len), (op::RW, 5));
    all.extend(five);
    guest.expect(&lazy, op::CREDIT_REQUEST);
    // Room that is taken back, and more passed on than there was.
    for (room, fwd_cnt) in [(1, 5), (10_000, 20_000), (0, 10_005)] {
        lazy = Stream {
            room,
            fwd_cnt,
            ..lazy
        };
        guest.say(&lazy, op::CREDIT_UPDATE);
        guest.nothing_more();
    }
    lazy.room = 10_000;
    while all.len() < data.len() {
        lazy.fwd_cnt = all.len() as u32;
        guest.say(&lazy, op::CREDIT_UPDATE);
        let target = data.len().min(all.len() + 10_000);
        while all.len() < target {
            let (header, data) = guest.receive();
            assert!(header.op == op::RW || header.op == op::CREDIT_REQUEST);
            all.extend(data);
        }
    }
    assert!(all == data);
    drop(writer.join().unwrap());
}

#[test]
fn a_guest_that_sends_beyond_its_credit_is_reset() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(1, 80);
    let mut program = guest.connect(&listener, &stream);
    guest.data(&stream, &pattern(BUF_ALLOC as usize, 1));
    // What is told now counts, whatever has gone to the socket since.
    let header = guest.expect(&stream, op::CREDIT_UPDATE);
    let room = BUF_ALLOC - (BUF_ALLOC - header.fwd_cnt);
    guest.data(&stream, &vec![0; room as usize + 1]);
    guest.expect(&stream, op::RST);
    assert_eq!(rest(&mut program).len(), BUF_ALLOC as usize);
    assert_eq!((guest.counts.resets.get(), guest.counts.open()), (1, 0));
}

#[test]
fn a_large_announcement_of_room_is_just_a_number() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut huge = Stream {
        room: u32::MAX,
        ..stream(1, 80)
    };
    let mut program = guest.connect(&listener, &huge);
    let data = pattern(1 << 20, 9);
    let sent = data.clone();
    let writer = std::thread::spawn(move || program.write_all(&sent).unwrap());
    assert!(guest.receive_data(&mut huge, data.len()) == data);
    writer.join().unwrap();
}

#[test]
fn the_guest_ends_its_direction_and_still_gets_an_answer() {
    let mut guest = Guest::new();
    let (mut program, mut stream) = guest.connect_from_host(7);
    guest.data(&stream, b"question");
    guest.shut(&stream, SHUTDOWN_SEND);
    assert_eq!(rest(&mut program), b"question");
    program.write_all(b"answer").unwrap();
    assert_eq!(guest.receive_data(&mut stream, 6), b"answer");
    drop(program);
    let header = guest.expect(&stream, op::SHUTDOWN);
    assert_eq!(header.flags & SHUTDOWN_SEND, SHUTDOWN_SEND);
    guest.shut(&stream, SHUTDOWN_BOTH);
    guest.expect(&stream, op::RST);
    assert_eq!((guest.counts.open(), guest.counts.resets.get()), (0, 0));
}

#[test]
fn a_program_ends_its_direction_and_still_gets_an_answer() {
    let mut guest = Guest::new();
    let (mut program, mut stream) = guest.connect_from_host(7);
    program.write_all(b"question").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive_data(&mut stream, 8), b"question");
    let header = guest.expect(&stream, op::SHUTDOWN);
    assert_eq!(header.flags, SHUTDOWN_SEND);
    guest.data(&stream, b"answer");
    guest.shut(&stream, SHUTDOWN_BOTH);
    guest.expect(&stream, op::RST);
    assert_eq!(rest(&mut program), b"answer");
}

#[test]
fn a_guest_that_reads_no_more_has_the_program_told() {
    let mut guest = Guest::new();
    let (mut program, stream) = guest.connect_from_host(7);
    guest.shut(&stream, SHUTDOWN_RECEIVE);
    let error = loop {
        if let Err(error) = program.write_all(b"nobody listens") {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    guest.data(&stream, b"but I talk");
    let mut bytes = [0; 10];
    program.read_exact(&mut bytes).unwrap();
    // One direction after the other is both.
    guest.shut(&stream, SHUTDOWN_SEND);
    assert_eq!(rest(&mut program), b"");
    loop {
        let (header, _) = guest.receive();
        if header.op == op::RST {
            break;
        }
    }
    assert_eq!(guest.counts.open(), 0);
}

#[test]
fn a_program_that_leaves_is_an_end_after_all_of_its_data() {
    let mut guest = Guest::new();
    let (mut program, mut stream) = guest.connect_from_host(7);
    // It leaves without having read this, which for a Unix socket is an error.
    guest.data(&stream, b"unread");
    program.write_all(&pattern(20_000, 2)).unwrap();
    drop(program);
    let mut all = Vec::new();
    let mut flags = 0;
    while flags != SHUTDOWN_BOTH {
        let (header, data) = guest.receive();
        match header.op {
            op::RW => all.extend(data),
            op::SHUTDOWN => flags = header.flags,
            other => panic!("{other}"),
        }
    }
    assert!(all == pattern(20_000, 2));
    stream.fwd_cnt = 20_000;
    // What comes for a program that has left goes nowhere, and breaks nothing.
    guest.data(&stream, b"too late");
    guest.say(&stream, op::RST);
    guest.nothing_more();
    assert_eq!(guest.counts.open(), 0);
}

#[test]
fn what_a_slow_program_has_not_taken_survives_the_guests_end() {
    for last in [op::SHUTDOWN, op::RST] {
        let mut guest = Guest::new();
        let listener = guest.listen(80);
        let stream = stream(1, 80);
        let mut program = guest.connect(&listener, &stream);
        let data = pattern(1 << 20, 7);
        let (mut sent, mut told) = (0, 0);
        // Until the socket takes nothing and a part waits here.
        while sent - told < BUF_ALLOC as usize {
            let len = (BUF_ALLOC as usize - (sent - told)).min(20_000);
            guest.data(&stream, &data[sent..sent + len]);
            sent += len;
            told = guest.ask_credit(&stream);
        }
        guest.shut(&stream, SHUTDOWN_BOTH);
        if last == op::RST {
            // Linux gives up after 8 s. Its port is free again, for the same program even.
            guest.say(&stream, op::RST);
            guest.discard();
            let again = stream;
            let mut program = guest.connect(&listener, &again);
            guest.data(&again, b"again");
            guest.shut(&again, SHUTDOWN_BOTH);
            guest.expect(&again, op::RST);
            assert_eq!(rest(&mut program), b"again");
        }
        assert!(rest(&mut program) == data[..sent]);
        if last == op::SHUTDOWN {
            loop {
                let (header, _) = guest.receive();
                if header.op == op::RST {
                    break;
                }
            }
        }
        guest.nothing_more();
        wait_until("all have ended", || guest.counts.open() == 0);
    }
}

#[test]
fn a_reset_in_mid_stream_ends_both_sides_and_frees_the_ports() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let stream = stream(1, 80);
    for _ in 0..5 {
        let mut program = guest.connect(&listener, &stream);
        guest.data(&stream, b"begin");
        guest.say(&stream, op::RST);
        assert_eq!(rest(&mut program), b"begin");
        guest.nothing_more();
    }
    assert_eq!((guest.counts.open(), guest.counts.resets.get()), (0, 5));
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::new();
    let mut ends = Vec::new();
    for port in 1..=4 {
        ends.push(guest.connect_from_host(port).0);
    }
    // All of it is there before there's a buffer for the first.
    guest.use_up_buffers();
    for program in &mut ends {
        program.set_nonblocking(true).unwrap();
        assert!(program.write(&pattern(1 << 20, 1)).unwrap() > 130_000);
    }
    guest.give_buffers(128);
    let mut order = Vec::new();
    for _ in 0..128 {
        let (header, _) = guest.receive_for_good();
        assert_eq!(header.op, op::RW);
        order.push(header.dst_port);
    }
    for turn in order.windows(4) {
        let mut ports = turn.to_vec();
        ports.sort_unstable();
        assert_eq!(ports, [1, 2, 3, 4], "{order:?}");
    }
}
