//! Console output: a bounded buffer that vCPUs fill, and a thread that empties it, so that a
//! slow terminal, a full pipe or a full disk never holds a vCPU for long.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How much output waits at most.
const CAPACITY: usize = 64 << 10;
/// How long a vCPU waits for room, once, before output is dropped until the reader goes on.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long the end of the VM waits for a reader that makes no progress.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// The thread is writing what it took out of the buffer.
    writing: bool,
    /// The reader has kept a vCPU waiting and has made no progress since.
    stalled: bool,
    closed: bool,
    /// The file can't be written to any more.
    failed: bool,
    dropped: u64,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when the buffer gets its first byte, or is closed.
    filled: Condvar,
    /// Signalled when the thread has taken or written something.
    emptied: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end, for a serial port. The thread starts at the first byte.
pub struct Output {
    shared: Arc<Shared>,
    file: Option<File>,
}

/// Waits for what was written to reach the file. Keep it to call [`Drain::finish`] at the end.
pub struct Drain(Arc<Shared>);

impl Output {
    /// Output to `file`.
    pub fn new(file: File) -> (Self, Drain) {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let drain = Drain(shared.clone());
        (
            Output {
                shared,
                file: Some(file),
            },
            drain,
        )
    }

    fn start_thread(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("mote-console".into());
            let thread = thread.spawn(move || write_out(&shared, file))?;
            self.shared.lock().thread = Some(thread);
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.start_thread()?;
        let mut state = self.shared.lock();
        if state.buffer.len() + bytes.len() > CAPACITY && !state.stalled && !state.failed {
            let full =
                |state: &mut State| state.buffer.len() + bytes.len() > CAPACITY && !state.failed;
            let wait = self
                .shared
                .emptied
                .wait_timeout_while(state, PATIENCE, full);
            let (guard, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.stalled = timeout.timed_out();
        }
        if state.failed || state.buffer.len() + bytes.len() > CAPACITY {
            state.dropped += bytes.len() as u64;
            return Ok(bytes.len()); // as a real port whose cable is unplugged
        }
        let was_empty = state.buffer.is_empty();
        state.buffer.extend_from_slice(bytes);
        if was_empty {
            self.shared.filled.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // the thread does; vm-superio flushes after each byte
    }
}

/// The thread: takes all there is, writes it, again.
fn write_out(shared: &Shared, mut file: File) {
    let mut batch = Vec::with_capacity(4096);
    loop {
        let idle = |state: &mut State| state.buffer.is_empty() && !state.closed;
        let state = shared.filled.wait_while(shared.lock(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.buffer.is_empty() {
            return; // closed
        }
        std::mem::swap(&mut batch, &mut state.buffer);
        (state.writing, state.stalled) = (true, false);
        shared.emptied.notify_all();
        drop(state);
        let result = write_all_waiting(&mut file, &batch);
        batch.clear();
        let mut state = shared.lock();
        state.writing = false;
        if let Err(e) = result {
            log::warn!("console output: {e}; what the guest prints from now on is lost");
            state.failed = true;
            state.buffer.clear();
        }
        shared.emptied.notify_all();
    }
}

/// Like `write_all`, also where somebody has made the file description non-blocking.
fn write_all_waiting(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let mut poll = libc::pollfd {
                    fd: file.as_raw_fd(),
                    events: libc::POLLOUT,
                    revents: 0,
                };
                // SAFETY: one valid pollfd.
                unsafe { libc::poll(&raw mut poll, 1, -1) };
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Drain {
    /// Ends the thread once all output is written, or when the reader has made no progress for a
    /// second. Returns how many bytes were lost.
    pub fn finish(&self) -> u64 {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.filled.notify_all();
        let deadline = Instant::now() + LAST_PATIENCE;
        while state.writing || !state.buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return state.dropped + state.buffer.len() as u64;
            }
            let wait = self.0.emptied.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (dropped, thread) = (state.dropped, state.thread.take());
        drop(state);
        if let Some(thread) = thread {
            let _ = thread.join(); // it has nothing left to write
        }
        dropped
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};

    fn pipe() -> (File, File) {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors, which then belong to the files.
        unsafe {
            assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
            (
                OwnedFd::from_raw_fd(fds[0]).into(),
                OwnedFd::from_raw_fd(fds[1]).into(),
            )
        }
    }

    #[test]
    fn everything_written_arrives_in_order() {
        let (mut reader, writer) = pipe();
        let (mut output, drain) = Output::new(writer);
        let expected: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        for byte in &expected {
            output.write_all(&[*byte]).unwrap();
        }
        assert_eq!(drain.finish(), 0);
        drop(output);
        assert_eq!(read.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_that_never_reads_costs_its_output_not_the_vcpu() {
        let (_reader, writer) = pipe();
        let (mut output, drain) = Output::new(writer);
        let start = Instant::now();
        for _ in 0..1000 {
            output.write_all(&[b'x'; 1000]).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(drain.finish() > 500_000);
    }

    #[test]
    fn a_file_that_fails_is_given_up() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let (mut output, drain) = Output::new(full);
        output.write_all(b"lost").unwrap();
        drain.finish();
        output.write_all(b"lost too").unwrap();
        assert!(drain.finish() >= 8);
    }
}
