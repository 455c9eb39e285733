//! Counts what a process does, by the kernel's own events (perf_event_open): exactly, without
//! stopping it as strace does, and threads included that it starts later.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::FromRawFd;

/// What is counted.
#[allow(dead_code)] // each bench uses its own part
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Nanoseconds on a CPU, in guest mode too.
    TaskClock,
    /// Times that a thread left the CPU.
    ContextSwitches,
    /// A tracepoint, as the folder below `events` in tracefs.
    Tracepoint(&'static str),
}

/// Events of a process, one sum for each.
#[derive(Debug)]
pub struct Counters(Vec<Vec<File>>);

/// Where tracefs is, or is found by way of debugfs.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

impl Counters {
    /// Counts from now on in all threads of `pid` whose name `wanted` says yes to, and in those
    /// that they start.
    pub fn attach(
        pid: u32,
        events: &[Event],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let mut threads = Vec::new();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))? {
            let task = task.map_err(|e| format!("{tasks}: {e}"))?;
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if wanted(name.trim())
                && let Ok(thread) = task.file_name().to_string_lossy().parse()
            {
                threads.push(thread);
            }
        }
        let open_all = |event: &Event| -> Result<Vec<File>, String> {
            let (kind, config) = event.numbers()?;
            let mut files = Vec::new();
            for thread in &threads {
                match open(kind, config, *thread) {
                    Ok(file) => files.push(file),
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => return Err(format!("perf_event_open for {event:?}: {error}")),
                }
            }
            Ok(files)
        };
        let counters: Result<_, _> = events.iter().map(open_all).collect();
        counters.map(Self)
    }

    /// The counts so far, in the order of the events.
    pub fn read(&self) -> Vec<u64> {
        let read = |mut file: &File| {
            let mut count = [0; 8];
            file.read_exact(&mut count).expect("reading a count");
            u64::from_ne_bytes(count)
        };
        self.0
            .iter()
            .map(|files| files.iter().map(read).sum())
            .collect()
    }
}

impl Event {
    /// The type and the number that the kernel knows it by.
    fn numbers(self) -> Result<(u64, u64), String> {
        const SOFTWARE: u64 = 1;
        const TRACEPOINT: u64 = 2;
        match self {
            Self::TaskClock => Ok((SOFTWARE, 1)),
            Self::ContextSwitches => Ok((SOFTWARE, 3)),
            Self::Tracepoint(name) => {
                let read = |root: &&str| fs::read_to_string(format!("{root}/events/{name}/id"));
                let id = TRACEFS.iter().find_map(|root| read(root).ok());
                let id = id.and_then(|id| id.trim().parse().ok());
                let id = id.ok_or_else(|| {
                    let root = TRACEFS[0];
                    format!(
                        "no tracepoint {name} (run this as root, with tracefs: \
                         mount -t tracefs tracefs {root})"
                    )
                })?;
                Ok((TRACEPOINT, id))
            }
        }
    }
}

/// A counter of one event in one thread and its children.
fn open(kind: u64, config: u64, thread: i32) -> io::Result<File> {
    const SIZE: u64 = 64; // PERF_ATTR_SIZE_VER0
    const INHERIT: u64 = 1 << 1;
    const FD_CLOEXEC: u64 = 1 << 3;
    // struct perf_event_attr: type and size, config, three words of sampling, flags, two words.
    let attributes: [u64; 8] = [kind | SIZE << 32, config, 0, 0, 0, INHERIT, 0, 0];
    // SAFETY: the kernel reads as many bytes of `attributes` as it says that it has.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            thread,
            -1,
            -1,
            FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was opened a moment ago and that nobody else has.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

/// In the emulated machine, which is the bench's own, sees to it that the tracepoints can be found.
pub fn mount_tracefs() {
    if std::env::var_os("MOTE_EMULATED").is_some() {
        let _ = std::process::Command::new("mount")
            .args(["-t", "tracefs", "tracefs", TRACEFS[0]])
            .status();
    }
}
