//! A process of a container, from containerd's word of it to its end.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mote_agent_protocol::message::Status;

use crate::lock;
use crate::streams::Streams;

/// Where it is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Known, and made in the guest if it is its container's first.
    Created,
    Running,
    Ended(Ended),
}

/// How and when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// As a shell has it.
    pub status: u32,
    pub at: SystemTime,
}

impl Ended {
    /// Now, with the guest's word for how.
    pub fn now(status: Status) -> Self {
        Ended::with(status.code().into())
    }

    /// Now, with the VM.
    pub fn with_vm() -> Self {
        Ended::with(128 + libc::SIGKILL as u32)
    }

    /// Of a program that was not run, as shells have it.
    pub fn never_run() -> Self {
        Ended::with(127)
    }

    fn with(status: u32) -> Self {
        Ended {
            status,
            at: SystemTime::now(),
        }
    }
}

/// A process.
#[derive(Debug)]
pub struct Process {
    pub streams: Streams,
    /// What a further process is to be; none for a container's first.
    pub spec: Option<oci_spec::runtime::Process>,
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl Process {
    pub fn new(streams: Streams, spec: Option<oci_spec::runtime::Process>) -> Self {
        Process {
            streams,
            spec,
            stage: Mutex::new(Stage::Created),
            changed: Condvar::new(),
        }
    }

    pub fn stage(&self) -> Stage {
        *lock(&self.stage)
    }

    /// Held while it changes, so that containerd is told of changes in their order.
    pub fn hold(&self) -> MutexGuard<'_, Stage> {
        lock(&self.stage)
    }

    /// To be called with each change to [`Stage::Ended`].
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Of one that was never started.
    pub fn never_runs(&self) {
        let mut stage = lock(&self.stage);
        if *stage == Stage::Created {
            *stage = Stage::Ended(Ended::never_run());
            self.changed.notify_all();
        }
    }

    /// Whether it ends within that time.
    pub fn ends_within(&self, patience: Duration) -> bool {
        let stage = lock(&self.stage);
        let goes_on = |stage: &mut Stage| !matches!(stage, Stage::Ended(_));
        let waited = self.changed.wait_timeout_while(stage, patience, goes_on);
        let (_stage, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// Waits for its end.
    pub fn wait(&self) -> Ended {
        let mut stage = lock(&self.stage);
        loop {
            if let Stage::Ended(ended) = *stage {
                return ended;
            }
            let waited = self.changed.wait(stage);
            stage = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Paths;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn who_waits_for_one_that_never_runs_gets_to_know() {
        let streams = Streams::new(Paths::default()).unwrap();
        let process = Arc::new(Process::new(streams, None));
        let waiting = process.clone();
        let waiter = thread::spawn(move || waiting.wait());
        assert!(!process.ends_within(Duration::from_millis(10)));
        process.never_runs();
        let ended = waiter.join().unwrap();
        assert_eq!(ended.status, 127);
        process.never_runs();
        assert_eq!(process.stage(), Stage::Ended(ended));
        assert!(process.ends_within(Duration::ZERO));
    }
}
