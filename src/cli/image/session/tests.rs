//! A guest that calls too often.

use std::io::Read;
use std::time::Duration;

use super::*;

fn session() -> Session {
    let workload = Workload {
        arguments: vec!["x".to_owned()],
        environment: Vec::new(),
        folder: String::new(),
        user: String::new(),
    };
    Session::new(&workload, &VmConfig::default()).unwrap()
}

/// Whether the other end is closed.
fn is_closed(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0]), Ok(0))
}

#[test]
fn connections_beyond_those_of_an_agent_are_closed() {
    let session = session();
    let port = session.port();
    let call = || {
        let (guest, host) = UnixStream::pair().unwrap();
        (port.on_connect)(host);
        guest
    };
    let mut calls: Vec<_> = (0..1000).map(|_| call()).collect();
    let rest = calls.split_off(MOST_SERVED);
    assert!(calls.iter().all(|call| !is_closed(call)));
    assert!(rest.iter().all(is_closed));
    assert_eq!(session.0.served.load(Ordering::Acquire), MOST_SERVED);
    // Those that end make room.
    drop(calls);
    while session.0.served.load(Ordering::Acquire) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!is_closed(&call()));
}
