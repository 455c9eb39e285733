//! A thousand connections, and limits.

use super::*;

/// Both ends of a thousand connections are descriptors of the test's process.
fn raise_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a struct that lives through both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    assert!(
        limit.rlim_cur > 4000,
        "too few descriptors: {}",
        limit.rlim_cur
    );
}

#[test]
fn a_thousand_connections_at_once_each_way() {
    raise_limit();
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut ends = Vec::new();
    for port in 0..1000 {
        let stream = stream(port, 80);
        ends.push((guest.connect(&listener, &stream), stream));
    }
    for port in 0..1000 {
        ends.push(guest.connect_from_host(port));
    }
    assert_eq!(guest.counts.open(), 2000);
    for (index, (program, stream)) in ends.iter_mut().enumerate() {
        let (there, back) = (format!("{index:8}"), format!("{index:08}"));
        guest.data(stream, there.as_bytes());
        let mut bytes = [0; 8];
        program.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, there.as_bytes());
        program.write_all(back.as_bytes()).unwrap();
        assert_eq!(guest.receive_data(stream, 8), back.as_bytes());
    }
    // All of them at the same moment.
    for (program, _) in &mut ends {
        program.write_all(b"x").unwrap();
    }
    let mut seen = std::collections::HashSet::new();
    for _ in 0..ends.len() {
        let (header, data) = guest.receive();
        assert_eq!((header.op, data.as_slice()), (op::RW, b"x".as_slice()));
        assert!(seen.insert((header.src_port, header.dst_port)));
    }
    drop(ends);
    let mut ended = 0;
    while ended < 2000 {
        let (header, _) = guest.receive();
        assert_eq!(header.op, op::SHUTDOWN);
        if header.flags == SHUTDOWN_BOTH {
            let stream = stream(header.dst_port, header.src_port);
            guest.say(&stream, op::RST);
            ended += 1;
        }
    }
    guest.nothing_more();
    assert_eq!(guest.counts.open(), 0);
}

#[test]
fn beyond_the_limit_both_ways_are_refused() {
    let limits = Limits {
        connections: 2,
        ..LIMITS
    };
    let mut guest = Guest::with(limits, 0);
    let listener = guest.listen(80);
    let first = stream(1, 80);
    let _first = guest.connect(&listener, &first);
    let (_second, _) = guest.connect_from_host(1);
    let third = stream(3, 80);
    guest.say(&third, op::REQUEST);
    guest.expect(&third, op::RST);
    let mut program = UnixStream::connect(guest.socket()).unwrap();
    assert_eq!(program.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.counts.refused_by_host.get(), 2);
    guest.say(&first, op::RST);
    guest.connect(&listener, &third);
}

#[test]
fn a_program_that_does_not_finish_its_line_hinders_nobody() {
    let mut guest = Guest::new();
    let mut stalled = Vec::new();
    for text in ["", "C", "CONNECT", "CONNECT 5"] {
        let mut program = UnixStream::connect(guest.socket()).unwrap();
        program.write_all(text.as_bytes()).unwrap();
        stalled.push(program);
    }
    let (mut program, mut stream) = guest.connect_from_host(9);
    program.write_all(b"quick").unwrap();
    assert_eq!(guest.receive_data(&mut stream, 5), b"quick");
    // Slow isn't wrong.
    stalled[1].write_all(b"ONNECT 6").unwrap();
    stalled[1].write_all(b"\n").unwrap();
    let (header, _) = guest.receive();
    assert_eq!((header.op, header.dst_port), (op::REQUEST, 6));
    // A wrong one is out at once.
    stalled[2].write_all(b" me\n").unwrap();
    assert_eq!(rest(&mut stalled[2]), b"");
}

#[test]
fn a_line_or_an_answer_that_does_not_come_has_an_end() {
    let limits = Limits {
        handshake: Duration::from_secs(1),
        ..LIMITS
    };
    let mut guest = Guest::with(limits, 0);
    let mut silent = UnixStream::connect(guest.socket()).unwrap();
    assert_eq!(rest(&mut silent), b"");
    // While there is no driver the device lets nobody in, so this line is there in time.
    guest.fake.set(0x70, 0);
    let mut program = UnixStream::connect(guest.socket()).unwrap();
    program.write_all(b"CONNECT 5\n").unwrap();
    guest.restart(0);
    let (header, _) = guest.receive();
    assert_eq!(header.op, op::REQUEST);
    assert_eq!(rest(&mut program), b"");
    let stream = stream(5, header.src_port);
    guest.expect(&stream, op::RST);
    // The guest's answer, too late.
    guest.say(&stream, op::RESPONSE);
    guest.expect(&stream, op::RST);
    assert_eq!(guest.counts.refused_by_host.get(), 1);
    assert_eq!(guest.counts.refused_by_guest.get(), 1);
}

/// A guest that was never told of a connection isn't told of its end.
#[test]
fn a_program_that_leaves_before_the_guest_has_heard_of_it_leaves_nothing() {
    let limits = Limits {
        handshake: Duration::from_millis(50),
        ..LIMITS
    };
    let mut guest = Guest::with(limits, 0);
    guest.use_up_buffers();
    // On a busy host the line may come too late, and isn't a request then.
    wait_until("requests that the guest isn't told of", || {
        let mut program = UnixStream::connect(guest.socket()).unwrap();
        let _ = program.write_all(b"CONNECT 5\n");
        assert_eq!(rest(&mut program), b"");
        guest.counts.refused_by_guest.get() >= 10
    });
    guest.give_buffers(128);
    guest.nothing_more();
    assert_eq!(guest.counts.open(), 0);
}
