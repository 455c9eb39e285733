//! The monitor under attack: the command as a process of its own, with a limit to its time, its memory and
//! what it says. Whatever else a test looks at, a panic, a hang or a flood fails it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::script::Script;

/// How long a guest and its monitor may take: the host may be slow, and have much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Guest memory, unless a test says otherwise.
pub const MEMORY_KIB: u64 = 32 << 10;
/// What the monitor may take besides: it is a debug build, and with glibc's arenas for its threads.
const OWN_KIB: u64 = 48 << 10;
/// What the monitor may say, however much its guest does wrong.
const SAID: u64 = 8 << 10;
/// So much of an output is kept.
const KEPT: usize = 1 << 20;

/// A monitor to be started.
pub struct Monitor {
    command: Command,
    patience: Duration,
    memory_kib: u64,
    said: u64,
    reads: bool,
}

/// How it ended, and what it left.
pub struct Ended {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
    pub took: Duration,
}

impl Monitor {
    pub fn new<W: AsRef<OsStr>>(words: &[W]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command.args(words).stdin(Stdio::null());
        Monitor {
            command,
            patience: PATIENCE,
            memory_kib: MEMORY_KIB + OWN_KIB,
            said: SAID,
            reads: true,
        }
    }

    /// With a guest that does what `script` says; its file is in `folder`.
    pub fn of(folder: &Path, script: &Script) -> Self {
        let kernel = folder.join("kernel");
        std::fs::write(&kernel, script.kernel()).unwrap();
        Self::new(&[OsStr::new("run"), OsStr::new("--memory"), OsStr::new("32M")])
            .with(&["--kernel", kernel.to_str().unwrap()])
    }

    pub fn with<W: AsRef<OsStr>>(mut self, words: &[W]) -> Self {
        self.command.args(words);
        self
    }

    /// For what can be said of a process before it starts.
    pub fn change(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Done in the new process before it becomes the monitor; only what is safe after a fork.
    pub fn before(self, work: fn()) -> Self {
        self.change(|command| {
            // SAFETY: what the tests do here are single system calls.
            unsafe {
                command.pre_exec(move || {
                    work();
                    Ok(())
                });
            }
        })
    }

    /// Another limit to its memory, with its guest's.
    pub fn memory_kib(mut self, kib: u64) -> Self {
        self.memory_kib = kib;
        self
    }

    /// Another limit to its time.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Nobody reads what it prints.
    pub fn unread(mut self) -> Self {
        self.reads = false;
        self
    }

    pub fn start(mut self) -> Running {
        // Unless the test has said where they go.
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.start_as_it_is()
    }

    /// With the outputs that the test has given it.
    pub fn start_as_it_is(mut self) -> Running {
        let words: Vec<_> = self.command.get_args().map(|w| w.to_owned()).collect();
        let mut child = self.command.spawn().unwrap();
        let reads = self.reads;
        let out = child.stdout.take();
        let (out, held) = if reads { (out, None) } else { (None, out) };
        if let Some(held) = &held {
            // As little as a pipe can hold. SAFETY: a descriptor that lives, and a number.
            unsafe { libc::fcntl(held.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        }
        let out = out.map(keep);
        let err = child.stderr.take().map(keep);
        Running {
            words: format!("{words:?}"),
            child,
            out,
            err,
            held,
            began: Instant::now(),
            limits: (self.patience, self.memory_kib, self.said),
        }
    }

    pub fn run(self) -> Ended {
        self.start().end()
    }

    /// The same, where what is said may have the user's own words in it, however long they are.
    pub fn run_loudly(mut self) -> Ended {
        self.said = 2 << 20;
        self.run()
    }
}

/// Reads all of a stream, and keeps its first part; how long it was in all.
fn keep(mut stream: impl Read + Send + 'static) -> JoinHandle<(Vec<u8>, u64)> {
    std::thread::spawn(move || {
        let (mut kept, mut length) = (Vec::new(), 0);
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part) {
            let room = KEPT.saturating_sub(kept.len());
            kept.extend(&part[..count.min(room)]);
            length += count as u64;
        }
        (kept, length)
    })
}

/// A monitor at work.
pub struct Running {
    words: String,
    pub child: Child,
    out: Option<JoinHandle<(Vec<u8>, u64)>>,
    err: Option<JoinHandle<(Vec<u8>, u64)>>,
    /// An output that nobody reads, but somebody could.
    pub held: Option<std::process::ChildStdout>,
    began: Instant,
    limits: (Duration, u64, u64),
}

impl Drop for Running {
    /// Of a test that failed, nothing is left.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a process that this test started and has not waited for.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Waits until it has printed this; to come after [`Monitor::unread`].
    pub fn hear(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        self.held.as_mut().unwrap().read_exact(&mut heard).unwrap();
        assert_eq!(heard, expected);
    }

    /// Waits a while for its end, then ends it by SIGTERM.
    pub fn end_soon(self) -> Ended {
        let pid = self.pid();
        let (ended, heard) = mpsc::channel::<()>();
        let signaller = std::thread::spawn(move || {
            if let Err(mpsc::RecvTimeoutError::Timeout) = heard.recv_timeout(Duration::from_secs(1))
            {
                // SAFETY: a process that this test started; the one who waits for it says so after this thread.
                unsafe { libc::kill(pid, libc::SIGTERM) };
            }
        });
        let end = self.end();
        drop(ended);
        signaller.join().unwrap();
        end
    }

    /// Waits for its end, and holds it to the limits.
    pub fn end(mut self) -> Ended {
        let pid = self.pid();
        let (patience, memory_kib, said) = self.limits;
        let (mut peak_kib, mut status) = (0, None);
        while status.is_none() {
            // What wait4 tells of it would have this process's own memory in it, from before the exec.
            peak_kib = peak_kib.max(peak_of(pid));
            status = self.child.try_wait().unwrap();
            if status.is_none() && self.began.elapsed() > patience {
                let stuck = threads_of(pid);
                self.signal(libc::SIGKILL);
                self.child.wait().unwrap();
                let read = |output: Option<JoinHandle<(Vec<u8>, u64)>>| {
                    output.map(|o| String::from_utf8_lossy(&o.join().unwrap().0).into_owned())
                };
                let (out, err) = (read(self.out.take()), read(self.err.take()));
                let said = format!("{out:?}\n{err:?}");
                panic!("{} hangs: {stuck}\n{}", brief(&self.words), brief(&said));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = status.unwrap();
        let read = |output: Option<JoinHandle<(Vec<u8>, u64)>>| {
            output.map_or((Vec::new(), 0), |output| output.join().unwrap())
        };
        let ((out, _), (err, err_length)) = (read(self.out.take()), read(self.err.take()));
        let err = String::from_utf8_lossy(&err).into_owned();
        let words = brief(&self.words);
        assert!(!err.contains("panicked"), "{words}: {}", brief(&err));
        assert!(!status.core_dumped(), "{words}: {status}");
        let told = brief(&err);
        assert!(
            err_length <= said,
            "{words} says {err_length} bytes: {told}"
        );
        assert!(peak_kib <= memory_kib, "{words} takes {peak_kib} KiB");
        Ended {
            status,
            out,
            err,
            took: self.began.elapsed(),
        }
    }
}

/// The start of a text, for a test that failed.
fn brief(text: &str) -> &str {
    &text[..text.floor_char_boundary(2000)]
}

/// The most memory that the process has had so far.
fn peak_of(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.split_whitespace().next()?.parse().ok());
    peak.unwrap_or(0)
}

/// What each thread of a process waits in, for whoever has to look into a hang.
fn threads_of(pid: i32) -> String {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let line = |task: std::path::PathBuf| {
        let (name, call) = (read(&task.join("comm")), read(&task.join("syscall")));
        let wchan = read(&task.join("wchan"));
        format!("{}: {wchan} {}", name.trim(), call.trim())
    };
    let lines: Vec<_> = tasks.map(|task| line(task.unwrap().path())).collect();
    lines.join("; ")
}

impl Ended {
    /// The guest did all that it had in mind, and switched itself off.
    pub fn survived(&self) -> &Self {
        self.has_status(0);
        let printed = String::from_utf8_lossy(&self.out);
        // On a host so slow that this process didn't read in time, some of it may be lost.
        let lost = self.err.contains("bytes of console output were lost");
        assert!(lost || printed.ends_with("alive"), "{printed}{}", self.err);
        self
    }

    pub fn has_status(&self, status: i32) -> &Self {
        assert_eq!(
            self.status.code(),
            Some(status),
            "{}: {}",
            self.status,
            self.err
        );
        self
    }

    /// It was refused in one line that has these words, and with the status of a wrong option or file.
    pub fn refused(&self, words: &[&str]) -> &Self {
        self.has_status(2);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word} is not in {}", self.err);
        }
        self
    }
}
