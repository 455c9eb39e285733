//! The user's terminal in raw mode, so that every key reaches the guest, and its way back to
//! what it was, whatever happens.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::signals;

/// What the terminal was, and what it is while the guest has it. Handlers need it, so it is
/// for the whole process, as the terminal is.
static MODES: OnceLock<Modes> = OnceLock::new();
/// Whether the guest has it by now.
static IS_RAW: AtomicBool = AtomicBool::new(false);
/// Whether there is a [`RawTerminal`]; held while that ends, and while another thread makes the terminal raw.
static IS_THERE: Mutex<bool> = Mutex::new(false);

struct Modes {
    /// The process group, which a handler may not ask for.
    job: libc::pid_t,
    original: libc::termios,
    raw: libc::termios,
}

const STDIN: i32 = libc::STDIN_FILENO;

/// Raw mode, as long as this value lives, from its beginning or from [`make_raw`] on.
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts the terminal on standard input into raw mode; `None` where there is none, or where
    /// it belongs to another job now.
    pub fn enter() -> io::Result<Option<Self>> {
        let terminal = RawTerminal::prepare()?;
        if terminal.is_some() {
            make_raw();
        }
        Ok(terminal)
    }

    /// The same, but leaves raw mode to [`make_raw`].
    pub fn prepare() -> io::Result<Option<Self>> {
        // SAFETY: takes nothing.
        let job = unsafe { libc::getpgrp() };
        if !io::stdin().is_terminal() || !is_foreground(job) {
            return Ok(None);
        }
        // SAFETY: an all-zero termios is a valid value, filled in by the call.
        let mut original: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: a valid termios.
        if unsafe { libc::tcgetattr(STDIN, &raw mut original) } != 0 {
            return Err(io::Error::last_os_error());
        }
        MODES.get_or_init(|| Modes {
            job,
            original,
            raw: raw(original),
        });
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGABRT,
        ] {
            signals::on(
                signal,
                die as *const () as usize,
                libc::SA_RESETHAND | libc::SA_ONSTACK,
            )?;
        }
        signals::on(libc::SIGTSTP, pause as *const () as usize, libc::SA_RESTART)?;
        signals::on(
            libc::SIGCONT,
            resume as *const () as usize,
            libc::SA_RESTART,
        )?;
        *is_there() = true;
        Ok(Some(RawTerminal(())))
    }
}

/// From now on keys are the guest's, if there is a [`RawTerminal`].
pub fn make_raw() {
    let is_there = is_there();
    if *is_there {
        IS_RAW.store(true, Ordering::Release);
        resume(libc::SIGCONT);
    }
}

/// From now on they are what they were before.
pub fn make_cooked() {
    IS_RAW.store(false, Ordering::Release);
    restore();
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let mut is_there = is_there();
        *is_there = false;
        make_cooked();
    }
}

fn is_there() -> MutexGuard<'static, bool> {
    IS_THERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No echo, no lines, no signals from keys; output still gets its carriage returns, so that
/// mote's own messages come out straight.
fn raw(original: libc::termios) -> libc::termios {
    let mut raw = original;
    // SAFETY: a valid termios.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    raw.c_oflag = original.c_oflag;
    raw
}

/// Whether the terminal is this job's at the moment, not the shell's or another job's.
fn is_foreground(job: libc::pid_t) -> bool {
    // SAFETY: an async-signal-safe call without pointers.
    unsafe { libc::tcgetpgrp(STDIN) == job }
}

/// Not in the background: there the kernel would stop the process for it (SIGTTOU), and the
/// terminal is as whoever has it wants it.
fn set(job: libc::pid_t, mode: &libc::termios) {
    if is_foreground(job) {
        // SAFETY: a valid termios; tcsetattr is async-signal-safe.
        unsafe { libc::tcsetattr(STDIN, libc::TCSANOW, mode) };
    }
}

/// Async-signal-safe.
pub fn restore() {
    if let Some(modes) = MODES.get() {
        set(modes.job, &modes.original);
    }
}

/// A crash: the terminal first, then what would have happened without this handler.
extern "C" fn die(signal: i32) {
    restore();
    // SAFETY: async-signal-safe; SA_RESETHAND has restored the default action.
    unsafe { libc::raise(signal) };
}

/// Stopped from outside: the shell gets its terminal back first.
extern "C" fn pause(_: i32) {
    restore();
    // SAFETY: async-signal-safe.
    unsafe { libc::raise(libc::SIGSTOP) };
}

extern "C" fn resume(_: i32) {
    if let Some(modes) = MODES.get()
        && IS_RAW.load(Ordering::Acquire)
    {
        set(modes.job, &modes.raw);
    }
}
