//! Reading and writing that comes to an end, however little at a time the other side gives or takes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The kernel waits for each of its own pieces of what is written anew; this is less than one.
const PIECE: usize = 16 << 10;

/// A stream up to a moment, after which everything fails with [`ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct Within<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl<'a> Within<'a> {
    /// From now on for that time. The stream's own time limits are others afterwards.
    pub fn new(stream: &'a UnixStream, patience: Duration) -> Self {
        let end = Instant::now() + patience;
        Within { stream, end }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        match self.end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

fn late(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Within<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes).map_err(late)
    }
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.stream.write(piece).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
