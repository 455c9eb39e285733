//! Signals that ask the process to end: they stop the VM, and with it everything in order.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use motevm::Stopper;

/// The descriptor that a handler writes to; -1 before there is a VM.
static STOP_EVENT: AtomicI32 = AtomicI32::new(-1);
/// The last of these signals that came.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// What a user, a terminal that goes away, or a supervisor sends.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// While this lives, these signals stop the VM; afterwards they end the process again.
pub struct StopOnSignals {
    /// Keeps the descriptor open that the handler writes to.
    _stopper: Stopper,
}

impl StopOnSignals {
    /// From now on these signals stop the VM instead of the process.
    pub fn new(stopper: Stopper) -> io::Result<Self> {
        STOP_EVENT.store(stopper.event(), Ordering::Release);
        for signal in ENDING {
            on(signal, stop as *const () as usize, 0)?;
        }
        Ok(StopOnSignals { _stopper: stopper })
    }
}

impl Drop for StopOnSignals {
    fn drop(&mut self) {
        for signal in ENDING {
            let _ = on(signal, libc::SIG_DFL, 0);
        }
    }
}

/// A write beyond the limit on file sizes shall fail as the guest's I/O error, not end the process.
pub fn ignore_file_size_limit() -> io::Result<()> {
    on(libc::SIGXFSZ, libc::SIG_IGN, 0)
}

/// The last of these signals that came, if any.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Acquire)).filter(|&signal| signal != 0)
}

/// Installs a handler (a function of the signal's number, or SIG_DFL).
pub fn on(signal: i32, handler: usize, flags: i32) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value: an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handlers passed here only use async-signal-safe calls and atomics.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn stop(signal: i32) {
    RECEIVED.store(signal, Ordering::Release);
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe; the descriptor is open as long as
    // this handler is installed (StopOnSignals).
    unsafe {
        libc::write(
            STOP_EVENT.load(Ordering::Acquire),
            one.as_ptr().cast(),
            one.len(),
        )
    };
}
