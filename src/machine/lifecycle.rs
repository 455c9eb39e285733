//! How far a VM has come, and how far it is wished to come: what [`super::Control`] and the thread that runs the VM
//! tell each other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::control::ControlError;

/// How far a VM has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Built, and [`super::Vm::run`] has not been called.
    NotStarted,
    /// The guest runs, or is about to.
    Running,
    /// Nothing of it runs: see [`super::Control::pause`].
    Paused,
    /// It has ended, and can't be started again.
    Ended,
}

/// Shared by the thread that runs the VM and by those that control it.
#[derive(Debug)]
pub(super) struct Lifecycle {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Wakes the event loop.
    wake: Arc<EventFd>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Whether it is to be paused: the last wish.
    pause: bool,
    /// Why the last pause came to nothing.
    refused: Option<String>,
}

impl Lifecycle {
    pub fn new(wake: Arc<EventFd>) -> Self {
        Lifecycle {
            inner: Mutex::new(Inner {
                state: State::NotStarted,
                pause: false,
                refused: None,
            }),
            changed: Condvar::new(),
            wake,
        }
    }

    pub fn state(&self) -> State {
        self.lock().state
    }

    /// Whether the VM is to be paused.
    pub fn is_pause_wished(&self) -> bool {
        self.lock().pause
    }

    /// Wishes for a pause, or for its end, and waits until it is there. A wish that another thread's overtakes is as
    /// good as granted: for no time.
    pub fn wish(&self, pause: bool) -> Result<(), ControlError> {
        let wished = match pause {
            true => State::Paused,
            false => State::Running,
        };
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.pause, pause) != pause {
            self.changed.notify_all(); // whoever it overtakes
        }
        if matches!(inner.state, State::Running | State::Paused) {
            inner.refused = None;
            self.wake();
        }
        loop {
            match inner.state {
                State::Ended => return Err(ControlError::Ended),
                State::NotStarted => return Ok(()),
                now if now == wished => return Ok(()),
                _ if inner.pause != pause => match &inner.refused {
                    Some(why) => return Err(ControlError::Kvm(why.clone())),
                    None => return Ok(()),
                },
                _ => {}
            }
            let waited = self.changed.wait(inner);
            inner = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has the event loop look at what was asked of the VM.
    pub fn wake(&self) {
        if let Err(e) = self.wake.write(1) {
            log::error!("waking the event loop: {e}");
        }
    }

    /// The VM has come so far.
    pub fn set(&self, state: State) {
        self.lock().state = state;
        self.changed.notify_all();
    }

    /// There can be no pause, and the VM goes on.
    pub fn refuse(&self, why: String) {
        let mut inner = self.lock();
        inner.pause = false;
        inner.refused = Some(why);
        drop(inner);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the life of a VM that is dropped, if that hasn't ended before: nobody waits for it for ever.
pub(super) struct LastBreath(pub Arc<Lifecycle>);

impl Drop for LastBreath {
    fn drop(&mut self) {
        self.0.set(State::Ended);
    }
}
