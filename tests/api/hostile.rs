//! Clients that mean no good: nothing they do keeps others waiting, or ends the VM.

use std::io::{BufReader, Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Mote, read};
use crate::common::PATIENCE;

fn rest(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn requests_in_pieces_in_a_row_and_in_chunks_are_answered() {
    let mote = Mote::serve(&[]);
    // One connection, many requests, all of them sent before the first answer is read.
    let mut stream = mote.connect();
    let many = 50;
    let body = json!({ "vcpu_count": 3 }).to_string();
    let patch = format!(
        "PATCH /machine-config HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let get = "GET /machine-config HTTP/1.1\r\nHost: x\r\n\r\n";
    stream
        .write_all((patch + get).repeat(many).as_bytes())
        .unwrap();
    let mut reader = BufReader::new(stream);
    for _ in 0..many {
        assert_eq!(read(&mut reader).unwrap().status, 204);
        assert_eq!(read(&mut reader).unwrap().json()["vcpu_count"], 3);
    }
    // Byte by byte.
    let mut stream = mote.connect();
    for byte in get.bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read(&mut BufReader::new(stream)).unwrap().status, 200);
    // In chunks, for which mote says when to go on.
    let mut stream = mote.connect();
    let head = "PATCH /machine-config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\
        Expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(read(&mut reader).unwrap().status, 100);
    let (one, two) = body.split_at(5);
    let chunks = format!("5\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", two.len());
    stream.write_all(chunks.as_bytes()).unwrap();
    assert_eq!(read(&mut reader).unwrap().status, 204);
    // As an old client would: hung up on after the answer.
    let mut stream = mote.connect();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = rest(stream);
    assert!(
        answer.ends_with('}') && answer.contains("200 OK"),
        "{answer}"
    );
}

#[test]
fn what_is_no_http_or_too_much_is_refused() {
    let mote = Mote::serve(&[]);
    let ask = |bytes: &[u8]| {
        let mut stream = mote.connect();
        let _ = stream.write_all(bytes);
        rest(stream)
    };
    let head = |fields: &str| format!("PUT /boot-source HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let garbage: Vec<u8> = (0..20_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (what, bytes, status) in [
        ("garbage", garbage, "400"),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            "400",
        ),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), ""),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)).into_bytes(),
            "431",
        ),
        (
            "a long field",
            head(&format!("A: {}\r\n", "x".repeat(20_000))).into_bytes(),
            "431",
        ),
        (
            "many fields",
            head(&"A: b\r\n".repeat(500)).into_bytes(),
            "431",
        ),
        (
            "two lengths",
            head("Content-Length: 1\r\nContent-Length: 2\r\n").into_bytes(),
            "400",
        ),
        (
            "a length that is none",
            head("Content-Length: -1\r\n").into_bytes(),
            "400",
        ),
        (
            "a chunk that is none",
            (head("Transfer-Encoding: chunked\r\n") + "xyz\r\n").into_bytes(),
            "",
        ),
        (
            "a huge length",
            head("Content-Length: 99999999999\r\n").into_bytes(),
            "400",
        ),
        (
            "a long body",
            (head("Content-Length: 51201\r\n") + &"x".repeat(51_201)).into_bytes(),
            "400",
        ),
        (
            "long chunks",
            (head("Transfer-Encoding: chunked\r\n")
                + &format!("4000\r\n{}\r\n", "x".repeat(0x4000)).repeat(9))
                .into_bytes(),
            "400",
        ),
    ] {
        let answer = ask(&bytes);
        let said = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            said == status || (said.is_empty() && status != "400"),
            "{what}: {answer}"
        );
    }
    // The most that fits: a path that isn't there, and not the length, is what is wrong.
    let long = json!({ "kernel_image_path": "x".repeat(51_000) }).to_string();
    let request = head(&format!(
        "Content-Length: {}\r\nConnection: close\r\n",
        long.len()
    )) + &long;
    let answer = ask(request.as_bytes());
    assert!(answer.contains("kernel_image_path"), "{answer}");
    // Whoever asks whether to send what is too long is told not to.
    let request = head("Content-Length: 60000\r\nExpect: 100-continue\r\n");
    let answer = ask(request.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("longer than"),
        "{answer}"
    );
    let nested = "[".repeat(50_000);
    let request = head(&format!(
        "Content-Length: {}\r\nConnection: close\r\n",
        nested.len()
    )) + &nested;
    assert!(ask(request.as_bytes()).contains("fault_message"));
    assert_eq!(mote.state(), "Not started");
}

#[test]
fn a_hundred_peers_that_ask_nothing_keep_nobody_waiting() {
    let mote = Mote::serve(&[]);
    let idle: Vec<_> = (0..100).map(|_| mote.connect()).collect();
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(mote.state(), "Not started");
    }
    assert!(
        start.elapsed() < Duration::from_secs(9),
        "{:?}",
        start.elapsed()
    );
    drop(idle);
    // Those that hang up in the middle of something, by the hundred.
    for index in 0..300 {
        let mut stream = mote.connect();
        let parts: [&[u8]; 4] = [
            b"",
            b"GET / HT",
            b"PUT /boot-source HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
            b"GET /vm/config HTTP/1.1\r\n\r\n",
        ];
        stream.write_all(parts[index % 4]).unwrap();
    }
    assert_eq!(mote.state(), "Not started");
    let open = std::fs::read_dir(format!("/proc/{}/fd", mote.child.id()))
        .unwrap()
        .count();
    assert!(open < 40, "{open} descriptors");
}

#[test]
fn those_who_never_finish_are_hung_up_on() {
    let mote = Mote::serve(&[]);
    let start = Instant::now();
    // As many as there may be, all in the middle of a request: others wait until the first one's time is up.
    let slow: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = mote.connect();
            stream
                .write_all(b"PUT /boot-source HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
                .unwrap();
            stream
        })
        .collect();
    assert_eq!(mote.state(), "Not started");
    for stream in slow {
        assert!(!rest(stream).contains("200"));
    }
    assert!(
        start.elapsed() > Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    assert!(start.elapsed() < PATIENCE);
    // One that never reads what it asks for.
    let mut stream = mote.connect();
    let request = "GET /vm/config HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200_000);
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    assert!(
        stream.write_all(request.as_bytes()).is_err(),
        "all of it was taken"
    );
    assert_eq!(mote.state(), "Not started");
}
