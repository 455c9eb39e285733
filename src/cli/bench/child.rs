//! One run of a monitor as a process of its own: started, listened to, ended, and nothing left of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a monitor may take to end when it is asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How much of what it prints is kept, for an error message.
const KEPT: usize = 4096;
/// How often its pipe is read before all else is looked at again: who prints without end must not
/// keep this process from its deadline.
const READS: usize = 128;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("{0}")]
    Start(io::Error),
    /// Waiting for it failed.
    #[error("waiting for it: {0}")]
    Wait(io::Error),
    /// It took too long.
    #[error("did not come within {} s (--time-limit){said}", limit.as_secs_f64())]
    TimedOut {
        /// How long it had.
        limit: Duration,
        /// What it printed, if anything.
        said: String,
    },
    /// A signal asked this process to end.
    #[error("interrupted")]
    Interrupted,
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wait<'a> {
    /// A text on its standard output, the time of which is noted.
    pub marker: Option<&'a str>,
    /// Whether the marker is the end of it: it is then asked to end, and killed if it doesn't.
    pub end_at_marker: bool,
    /// How long it may take.
    pub limit: Duration,
    /// Readable when this process is to end.
    pub stop: RawFd,
}

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// From just before the process was made until its marker was read.
    pub marker: Option<Duration>,
    /// The end of what it printed to standard output.
    pub out: Vec<u8>,
    /// The end of what it printed to standard error.
    pub err: Vec<u8>,
}

impl Ended {
    /// What it said last, for an error message; of standard error, if anything.
    pub fn last_words(&self) -> String {
        last_words(&self.out, &self.err)
    }
}

/// Runs a program, with an empty standard input, to its end.
pub fn run(mut command: Command, wait: Wait) -> Result<Ended, ChildError> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: what it starts can be ended with it, and Ctrl-C is this process's matter.
    command.process_group(0);
    die_with_parent(&mut command);
    let start = Instant::now();
    let child = command.spawn().map_err(ChildError::Start)?;
    let mut process = Process { child, over: false };
    let fd = pidfd(&process.child).map_err(ChildError::Wait)?;
    let mut out = Stream::new(process.child.stdout.take().map(OwnedFd::from), wait.marker);
    let mut err = Stream::new(process.child.stderr.take().map(OwnedFd::from), None);
    let deadline = start + wait.limit;
    let mut asked = None;
    loop {
        let until = asked.unwrap_or(deadline);
        let fds = [fd.as_raw_fd(), out.fd(), err.fd(), wait.stop];
        let ready = poll(fds, until).map_err(ChildError::Wait)?;
        if ready[1] {
            out.read(start);
        }
        if ready[2] {
            err.read(start);
        }
        if ready[0] {
            break;
        }
        if ready[3] && asked.is_none() {
            process.end(&fd);
            return Err(ChildError::Interrupted);
        }
        if wait.end_at_marker && out.seen.is_some() && asked.is_none() {
            process.signal(libc::SIGTERM);
            asked = Some(Instant::now() + GRACE);
        } else if Instant::now() >= until {
            if asked.is_none() {
                process.end(&fd);
                return Err(ChildError::TimedOut {
                    limit: wait.limit,
                    said: last_words(&out.kept, &err.kept),
                });
            }
            process.signal(libc::SIGKILL);
        }
    }
    // What it has written and nobody has read yet; what it started may hold the pipes for ever.
    out.read(start);
    err.read(start);
    Ok(Ended {
        status: process.reap().map_err(ChildError::Wait)?,
        marker: out.seen,
        out: out.kept,
        err: err.kept,
    })
}

/// A descriptor that is readable when the process has ended.
pub fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    match fd {
        0.. => {
            // SAFETY: a descriptor that was opened a moment ago and that nobody else has.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The process and its group. Dropping it kills both.
struct Process {
    child: Child,
    over: bool,
}

impl Process {
    fn signal(&self, signal: i32) {
        // SAFETY: takes no pointer. The group is the child's: it hasn't been reaped.
        unsafe { libc::kill(-(self.child.id() as i32), signal) };
    }

    /// Asks it to end, and kills it where it doesn't.
    fn end(&self, fd: &OwnedFd) {
        self.signal(libc::SIGTERM);
        let _ = poll([fd.as_raw_fd()], Instant::now() + GRACE);
        self.signal(libc::SIGKILL);
    }

    /// Ends what it has left behind in its group, and takes its status.
    fn reap(mut self) -> io::Result<ExitStatus> {
        self.signal(libc::SIGKILL);
        self.over = true;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.over {
            self.signal(libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The kernel kills it when this thread ends, however that happens.
fn die_with_parent(command: &mut Command) {
    // SAFETY: a system call that is async-signal-safe, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// What a child prints: its end, and when a text was in it.
struct Stream {
    file: Option<File>,
    marker: Vec<u8>,
    seen: Option<Duration>,
    kept: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>, marker: Option<&str>) -> Self {
        let file = fd.map(File::from);
        if let Some(file) = &file {
            // SAFETY: takes no pointer; the descriptor is open. It is this process's end alone that
            // doesn't block.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        }
        Stream {
            file,
            marker: marker.unwrap_or_default().as_bytes().to_vec(),
            seen: None,
            kept: Vec::new(),
        }
    }

    fn fd(&self) -> RawFd {
        self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Reads what there is, which for one who never stops is a part.
    fn read(&mut self, start: Instant) {
        let mut buffer = [0; 8192];
        for _ in 0..READS {
            let Some(file) = &mut self.file else { return };
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(count) => self.take(&buffer[..count], start),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.file = None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], start: Instant) {
        let now = start.elapsed();
        // The marker may have begun in what was read before.
        let from = (self.kept.len() + 1).saturating_sub(self.marker.len());
        self.kept.extend_from_slice(bytes);
        let length = self.marker.len();
        let fresh = &self.kept[from.min(self.kept.len())..];
        if length > 0
            && self.seen.is_none()
            && fresh.windows(length).any(|part| part == self.marker)
        {
            self.seen = Some(now);
        }
        let passed = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..passed);
    }
}

/// The last lines of what was printed, as the end of a sentence.
fn last_words(out: &[u8], err: &[u8]) -> String {
    let bytes = if err.trim_ascii().is_empty() {
        out
    } else {
        err
    };
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" | ");
    let printable = last.chars().filter(|c| !c.is_control());
    let last: String = printable.collect();
    match last.is_empty() {
        true => String::new(),
        false => format!("; it said last: {last}"),
    }
}

/// Waits until one of the descriptors is readable or at its end, or until then.
pub fn poll<const N: usize>(fds: [RawFd; N], until: Instant) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = left.as_nanos().div_ceil(1_000_000);
        let left = i32::try_from(left).unwrap_or(i32::MAX);
        // SAFETY: the array and its length.
        if unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, left) } >= 0 {
            return Ok(polled.map(|p| p.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
