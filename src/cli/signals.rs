//! Signals that ask the process to end: they stop the VM, and with it everything in order. And the
//! one that tells of another size of the terminal.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use motevm::Stopper;
use motevm::machine::ConsoleResizer;
use vmm_sys_util::eventfd::EventFd;

use super::{Status, terminal};

/// The descriptor that a handler writes to; -1 before there is a VM.
static STOP_EVENT: AtomicI32 = AtomicI32::new(-1);
/// The same for changes of the terminal's size.
static RESIZE_EVENT: AtomicI32 = AtomicI32::new(-1);
/// Where signals are told that go to a program in the guest (`mote run --image`), once it runs; else -1.
static FORWARD_EVENT: AtomicI32 = AtomicI32::new(-1);
/// The same before it runs.
static FORWARD_LATER: AtomicI32 = AtomicI32::new(-1);
/// Signals for that program, a bit for each.
static PENDING: AtomicU64 = AtomicU64::new(0);
/// How often the end was asked for meanwhile.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// The last of these signals that came.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// What a user, a terminal that goes away, or a supervisor sends.
pub const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// How long the VM may take to end once it was asked to, in seconds. What it waits for is the
/// host: a file system that doesn't answer, a pipe that nobody reads.
const PATIENCE: u32 = 5;

/// While this lives, these signals stop the VM, and the process ends in any case when it hasn't
/// within [`PATIENCE`]; afterwards they end the process again.
pub struct StopOnSignals {
    /// Keeps the descriptor open that the handler writes to.
    _stopper: Stopper,
    heard: Vec<i32>,
}

impl StopOnSignals {
    /// From now on these signals stop the VM instead of the process.
    pub fn new(stopper: Stopper) -> io::Result<Self> {
        STOP_EVENT.store(stopper.event(), Ordering::Release);
        let mut heard = Vec::with_capacity(ENDING.len());
        for signal in ENDING {
            // Whoever started mote with a signal ignored doesn't want it to be heard: nohup, or a
            // shell script that starts a job in the background. SIGTERM is always heard.
            let before = on(signal, stop as *const () as usize, 0)?;
            if before == libc::SIG_IGN && signal != libc::SIGTERM {
                on(signal, libc::SIG_IGN, 0)?;
            } else {
                heard.push(signal);
            }
        }
        Ok(StopOnSignals {
            _stopper: stopper,
            heard,
        })
    }
}

impl Drop for StopOnSignals {
    fn drop(&mut self) {
        for &signal in &self.heard {
            let _ = on(signal, libc::SIG_DFL, 0);
        }
    }
}

/// While this lives, these signals are noted and wake whoever waits, and end nothing: for commands
/// that have other processes to end first.
pub struct NoteSignals {
    event: EventFd,
}

impl NoteSignals {
    /// From now on.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_CLOEXEC)?;
        STOP_EVENT.store(event.as_raw_fd(), Ordering::Release);
        for signal in ENDING {
            if on(signal, note as *const () as usize, 0)? == libc::SIG_IGN
                && signal != libc::SIGTERM
            {
                on(signal, libc::SIG_IGN, 0)?;
            }
        }
        Ok(NoteSignals { event })
    }

    /// Readable once one has come, and from then on.
    pub fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl Drop for NoteSignals {
    fn drop(&mut self) {
        for signal in ENDING {
            if on(signal, libc::SIG_DFL, 0).is_ok_and(|before| before == libc::SIG_IGN) {
                let _ = on(signal, libc::SIG_IGN, 0);
            }
        }
    }
}

extern "C" fn note(signal: i32) {
    RECEIVED.store(signal, Ordering::Release);
    wake(&STOP_EVENT);
}

/// While this lives, the guest learns of changes of the terminal's size (SIGWINCH).
pub struct ResizeOnSignal {
    /// Keeps the descriptor open that the handler writes to.
    _resizer: ConsoleResizer,
}

impl ResizeOnSignal {
    pub fn new(resizer: ConsoleResizer) -> io::Result<Self> {
        RESIZE_EVENT.store(resizer.event(), Ordering::Release);
        on(
            libc::SIGWINCH,
            resize as *const () as usize,
            libc::SA_RESTART,
        )?;
        // It may have changed since the VM was built.
        resize(libc::SIGWINCH);
        Ok(ResizeOnSignal { _resizer: resizer })
    }
}

impl Drop for ResizeOnSignal {
    fn drop(&mut self) {
        let _ = on(libc::SIGWINCH, libc::SIG_DFL, 0);
    }
}

extern "C" fn resize(_: i32) {
    wake(&RESIZE_EVENT);
}

/// Async-signal-safe; the descriptor is open as long as the handler is installed that calls this.
fn wake(event: &AtomicI32) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe.
    unsafe {
        libc::write(
            event.load(Ordering::Acquire),
            one.as_ptr().cast(),
            one.len(),
        )
    };
}

/// A write beyond the limit on file sizes shall fail as the guest's I/O error, not end the process.
pub fn ignore_file_size_limit() -> io::Result<()> {
    on(libc::SIGXFSZ, libc::SIG_IGN, 0).map(drop)
}

/// The last of these signals that came, if any.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Acquire)).filter(|&signal| signal != 0)
}

/// Installs a handler (a function of the signal's number, SIG_DFL or SIG_IGN), and returns the one
/// that was there.
pub fn on(signal: i32, handler: usize, flags: i32) -> io::Result<usize> {
    // SAFETY: an all-zero sigaction is a valid value: an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut before = action;
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handlers passed here only use async-signal-safe calls and atomics.
    match unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } {
        0 => Ok(before.sa_sigaction),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The request for the end that isn't passed on any more, but ends the VM.
const ENOUGH: u32 = 3;

/// While this lives, signals can be passed on to a program in the guest.
pub struct Forwarding(());

impl Forwarding {
    /// Tells of them by this eventfd, which stays open as long; of changes of the terminal's size too, if it has one.
    /// [`StopOnSignals`] has to be there.
    pub fn new(event: RawFd, has_terminal: bool) -> Self {
        FORWARD_LATER.store(event, Ordering::Release);
        if has_terminal {
            let _ = on(
                libc::SIGWINCH,
                pass_on as *const () as usize,
                libc::SA_RESTART,
            );
        }
        Forwarding(())
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = on(libc::SIGWINCH, libc::SIG_DFL, 0);
        FORWARD_EVENT.store(-1, Ordering::Release);
        FORWARD_LATER.store(-1, Ordering::Release);
    }
}

/// The program runs: from now on signals are its, and no longer end the VM.
pub fn forward() {
    FORWARD_EVENT.store(FORWARD_LATER.load(Ordering::Acquire), Ordering::Release);
}

/// The program has ended: signals end the VM again.
pub fn keep() {
    FORWARD_EVENT.store(-1, Ordering::Release);
}

/// Signals for the program that have come since this was asked last.
pub fn taken() -> impl Iterator<Item = i32> {
    let pending = PENDING.swap(0, Ordering::AcqRel);
    (1..64).filter(move |signal| pending >> signal & 1 == 1)
}

/// The user has ended the VM by a key, as if by SIGINT.
pub fn quit() {
    RECEIVED.store(libc::SIGINT, Ordering::Release);
}

/// Async-signal-safe.
extern "C" fn pass_on(signal: i32) {
    PENDING.fetch_or(1 << (signal & 63), Ordering::AcqRel);
    wake(&FORWARD_EVENT);
}

extern "C" fn stop(signal: i32) {
    if FORWARD_EVENT.load(Ordering::Acquire) >= 0 {
        // A program may do what it likes with SIGHUP and SIGQUIT, as often as they come.
        let asks = signal == libc::SIGINT || signal == libc::SIGTERM;
        if !asks || ASKED.fetch_add(1, Ordering::AcqRel) + 1 < ENOUGH {
            return pass_on(signal);
        }
    }
    let first = RECEIVED.swap(signal, Ordering::AcqRel) == 0;
    wake(&STOP_EVENT);
    // Not before: an alarm may have been set by whoever started mote, to end it after a time.
    if first && on(libc::SIGALRM, give_up as *const () as usize, 0).is_ok() {
        // SAFETY: async-signal-safe, as sigaction(2) is.
        unsafe { libc::alarm(PATIENCE) };
    }
}

extern "C" fn give_up(_: i32) {
    terminal::restore();
    let why = b"mote: the VM doesn't end: the host's storage or the reader of an output hangs\n";
    let status = Status::Signal(RECEIVED.load(Ordering::Acquire)).code();
    // SAFETY: async-signal-safe calls. Standard error may be what hangs, so it isn't waited for.
    unsafe {
        let mut stderr = libc::pollfd {
            fd: libc::STDERR_FILENO,
            events: libc::POLLOUT,
            revents: 0,
        };
        if libc::poll(&raw mut stderr, 1, 0) == 1 {
            libc::write(libc::STDERR_FILENO, why.as_ptr().cast(), why.len());
        }
        libc::_exit(status.into());
    }
}
