//! How many system calls a monitor makes from exec to the first KVM_RUN: counted exactly, in runs of
//! their own, by ptrace. The guest is never run.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::bench::child;

/// KVM_RUN (Linux Documentation/virt/kvm/api.rst): _IO(KVMIO, 0x80).
const KVM_RUN: u64 = 0xae80;
/// The most that are counted: a program that makes more isn't on its way to KVM_RUN.
const MANY: u64 = 1_000_000;

/// Why they were not counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// It could not be started to be traced.
    #[error("starting it to be traced (ptrace): {0}")]
    Start(io::Error),
    /// A ptrace call failed.
    #[error("tracing it (ptrace): {0}")]
    Trace(io::Error),
    /// It ended before KVM_RUN.
    #[error("it ended before KVM_RUN")]
    Ended,
    /// It never came to KVM_RUN.
    #[error("it made no KVM_RUN within {MANY} system calls, or within the time limit")]
    Never,
    /// A signal asked this process to end.
    #[error("interrupted")]
    Interrupted,
}

/// Counts the calls of all threads before the first KVM_RUN, exec itself included, as strace does.
/// It is given up after `limit`, and when `stop` is readable.
pub fn count(mut command: Command, limit: Duration, stop: RawFd) -> Result<u64, CountError> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: system calls that are async-signal-safe, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let mut child = command.spawn().map_err(CountError::Start)?;
    let deadline = Instant::now() + limit;
    thread::scope(|scope| {
        let watched = Watched::new(&child);
        let watcher = watched.map(|watched| scope.spawn(move || watched.watch(deadline, stop)));
        let result = counted(&mut child, deadline);
        match watcher.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(Some(why))) if result.is_err() => Err(why),
            _ => result,
        }
    })
}

/// The process, for another thread than the one that traces it: that one waits for as long as the
/// process waits for something itself.
struct Watched(std::os::fd::OwnedFd);

impl Watched {
    fn new(child: &Child) -> io::Result<Self> {
        child::pidfd(child).map(Watched)
    }

    /// Kills the process at the deadline or when `stop` is readable; why, if it isn't over before.
    fn watch(self, deadline: Instant, stop: RawFd) -> Option<CountError> {
        let fd = self.0.as_raw_fd();
        let ready = child::poll([fd, stop], deadline);
        let [over, stopped] = ready.unwrap_or([false, false]);
        if over {
            return None;
        }
        // By its descriptor: its number may be another's by now.
        // SAFETY: with no siginfo, it takes no pointer.
        unsafe {
            let none = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, none, 0)
        };
        Some(match stopped {
            true => CountError::Interrupted,
            false => CountError::Never,
        })
    }
}

/// Traces the process, and ends it.
fn counted(child: &mut Child, deadline: Instant) -> Result<u64, CountError> {
    let leader = child.id() as i32;
    let result = trace(leader, deadline);
    // Once it was told that it has ended, its number may be another's.
    if !matches!(result, Err(CountError::Ended)) {
        let _ = child.kill();
        // All its threads, which are traced, too: only then is it gone itself.
        while let Ok((thread, status)) = wait(-1) {
            if thread == leader && !libc::WIFSTOPPED(status) {
                break;
            }
        }
    }
    result
}

/// Goes from stop to stop of all its threads.
fn trace(leader: i32, deadline: Instant) -> Result<u64, CountError> {
    let (_, status) = wait(leader)?;
    if !libc::WIFSTOPPED(status) {
        return Err(CountError::Ended);
    }
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SETOPTIONS, leader, options as u64)?;
    request(libc::PTRACE_SYSCALL, leader, 0)?;
    let mut calls = 1; // exec, which is over
    while calls < MANY && Instant::now() < deadline {
        let (thread, status) = wait(-1)?;
        if !libc::WIFSTOPPED(status) {
            if thread == leader {
                return Err(CountError::Ended);
            }
            continue;
        }
        let signal = match libc::WSTOPSIG(status) {
            signal if signal == libc::SIGTRAP | 0x80 => {
                match entry(thread)? {
                    Some((libc::SYS_ioctl, KVM_RUN)) => return Ok(calls),
                    Some(_) => calls += 1,
                    None => {}
                }
                0
            }
            // ptrace's own stops: a new thread's first, and its maker's.
            libc::SIGTRAP | libc::SIGSTOP => 0,
            signal => signal,
        };
        // It may have been killed meanwhile, which the next wait tells.
        let _ = request(libc::PTRACE_SYSCALL, thread, signal as u64);
    }
    Err(CountError::Never)
}

/// Waits for a process or thread that this thread traces.
fn wait(pid: i32) -> Result<(i32, i32), CountError> {
    loop {
        let mut status = 0;
        // SAFETY: a valid place for the status.
        let found =
            unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        match found {
            1.. => return Ok((found, status)),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(CountError::Trace(error));
                }
            }
        }
    }
}

fn request(request: libc::c_uint, thread: i32, data: u64) -> Result<(), CountError> {
    // SAFETY: these requests read no memory of this process.
    match unsafe { libc::ptrace(request as _, thread, 0, data) } {
        0 => Ok(()),
        _ => Err(CountError::Trace(io::Error::last_os_error())),
    }
}

/// The number and second argument of the call that a thread is about to make; `None` where it is
/// coming back from one.
fn entry(thread: i32) -> Result<Option<(i64, u64)>, CountError> {
    // SAFETY: an all-zero value is valid, and filled in by the call.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&info);
    // SAFETY: the size that is passed is the structure's.
    let got = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO as _,
            thread,
            size,
            &raw mut info,
        )
    };
    if got < 0 {
        return Err(CountError::Trace(io::Error::last_os_error()));
    }
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that this is the field that the kernel has filled in.
    let entry = unsafe { info.u.entry };
    Ok(Some((entry.nr as i64, entry.args[1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_kvm_run_is_told() {
        let result = count(Command::new("true"), Duration::from_secs(60), -1);
        // Where ptrace isn't allowed, that is what is said instead.
        assert!(
            matches!(
                result,
                Err(CountError::Ended | CountError::Start(_) | CountError::Trace(_))
            ),
            "{result:?}"
        );
        let result = count(
            Command::new("/nonexistent/monitor"),
            Duration::from_secs(60),
            -1,
        );
        assert!(matches!(result, Err(CountError::Start(_))), "{result:?}");
    }

    #[test]
    fn a_program_that_waits_is_given_up() {
        let sleeping = || {
            let mut command = Command::new("sleep");
            command.arg("100000");
            command
        };
        let result = count(sleeping(), Duration::from_millis(200), -1);
        let not_allowed = matches!(result, Err(CountError::Start(_) | CountError::Trace(_)));
        assert!(
            not_allowed || matches!(result, Err(CountError::Never)),
            "{result:?}"
        );
        let (reader, writer) = io::pipe().unwrap();
        drop(writer); // at its end, and so readable
        let result = count(sleeping(), Duration::from_secs(100_000), reader.as_raw_fd());
        assert!(
            not_allowed || matches!(result, Err(CountError::Interrupted)),
            "{result:?}"
        );
    }
}
