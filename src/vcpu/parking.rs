//! Where vCPU threads stand while the VM is paused, and how they go on.
//!
//! Each parks by itself, between two KVM_RUNs, with nothing of its last exit left to do. When they go on, the
//! first vCPU is the first: where all share a counter, it sets it back for all before another one reads it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::arch::clock;
use crate::kvm::Vcpu;

/// What a vCPU is to do.
#[derive(Debug, Default)]
pub(super) struct Wish(AtomicU8);

impl Wish {
    pub const RUN: u8 = 0;
    pub const PARK: u8 = 1;
    pub const STOP: u8 = 2;

    #[inline]
    pub fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    pub fn set(&self, wish: u8) {
        self.0.store(wish, Ordering::Release);
    }

    /// Says that it is to run, or to park, unless it is to stop: that is for good.
    pub fn change(&self, wish: u8) {
        let stops = |now| (now != Self::STOP).then_some(wish);
        let _ = (self.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, stops);
    }
}

/// Where all vCPUs of a VM park.
#[derive(Debug, Default)]
pub struct Parking {
    state: Mutex<State>,
    /// A wish, or the first one's clock, has changed.
    go: Condvar,
    /// Written when one has parked.
    parked: Option<Arc<EventFd>>,
}

#[derive(Debug, Default)]
struct State {
    parked: usize,
    /// By how many ticks of the host's counter the guest's is to be behind, of all pauses together.
    behind: u64,
    /// How much of that the first vCPU has seen to.
    first: u64,
}

impl Parking {
    /// Writes `parked` each time that a vCPU has parked.
    pub fn new(parked: Arc<EventFd>) -> Self {
        Parking {
            parked: Some(parked),
            ..Self::default()
        }
    }

    /// How many stand here.
    pub fn count(&self) -> usize {
        self.lock().parked
    }

    /// The pause that ends now has taken `ticks` of the host's counter: for those who go on from here.
    pub fn end_pause(&self, ticks: u64) {
        self.lock().behind += ticks;
    }

    /// Has those who stand here look at what they are to do.
    pub(super) fn wake(&self) {
        drop(self.lock());
        self.go.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.go.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A vCPU's place.
pub(super) struct Place<'a> {
    parking: &'a Parking,
    wish: &'a Wish,
    /// How far its counter is behind the host's, by pauses.
    behind: u64,
}

impl<'a> Place<'a> {
    pub fn new(parking: &'a Parking, wish: &'a Wish) -> Self {
        Place {
            parking,
            wish,
            behind: 0,
        }
    }

    /// Stands here while that is wished for. On return the vCPU's clock is right, or it is to stop.
    pub fn park(&mut self, vcpu: &Vcpu) {
        let is_first = vcpu.id() == 0;
        if self.wish.get() != Wish::PARK {
            return;
        }
        let mut state = self.parking.lock();
        state.parked += 1;
        if let Some(event) = &self.parking.parked
            && let Err(error) = event.write(1)
        {
            log::error!("waking the event loop: {error}");
        }
        loop {
            match self.wish.get() {
                Wish::PARK => state = self.parking.wait(state),
                Wish::RUN if !is_first && state.first != state.behind => {
                    state = self.parking.wait(state);
                }
                _ => break,
            }
        }
        state.parked -= 1;
        let behind = state.behind;
        drop(state);
        if self.wish.get() == Wish::STOP {
            return;
        }
        clock::go_on(vcpu, is_first, behind - self.behind);
        self.behind = behind;
        if is_first {
            self.parking.lock().first = behind;
            self.parking.go.notify_all();
        }
    }
}
