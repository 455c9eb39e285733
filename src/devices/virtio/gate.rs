//! Where a device's threads stop while the VM is paused.
//!
//! Whoever serves a queue is *inside* while it touches guest memory or has a request in flight, and *outside* while
//! it waits for the driver, for a rate limit, or for the other end of a socket or a tap. Closing the gate keeps
//! everybody outside who is there, and waits for nobody: those who are inside are done with what they have begun,
//! begin nothing else, and go. Once the last one has gone ([`Gate::is_quiet`]), nothing of the device reads or
//! writes guest memory until the gate opens.
//!
//! Going in and out is an uncontended atomic addition each, once for a batch of requests.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

const CLOSED: u32 = 1 << 31;

/// The gate between a device's threads and guest memory.
#[derive(Debug, Default)]
pub struct Gate {
    /// `CLOSED`, and how many are inside.
    state: AtomicU32,
    waiting: Mutex<Waiting>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Written when a closed gate has nobody inside any more.
    on_quiet: Option<Arc<EventFd>>,
    /// Written when the gate closes: whoever is inside for long waits for it.
    on_close: Option<Arc<EventFd>>,
}

/// Being inside. Dropping it is going out.
#[derive(Debug)]
pub struct Inside<'a>(&'a Gate);

impl Gate {
    /// Goes inside; waits while the gate is closed.
    pub fn enter(&self) -> Inside<'_> {
        self.go_in();
        Inside(self)
    }

    /// Goes inside unless the gate is closed.
    pub fn try_enter(&self) -> Option<Inside<'_>> {
        self.try_go_in().then(|| Inside(self))
    }

    /// Whether those who are inside should go out, when they can.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether it is closed, and nobody is inside.
    pub fn is_quiet(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Waits for something outside, in the middle of what is done inside.
    pub fn outside<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.go_out();
        let result = wait();
        self.go_in();
        result
    }

    /// Lets nobody in from now on. `on_quiet` is written when the last one has gone out, and at once if nobody is
    /// inside.
    pub fn close(&self, on_quiet: &Arc<EventFd>) {
        let mut waiting = self.lock();
        waiting.on_quiet = Some(on_quiet.clone());
        if let Some(event) = &waiting.on_close {
            wake(event);
        }
        // Under the lock: who comes out and finds it closed tells the event that was set here.
        if self.state.fetch_or(CLOSED, Ordering::SeqCst) & !CLOSED == 0 {
            wake(on_quiet);
        }
    }

    /// Lets everybody in.
    pub fn open(&self) {
        let mut waiting = self.lock();
        waiting.on_quiet = None;
        self.state.fetch_and(!CLOSED, Ordering::SeqCst);
        drop(waiting);
        self.opened.notify_all();
    }

    /// Says what wakes someone who is inside for as long as nobody closes the gate.
    pub fn tell_when_closed(&self, event: Arc<EventFd>) {
        self.lock().on_close = Some(event);
    }

    fn go_in(&self) {
        while !self.try_go_in() {
            let mut waiting = self.lock();
            while self.is_closed() {
                let woken = self.opened.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn try_go_in(&self) -> bool {
        // As a closing gate sees it or is seen: one of the two.
        if self.state.fetch_add(1, Ordering::SeqCst) & CLOSED == 0 {
            return true;
        }
        self.go_out();
        false
    }

    fn go_out(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) == CLOSED | 1
            && let Some(event) = &self.lock().on_quiet
        {
            wake(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside<'_> {
    /// Between two requests: goes out if the gate is closed, and comes back when it opens.
    #[inline]
    pub fn make_way(&self) {
        if self.0.is_closed() {
            self.0.outside(|| ());
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.go_out();
    }
}

fn wake(event: &EventFd) {
    if let Err(error) = event.write(1) {
        log::error!("waking the event loop: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    fn event() -> Arc<EventFd> {
        Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
    }

    #[test]
    fn a_closed_gate_is_quiet_when_the_last_one_has_gone() {
        let (gate, quiet) = (Gate::default(), event());
        let (first, second) = (gate.enter(), gate.enter());
        gate.close(&quiet);
        assert!(gate.is_closed() && !gate.is_quiet() && gate.try_enter().is_none());
        drop(first);
        assert!(quiet.read().is_err() && !gate.is_quiet());
        drop(second);
        assert!(quiet.read().is_ok() && gate.is_quiet());
        gate.open();
        assert!(gate.try_enter().is_some() && !gate.is_quiet());
    }

    #[test]
    fn an_empty_gate_is_quiet_at_once_and_whoever_asked_is_told() {
        let (gate, quiet, closing) = (Gate::default(), event(), event());
        gate.tell_when_closed(closing.clone());
        gate.close(&quiet);
        assert!(gate.is_quiet() && quiet.read().is_ok() && closing.read().is_ok());
    }

    #[test]
    fn who_waits_outside_does_not_hold_the_gate() {
        let (gate, quiet) = (Gate::default(), event());
        let inside = gate.enter();
        gate.close(&quiet);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !gate.is_quiet() {
                    thread::yield_now();
                }
                gate.open();
            });
            inside.make_way();
        });
        assert!(!gate.is_closed());
        drop(inside);
        gate.close(&quiet);
        assert!(gate.is_quiet());
    }

    /// What is done inside is never done while the gate is quiet.
    #[test]
    fn nothing_is_touched_behind_a_quiet_gate() {
        let (gate, touched) = (Gate::default(), AtomicU32::new(0));
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let inside = gate.enter();
                        for _ in 0..10 {
                            touched.fetch_add(1, Ordering::Relaxed);
                            inside.make_way();
                        }
                    }
                });
            }
            let quiet = Arc::new(EventFd::new(0).unwrap());
            for _ in 0..1000 {
                gate.close(&quiet);
                while !gate.is_quiet() {
                    quiet.read().unwrap();
                }
                let before = touched.load(Ordering::Relaxed);
                thread::sleep(Duration::from_micros(5));
                assert_eq!(touched.load(Ordering::Relaxed), before);
                gate.open();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(touched.into_inner() > 0);
    }
}
