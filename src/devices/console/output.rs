//! Console output: a bounded buffer that vCPUs fill, and a thread that empties it, so that a
//! slow terminal, a full pipe or a full disk never holds a vCPU for long.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::Marker;
use crate::metrics::{Samples, Source};
use crate::sandbox::ThreadKind;
use crate::threads;

/// How much output waits at most.
const CAPACITY: usize = 64 << 10;
/// How long a vCPU waits for room, once, before output is dropped until the reader goes on.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long the end of the VM waits for a reader that makes no progress.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// What is written at once: PIPE_BUF.
const PART: usize = 4096;

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Bytes that the thread has taken out of the buffer and not yet written.
    writing: usize,
    /// The reader has kept a vCPU waiting and has made no progress since.
    stalled: bool,
    closed: bool,
    /// The file can't be written to any more.
    failed: bool,
    dropped: u64,
    /// The thread is at its end.
    done: bool,
    thread: Option<JoinHandle<()>>,
}

impl State {
    /// Bytes that have not reached the file.
    fn waiting(&self) -> usize {
        self.buffer.len() + self.writing
    }
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when the buffer gets its first byte, or is closed.
    filled: Condvar,
    /// Signalled when the thread has taken or written something.
    emptied: Condvar,
    /// Written when the thread shall end whatever waits.
    give_up: EventFd,
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
    marker: Option<Marker>,
}

/// Waits for what was written to reach the file. Keep it to call [`Drain::finish`] at the end.
pub struct Drain(Arc<Shared>);

impl Output {
    /// Output to `file`.
    ///
    /// # Errors
    ///
    /// No event file descriptor could be had.
    pub fn new(file: File) -> io::Result<(Self, Drain)> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            give_up: EventFd::new(libc::EFD_CLOEXEC)?,
        });
        let drain = Drain(shared.clone());
        let file = Some(file);
        let output = Output {
            shared,
            file,
            marker: None,
        };
        Ok((output, drain))
    }

    /// Looks for a text in all that is written from now on.
    pub fn watch_for(&mut self, marker: Option<Marker>) {
        self.marker = marker;
    }

    fn start_thread(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let shared = self.shared.clone();
            let work = move || {
                write_out(&shared, file);
                shared.lock().done = true;
                shared.emptied.notify_all();
            };
            let thread = threads::spawn(ThreadKind::Console, "mote-console", work)?;
            self.shared.lock().thread = Some(thread);
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.start_thread()?;
        if let Some(marker) = &mut self.marker {
            marker.look_at(bytes);
        }
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
        state.writing = batch.len();
        shared.emptied.notify_all();
        drop(state);
        for part in batch.chunks(PART) {
            let result = write_part(&mut file, part, &shared.give_up);
            let mut state = shared.lock();
            match result {
                Ok(Progress::Written) => {
                    state.writing -= part.len();
                    state.stalled = false;
                }
                Ok(Progress::GivenUp) => return,
                Err(e) => {
                    log::warn!("console output: {e}; what the guest prints from now on is lost");
                    state.failed = true;
                    state.dropped += (state.writing + state.buffer.len()) as u64;
                    state.writing = 0;
                    state.buffer.clear();
                }
            }
            shared.emptied.notify_all();
            if state.failed {
                break;
            }
        }
        batch.clear();
    }
}

enum Progress {
    Written,
    GivenUp,
}

/// Writes all of `bytes` once the reader has room, unless the VM's end gives up first. A part is
/// no larger than PIPE_BUF, so that a pipe that polls as writable takes it without blocking.
fn write_part(file: &mut File, mut bytes: &[u8], give_up: &EventFd) -> io::Result<Progress> {
    while !bytes.is_empty() {
        let poll = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut fds = [
            poll(file.as_raw_fd(), libc::POLLOUT),
            poll(give_up.as_raw_fd(), libc::POLLIN),
        ];
        // SAFETY: an array of two, and its length.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        if fds[1].revents != 0 {
            return Ok(Progress::GivenUp);
        }
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted) => {}
            // Someone has made the file description non-blocking.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Progress::Written)
}

impl Drain {
    /// Ends the thread once all output is written, or when the reader has made no progress for a
    /// second. Returns how many bytes were lost.
    pub fn finish(&self) -> u64 {
        self.finish_within(LAST_PATIENCE)
    }

    /// The same with another patience.
    pub(in crate::devices) fn finish_within(&self, patience: Duration) -> u64 {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.filled.notify_all();
        let mut left = state.waiting();
        while left > 0 {
            let wait = self.0.emptied.wait_timeout(state, patience);
            let (guard, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out() && state.waiting() == left {
                break;
            }
            left = state.waiting();
        }
        let lost = state.dropped + left as u64;
        let Some(thread) = state.thread.take() else {
            return lost;
        };
        let _ = self.0.give_up.write(1); // a full counter wakes it just as well
        let at_work = |state: &mut State| !state.done;
        let wait = self.0.emptied.wait_timeout_while(state, PATIENCE, at_work);
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        // A terminal may hold it in its write, which nothing but its reader ends.
        if state.done {
            drop(state);
            let _ = thread.join();
        }
        lost
    }
}

impl Drain {
    /// What is counted of the output.
    pub fn counts(&self) -> Arc<dyn Source> {
        self.0.clone()
    }
}

impl Source for Shared {
    fn collect(&self, samples: &mut Samples) {
        let help = "Bytes of console output that were dropped, as nobody read them in time.";
        let dropped = self.lock().dropped;
        samples.counter("mote_console_dropped_bytes_total", help, &[], dropped);
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
    use std::thread;
    use std::time::Instant;

    /// For a reader that reads, but may be kept from it by a busy host.
    const PATIENT: Duration = Duration::from_secs(120);

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
        let (mut output, drain) = Output::new(writer).unwrap();
        let expected: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        for byte in &expected {
            output.write_all(&[*byte]).unwrap();
        }
        assert_eq!(drain.finish_within(PATIENT), 0);
        drop(output);
        assert_eq!(read.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_that_never_reads_costs_its_output_not_the_vcpu() {
        let (_reader, writer) = pipe();
        let (mut output, drain) = Output::new(writer).unwrap();
        let start = Instant::now();
        for _ in 0..1000 {
            output.write_all(&[b'x'; 1000]).unwrap();
        }
        // It waits once: to wait at each write would take a minute and a half.
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(drain.finish() > 900_000, "what waits is lost, too");
        let working = |state: &mut State| !state.done;
        let emptied = &drain.0.emptied;
        let wait = emptied.wait_timeout_while(drain.0.lock(), PATIENT, working);
        assert!(wait.unwrap().0.done, "the thread ends");
    }

    #[test]
    fn a_slow_reader_gets_everything_in_the_end() {
        let (mut reader, writer) = pipe();
        // SAFETY: takes no pointer.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        let (mut output, drain) = Output::new(writer).unwrap();
        output.write_all(&[b'x'; 40_000]).unwrap();
        let read = thread::spawn(move || {
            let (mut total, mut buffer) = (0, [0; 1000]);
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                total += count;
                thread::sleep(Duration::from_millis(100));
            }
            total
        });
        // Four seconds in all, but never three without progress.
        assert_eq!(drain.finish_within(Duration::from_secs(3)), 0);
        drop(output);
        assert_eq!(read.join().unwrap(), 40_000);
    }

    #[test]
    fn a_file_that_fails_is_given_up() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let (mut output, drain) = Output::new(full).unwrap();
        output.write_all(b"lost").unwrap();
        drain.finish();
        output.write_all(b"lost too").unwrap();
        assert!(drain.finish() >= 8);
    }
}
