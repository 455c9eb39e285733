//! The two sides: the process in the jail, and the one outside that waits for it.
//!
//! ```text
//!   mote run --jail      supervisor: waits, passes signals on, gives the terminal, cleans up
//!     |-- first          process 1 of the jail's namespace: reaps, and ends it with the supervisor
//!     `-- jailed         goes on as an ordinary `mote run`
//! ```
//!
//! Process 1 is one of its own since the kernel keeps most signals from such a one. The jailed process
//! is the supervisor's own child, so that its end and its stops are seen as they are.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::cgroup::Cgroup;
use super::folder::Folder;
use super::given::Given;
use super::sys::check;
use super::{JailError, Outcome, Side, User, rights};
use crate::sandbox::leftovers;

/// What a jail is made of, once its namespaces and its file system are there.
pub struct Parts {
    pub folder: Folder,
    pub cgroup: Option<Cgroup>,
    /// Its `cgroup.procs`.
    pub entrance: Option<OwnedFd>,
    pub given: Given,
    pub user: User,
}

/// Splits this process. In the jail it returns at once; outside when the jailed process has ended and
/// everything is cleared away.
pub fn split(mut parts: Parts) -> Result<Side, JailError> {
    let host = |what| move |source| JailError::Host { what, source };
    let (alive, held) = pipe().map_err(host("making a pipe"))?;
    // Signals wait for `serve`, from before there is anyone to pass them on to.
    let mask = Mask::block_all();
    let lock = parts.folder.jail_lock().map(|lock| lock.as_raw_fd());
    let terminal = Terminal::look();

    let first = match fork().map_err(host("starting process 1 of the jail"))? {
        Some(first) => first,
        None => be_first(&parts, &alive, lock),
    };
    let jailed = match fork().map_err(host("starting the jailed process"))? {
        Some(jailed) => jailed,
        None => {
            let inside = Inside {
                entrance: parts.entrance.as_ref().map(AsFd::as_fd),
                alive,
                kept: parts.given.numbers().into_iter().chain(lock).collect(),
                terminal,
            };
            let result = inside.enter(&parts.user);
            // Nothing of the supervisor's is cleared away here; its descriptors are closed.
            std::mem::forget((parts, held));
            mask.restore();
            return result.map(|()| Side::Jailed);
        }
    };
    drop(alive);
    parts.folder.leave_lock_to_the_jail();
    std::mem::take(&mut parts.given).close();
    let terminal = terminal.map(|terminal| terminal.lend_to(jailed));
    let status = serve(jailed, terminal.as_ref());
    drop(terminal);
    // Process 1 sees the pipe end, and the kernel ends with it whatever else is in the namespace.
    drop(held);
    wait(first, 0);
    let status = status.map_err(host("waiting for the jailed process"))?;
    let out_of_memory = parts.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory);
    drop(parts);
    mask.restore();
    Ok(Side::Supervisor(Outcome {
        status,
        out_of_memory,
    }))
}

/// What the jailed process has to deal with on its way in.
struct Inside<'a> {
    entrance: Option<BorrowedFd<'a>>,
    /// Ends with the supervisor.
    alive: OwnedFd,
    kept: Vec<RawFd>,
    terminal: Option<Terminal>,
}

impl Inside<'_> {
    fn enter(mut self, user: &User) -> Result<(), JailError> {
        let host = |what| move |source| JailError::Host { what, source };
        if let Some(entrance) = self.entrance {
            rights::join(entrance).map_err(host("joining the cgroup"))?;
        }
        if let Some(terminal) = self.terminal {
            // Job control goes by process groups, whose numbers outside aren't known in the jail.
            // SAFETY: takes no pointer.
            unsafe {
                libc::setpgid(0, 0);
                if terminal.is_ours {
                    libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpgrp());
                }
            }
        }
        self.kept.push(self.alive.as_raw_fd());
        leftovers::close_all_but(self.kept).map_err(host("closing descriptors"))?;
        // SAFETY: this process has no other thread, as `enter` has made sure.
        unsafe { leftovers::forget_environment() };
        rights::drop_all(user).map_err(host("giving up rights"))?;
        rights::end_with_parent().map_err(host("binding it to its supervisor"))?;
        if has_ended(&self.alive) {
            // The supervisor was killed before that was told to the kernel.
            std::process::exit(128 + libc::SIGKILL);
        }
        Ok(())
    }
}

/// Process 1: lives as long as the supervisor, and does nothing.
fn be_first(parts: &Parts, alive: &OwnedFd, lock: Option<RawFd>) -> ! {
    // Where one of these fails it does for the jailed process, too, which says so.
    let _ = parts
        .entrance
        .as_ref()
        .map(|entrance| rights::join(entrance.as_fd()));
    let kept = [alive.as_raw_fd()].into_iter().chain(lock).collect();
    let _ = leftovers::close_all_but(kept);
    // Whose children have no parent any more, the kernel buries.
    // SAFETY: takes no pointer to anything.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    // The standard streams are other processes' business.
    for fd in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        // SAFETY: takes no pointer; nothing is printed from here on.
        unsafe { libc::close(fd) };
    }
    let _ = rights::drop_all(&parts.user);
    // The jailed process can't trace it, and so not keep it from its end.
    // SAFETY: takes no pointer.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    let mut byte = 0_u8;
    // SAFETY: room for one byte. No one writes: it returns when the other end is closed.
    while unsafe { libc::read(alive.as_raw_fd(), (&raw mut byte).cast(), 1) } < 0 {}
    // SAFETY: ends this process without running what is the supervisor's.
    unsafe { libc::_exit(0) }
}

/// Waits for the end of the jailed process, and passes on what happens meanwhile.
fn serve(jailed: libc::pid_t, terminal: Option<&Lent>) -> io::Result<i32> {
    let all = Mask::all();
    let pass = |signal| {
        // SAFETY: takes no pointer; the process is a child that hasn't been waited for.
        unsafe { libc::kill(jailed, signal) };
    };
    loop {
        // SAFETY: a set, and no room for more information.
        match unsafe { libc::sigwaitinfo(&raw const all, std::ptr::null_mut()) } {
            libc::SIGCHLD => match wait(jailed, libc::WNOHANG | libc::WUNTRACED) {
                None => {}
                Some(status) if libc::WIFSTOPPED(status) => {
                    if let Some(terminal) = terminal {
                        terminal.take_back();
                    }
                    // Whoever waits for this process sees the job stopped. Then SIGCONT comes.
                    // SAFETY: takes no pointer.
                    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
                }
                Some(status) => return Ok(status),
            },
            libc::SIGCONT => {
                if let Some(terminal) = terminal {
                    terminal.give();
                }
                pass(libc::SIGCONT);
            }
            // What the terminal has to say is for who has it.
            libc::SIGTTIN | libc::SIGTTOU => {}
            signal if signal > 0 => pass(signal),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// The controlling terminal, if it is standard input.
#[derive(Clone, Copy)]
struct Terminal {
    /// This process is in its foreground.
    is_ours: bool,
}

impl Terminal {
    fn look() -> Option<Self> {
        // SAFETY: takes no pointer.
        let foreground = unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) };
        // SAFETY: as above.
        let is_ours = foreground == unsafe { libc::getpgrp() };
        (foreground >= 0).then_some(Terminal { is_ours })
    }

    /// Lends it to the process group of `jailed`.
    fn lend_to(self, jailed: libc::pid_t) -> Lent {
        // SAFETY: a struct of numbers, for which zeros are valid, to be filled.
        let modes = unsafe {
            let mut modes: libc::termios = std::mem::zeroed();
            let known = libc::tcgetattr(libc::STDIN_FILENO, &raw mut modes) == 0;
            // The same as the process itself does: whoever is first.
            libc::setpgid(jailed, jailed);
            known.then_some(modes)
        };
        Lent { jailed, modes }
    }
}

/// A terminal that the jailed process has while this job is in the foreground.
struct Lent {
    jailed: libc::pid_t,
    modes: Option<libc::termios>,
}

impl Lent {
    fn pass(from: libc::pid_t, to: libc::pid_t) -> bool {
        // SAFETY: takes no pointer. SIGTTOU, which it might raise, is blocked.
        unsafe {
            libc::tcgetpgrp(libc::STDIN_FILENO) == from
                && libc::tcsetpgrp(libc::STDIN_FILENO, to) == 0
        }
    }

    fn give(&self) {
        // SAFETY: takes no pointer.
        Self::pass(unsafe { libc::getpgrp() }, self.jailed);
    }

    fn take_back(&self) -> bool {
        // SAFETY: takes no pointer.
        Self::pass(self.jailed, unsafe { libc::getpgrp() })
    }
}

impl Drop for Lent {
    /// Back, and as it was: a process that was killed has left it as the guest had it.
    fn drop(&mut self) {
        if let (true, Some(modes)) = (self.take_back(), &self.modes) {
            // SAFETY: modes that the terminal had before.
            unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, modes) };
        }
    }
}

/// The signals that were blocked before.
struct Mask(libc::sigset_t);

impl Mask {
    fn all() -> libc::sigset_t {
        // SAFETY: a set of bits, for which zeros are valid, to be filled.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            all
        }
    }

    fn block_all() -> Self {
        let all = Self::all();
        let mut before = all;
        // SAFETY: two sets.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
        Mask(before)
    }

    fn restore(&self) {
        // SAFETY: a set that the kernel has given.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// The child's number, or `None` in the child.
fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: this process has no other thread, as `enter` has made sure, so the child can go on as the
    // parent could.
    let child = check(unsafe { libc::fork() })?;
    Ok((child > 0).then_some(child))
}

fn wait(child: libc::pid_t, options: i32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: room for the status.
        match check(unsafe { libc::waitpid(child, &raw mut status, options) }) {
            Ok(0) => return None,
            Ok(_) => return Some(status),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Whether the other end of this pipe is closed.
fn has_ended(pipe: &OwnedFd) -> bool {
    let mut poll = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: 0, // a hang-up is always told
        revents: 0,
    };
    // SAFETY: one descriptor.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}
