//! One VM in a process of its own: `mote run`, with its configuration on standard input, the lines of
//! `--notify-fd` on standard output, and its messages in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How much of a failed VM's messages is passed on.
const MESSAGE: u64 = 2000;

/// A VM's process.
pub struct VmChild {
    pub number: u32,
    child: Child,
    out: ChildStdout,
    messages: File,
    pub started: Instant,
    /// What came of a line that isn't whole yet.
    line: Vec<u8>,
    pub running: Option<Moment>,
    pub init: Option<Moment>,
}

/// When something was told.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the VM's own clock, from its exec.
    pub own: Duration,
    /// From before its process was started until it was heard of here.
    pub seen: Duration,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Lines,
    End,
}

impl VmChild {
    /// Starts VM `number` with a configuration as TOML. `mask` is the signal mask it is to have.
    pub fn start(number: u32, config: &str, mask: libc::sigset_t) -> io::Result<Self> {
        let mut input = memory_file()?;
        input.write_all(config.as_bytes())?;
        input.seek(SeekFrom::Start(0))?;
        let messages = memory_file()?;
        // The same program, even if its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["run", "--config", "/proc/self/fd/0", "--notify-fd", "1"])
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(messages.try_clone()?)
            // Ctrl-C is this process's to hear, which then ends them in order.
            .process_group(0);
        let parent = std::process::id() as libc::pid_t;
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // If this process is killed, its VMs go with it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                if libc::getppid() != parent {
                    libc::_exit(1);
                }
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
                Ok(())
            });
        }
        let started = Instant::now();
        let mut child = command.spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(VmChild {
            number,
            child,
            out,
            messages,
            started,
            line: Vec::new(),
            running: None,
            init: None,
        })
    }

    /// Readable when there is something to hear.
    pub fn fd(&self) -> RawFd {
        self.out.as_raw_fd()
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads what it tells. To be called when there is something.
    pub fn hear(&mut self) -> io::Result<Heard> {
        let mut bytes = [0; 256];
        let count = self.out.read(&mut bytes)?;
        let seen = self.started.elapsed();
        for byte in &bytes[..count] {
            match byte {
                b'\n' => self.told(seen),
                // No mote says lines that long.
                byte if self.line.len() < 64 => self.line.push(*byte),
                _ => {}
            }
        }
        Ok(if count == 0 { Heard::End } else { Heard::Lines })
    }

    fn told(&mut self, seen: Duration) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let Some((moment, time)) = line.split_once(' ') else {
            return;
        };
        let own = time.parse().map(Duration::from_micros);
        let at = own.ok().map(|own| Moment { own, seen });
        match moment {
            "running" => self.running = at,
            "init" => self.init = at,
            _ => {}
        }
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        // SAFETY: takes no pointer; the process was not waited for, so that the number is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
    }

    /// Ends it for sure.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// What it said, in one line.
    pub fn said(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.messages.seek(SeekFrom::Start(0));
        let read = read.and_then(|_| (&self.messages).take(MESSAGE).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(|line| line.trim_start_matches("mote: "));
        match (read, lines.collect::<Vec<_>>().join("; ")) {
            (Ok(_), text) if !text.is_empty() => text,
            _ => "it said nothing".to_owned(),
        }
    }
}

/// A file without a name.
fn memory_file() -> io::Result<File> {
    // SAFETY: a string with its NUL.
    let fd = unsafe { libc::memfd_create(c"mote-bench".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made.
    Ok(unsafe { File::from_raw_fd(fd) })
}
