//! Work that a VM has done on a thread of its own while it runs, such as answering an API.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::control::Control;
use super::ending::Exit;
use super::timings::{BootClock, Timeline};
use crate::sandbox::ThreadKind;
use crate::threads::Member;

/// What such work needs of the host once the guest runs and the VM is confined
/// ([`BuildOptions::reach`](super::BuildOptions::reach)). The folders of the drives' present files are
/// within its reach anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// A socket that was made, and is removed at the end.
    pub socket: Option<PathBuf>,
    /// Folders, or block devices, in which what drives are to have in them is opened.
    pub files: Vec<PathBuf>,
}

/// What is to be done ([`Vm::accompany`](super::Vm::accompany)).
pub(super) type Work = Box<dyn FnOnce(Beside) + Send>;

/// What such work has of its VM.
pub struct Beside {
    /// Controls the VM.
    pub control: Control,
    /// The times of its boot.
    pub boot: BootTimes,
    pub(super) flush: Option<Arc<EventFd>>,
    pub(super) end: End,
}

#[derive(Clone)]
pub(super) struct End {
    event: Arc<EventFd>,
    exit: Arc<OnceLock<Exit>>,
}

impl Beside {
    /// Becomes readable when the VM has ended: the work is to end then, too.
    pub fn ended(&self) -> RawFd {
        self.end.event.as_raw_fd()
    }

    /// How the VM ended, if it has.
    pub fn exit(&self) -> Option<&Exit> {
        self.end.exit.get()
    }

    /// Has the metrics' file written soon; false if there is none.
    pub fn flush_metrics(&self) -> bool {
        let flush = self.flush.as_ref();
        flush.is_some_and(|event| event.write(1).is_ok())
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// How long it took from the start of the VM's timeline.
#[derive(Clone)]
pub struct BootTimes {
    pub(super) clock: Arc<BootClock>,
    pub(super) start: Instant,
}

impl BootTimes {
    pub(super) fn new(clock: &Arc<BootClock>, timeline: &Timeline) -> Self {
        BootTimes {
            clock: clock.clone(),
            start: timeline.start,
        }
    }

    /// Until the guest first ran, if it has.
    pub fn first_run(&self) -> Option<Duration> {
        let (at, _) = self.clock.first_run.get()?;
        Some(at.saturating_duration_since(self.start))
    }

    /// Until its init has signalled, if it has.
    pub fn init(&self) -> Option<Duration> {
        let (at, _) = self.clock.init.get()?;
        Some(at.saturating_duration_since(self.start))
    }
}

impl fmt::Debug for BootTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootTimes")
            .field("first_run", &self.first_run())
            .field("init", &self.init())
            .finish()
    }
}

impl End {
    pub fn new() -> io::Result<Self> {
        Ok(End {
            event: Arc::new(EventFd::new(EFD_CLOEXEC)?),
            exit: Arc::default(),
        })
    }
}

/// The thread at work. It ends when it is told so, or dropped.
pub(super) struct AtWork {
    end: End,
    thread: Option<JoinHandle<()>>,
}

impl AtWork {
    pub fn start(work: Work, beside: Beside, vm: &Member) -> io::Result<Self> {
        let end = beside.end.clone();
        let thread = vm.spawn(ThreadKind::Api, "mote-api", move || work(beside))?;
        Ok(AtWork {
            end,
            thread: Some(thread),
        })
    }

    /// The VM has ended so.
    pub fn end(self, exit: &Exit) {
        let _ = self.end.exit.set(exit.clone());
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let told = self.end.event.write(1);
        if let (Ok(()), Some(thread)) = (told, self.thread.take())
            && thread.join().is_err()
        {
            log::error!("the thread of the API has panicked");
        }
    }
}
