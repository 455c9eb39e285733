//! A peer on the metrics socket that says anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::Registry;
use super::client::Client;

/// A peer, from its first word to its end.
pub fn metrics(data: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (mut client, registry) = (Client::new(ours), Registry::new());
    // In pieces, each a turn of the thread; the first byte tells how long.
    let (&size, data) = data.split_first().unwrap_or((&0, &[]));
    let mut goes_on = true;
    for piece in data.chunks(usize::from(size).max(64)).take(64) {
        let _ = theirs.write_all(piece);
        goes_on = goes_on && client.go_on(true, Instant::now(), &registry);
    }
    let _ = theirs.shutdown(Shutdown::Write);
    while goes_on {
        goes_on = client.go_on(true, Instant::now(), &registry);
    }
    drop(client);
    let mut answer = Vec::new();
    let _ = theirs.read_to_end(&mut answer);
    if answer.starts_with(b"HTTP") {
        assert!(answer.windows(4).any(|bytes| bytes == b"\r\n\r\n"));
    }
}
