//! A process beside the shim, which ends with it, and whose number is its own as long as anything is done by it.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::lock;

/// For a process that was asked to end. A jailed monitor takes its jail away before.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    over: Arc<Over>,
}

/// How it ended, once it has.
#[derive(Debug, Default)]
struct Over {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Child {
    /// Runs a command on a thread that lives as long as it does: the kernel ends it when that thread ends, however that
    /// comes (prctl(2), PR_SET_PDEATHSIG).
    pub fn start(
        mut command: Command,
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<Self> {
        let shim = std::process::id() as libc::pid_t;
        // SAFETY: system calls only, which take numbers.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                match libc::getppid() == shim {
                    true => Ok(()),
                    false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
                }
            });
        }
        let over = Arc::<Over>::default();
        let own = over.clone();
        let (sender, started) = channel();
        thread::spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let _ = sender.send(Ok(child.id()));
            drop(command);
            wait_unreaped(child.id());
            // Whoever holds this may send it a signal: only then is its number given up.
            let mut status = lock(&own.status);
            let how = child.wait();
            let how = how.unwrap_or_else(|_| ExitStatus::from_raw(255 << 8));
            *status = Some(how);
            drop(status);
            own.changed.notify_all();
            ended(how);
        });
        let gone = || Err(io::Error::other("its thread has ended"));
        let pid = started.recv().unwrap_or_else(|_| gone())?;
        Ok(Child { pid, over })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        *lock(&self.over.status)
    }

    /// Ends it, if it hasn't, and waits for that.
    pub fn end(&self) {
        let mut status = lock(&self.over.status);
        let kill = |signal| {
            // SAFETY: takes numbers; it isn't reaped yet.
            unsafe { libc::kill(self.pid as libc::pid_t, signal) };
        };
        if status.is_none() {
            kill(libc::SIGTERM);
        }
        while status.is_none() {
            let waited = self.over.changed.wait_timeout(status, PATIENCE);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            status = guard;
            if status.is_none() && waited.timed_out() {
                kill(libc::SIGKILL);
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Until it has ended.
fn wait_unreaped(pid: u32) {
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: a struct of numbers, for which zeros are good, and which lives through the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        while libc::waitid(libc::P_PID, pid, &raw mut info, flags) != 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn its_end_is_told_once_and_kept() {
        let (sender, told) = channel();
        let child = Child::start(shell("exit 7"), move |status| {
            sender.send(status.code()).unwrap();
        });
        let child = child.unwrap();
        assert_eq!(told.recv().unwrap(), Some(7));
        assert_eq!(child.status().unwrap().code(), Some(7));
        child.end();
        assert!(told.recv().is_err());
    }

    #[test]
    fn it_ends_with_whoever_has_it() {
        let (sender, told) = channel();
        let child = Child::start(shell("exec sleep 1000"), move |status| {
            sender.send(status.signal()).unwrap();
        });
        let child = child.unwrap();
        assert_eq!(child.status(), None);
        drop(child);
        assert_eq!(told.recv().unwrap(), Some(libc::SIGTERM));
        assert!(Child::start(Command::new("/no/such/program"), drop).is_err());
    }
}
