//! A peer of an API that says anything, and a VM that is never started.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::desk::Desk;
use super::http::Connection;

/// A peer, from its first word to its end; the first byte says how long the pieces are in which it speaks.
pub fn api(data: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let desk = Arc::new(Desk::new("fuzzed", None));
    let mut connection = Connection::new(ours, desk.clone()).unwrap();
    let (&size, data) = data.split_first().unwrap_or((&0, &[]));
    let (mut goes_on, mut answers) = (true, Vec::new());
    let mut turn = |theirs: &mut UnixStream| {
        goes_on = goes_on && connection.go_on(Instant::now(), Waker::noop());
        // What it describes can't be started here, whatever it is.
        if let Some(config) = desk.config() {
            assert_eq!(config.validate(), Ok(()));
            desk.refuse("not here");
        }
        let _ = theirs.read_to_end(&mut answers);
    };
    for piece in data.chunks(usize::from(size).max(64)).take(1024) {
        let _ = theirs.write_all(piece);
        turn(&mut theirs);
    }
    let _ = theirs.shutdown(Shutdown::Write);
    // Twice for each that might have been asked, and once for the end.
    for _ in 0..8 {
        turn(&mut theirs);
    }
    drop(connection);
    let _ = theirs.read_to_end(&mut answers);
    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."));
}
