//! A queue pair and its thread: one event loop for both directions, and, in the first pair's, the
//! control queue.
//!
//! All events are edge-triggered, so nothing has to be read or re-armed: what a direction waits
//! for is kept here, and an event for what nobody waits for is passed over. While a direction has
//! something to do the driver is asked not to notify, and it's interrupted once for a batch.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::control::Control;
use super::counts::{Counts, Direction};
use super::filter::SharedFilter;
use super::gathered::ReceiveError;
use super::link::Shared;
use super::rx::Receiver;
use super::tap::Tap;
use super::tx::Transmitter;
use crate::devices::rate_limit::RateLimiter;
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::buffers::ChainError;
use crate::sandbox::ThreadKind;
use crate::threads;

/// Packets of one direction before the other has its turn.
const BATCH: usize = 64;
const STOP: u64 = 0;
const TAP: u64 = 1;
const RX: u64 = 2;
const TX: u64 = 3;
const CONTROL: u64 = 4;

/// The packet has passed: what it is ahead of its time is waited for now.
fn throttle(limit: &RateLimiter, counts: &Direction, bytes: usize) -> Option<Duration> {
    let time = limit.reserve(1, bytes as u64);
    if time.is_zero() {
        return None;
    }
    counts.throttled.inc();
    Some(time)
}

/// What all queue pairs of a device share.
pub struct Common {
    pub name: String,
    pub shared: Arc<Shared>,
    pub filter: SharedFilter,
    pub counts: Arc<Counts>,
    pub rx_limit: RateLimiter,
    pub tx_limit: RateLimiter,
    /// The tap's failure has been told.
    pub failed: AtomicBool,
}

impl Common {
    /// How long to wait after a packet of `bytes` bytes to the guest.
    pub fn rx_throttle(&self, bytes: usize) -> Option<Duration> {
        throttle(&self.rx_limit, &self.counts.rx, bytes)
    }

    /// How long to wait after a packet of `bytes` bytes from the guest.
    pub fn tx_throttle(&self, bytes: usize) -> Option<Duration> {
        throttle(&self.tx_limit, &self.counts.tx, bytes)
    }

    /// The tap fails, for good: most likely it has been deleted.
    pub fn tap_failed(&self, error: &io::Error) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            log::warn!("{}: the tap fails, its link is down: {error}", self.name);
            self.shared.set_link(false);
        }
    }
}

/// What a direction waits for before it has something to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wait {
    /// Nothing: there is more.
    Nothing,
    /// Packets in the tap, or room in it.
    Tap,
    /// The guest's notification.
    Guest,
    /// The rate limit.
    Time(Duration),
}

/// Why a queue pair stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error("{0}")]
    Queue(virtio_queue::Error),
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}

impl From<virtio_queue::Error> for PairError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Queue(error)
    }
}

/// What a thread serves.
pub struct Pair {
    pub receiver: Receiver,
    pub transmitter: Transmitter,
    pub control: Option<Control>,
    pub common: Arc<Common>,
    pub interrupt: Arc<Interrupt>,
    pub epoll: Epoll,
    /// Keeps the descriptors open that `epoll` knows.
    pub _events: [Arc<EventFd>; 2],
}

/// The descriptors whose events a thread serves.
pub struct Events<'a> {
    pub stop: &'a EventFd,
    pub tap: &'a Tap,
    pub rx: &'a EventFd,
    pub tx: &'a EventFd,
    pub control: Option<&'a EventFd>,
}

impl Events<'_> {
    /// An epoll instance for all of them.
    pub fn register(&self) -> io::Result<Epoll> {
        let epoll = Epoll::new()?;
        let add = |fd: RawFd, token, set| {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, token))
        };
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        add(self.stop.as_raw_fd(), STOP, EventSet::IN)?;
        add(self.tap.as_raw_fd(), TAP, edge | EventSet::OUT)?;
        add(self.rx.as_raw_fd(), RX, edge)?;
        add(self.tx.as_raw_fd(), TX, edge)?;
        if let Some(control) = self.control {
            add(control.as_raw_fd(), CONTROL, edge)?;
        }
        Ok(epoll)
    }
}

/// A direction's wait, with the time at which it ends.
#[derive(Clone, Copy)]
struct Waiting {
    wait: Wait,
    until: Instant,
}

impl Waiting {
    fn new(wait: Wait) -> Self {
        let now = Instant::now();
        let until = match wait {
            Wait::Time(time) => now.checked_add(time).unwrap_or(now),
            _ => now,
        };
        Waiting { wait, until }
    }

    fn is_over(&self) -> bool {
        match self.wait {
            Wait::Nothing => true,
            Wait::Time(_) => self.until <= Instant::now(),
            Wait::Tap | Wait::Guest => false,
        }
    }

    /// For epoll_wait: milliseconds, rounded up.
    fn timeout(&self) -> Option<i32> {
        match self.wait {
            Wait::Nothing => Some(0),
            Wait::Tap | Wait::Guest => None,
            Wait::Time(_) => {
                let rest = self.until.saturating_duration_since(Instant::now());
                Some(i32::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX))
            }
        }
    }

    fn end(&mut self, reason: Wait) {
        if self.wait == reason {
            self.wait = Wait::Nothing;
        }
    }
}

impl Pair {
    /// Starts the thread. When the driver errs, all threads of the device are stopped by `stop`.
    pub fn start(mut self, name: &str, stop: Arc<EventFd>) -> io::Result<JoinHandle<()>> {
        threads::spawn(ThreadKind::Net, name, move || {
            if let Err(error) = self.serve() {
                let _ = stop.write(1); // a full counter stops just as well
                self.interrupt.fail(&error);
            }
        })
    }

    fn serve(&mut self) -> Result<(), PairError> {
        let mut events = [EpollEvent::default(); 5];
        let (mut rx, mut tx) = (Waiting::new(Wait::Nothing), Waiting::new(Wait::Nothing));
        let mut commands = false;
        let gate = self.interrupt.clone();
        loop {
            let timeout = match (rx.timeout(), tx.timeout()) {
                _ if commands => 0,
                (Some(rx), Some(tx)) => rx.min(tx),
                (rx, tx) => rx.or(tx).unwrap_or(-1),
            };
            let count = match self.epoll.wait(timeout, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(PairError::Wait(error)),
            };
            if events[..count].iter().any(|event| event.data() == STOP) {
                return Ok(());
            }
            let _inside = gate.gate().enter();
            let start = Instant::now();
            for event in &events[..count] {
                match event.data() {
                    TAP => {
                        let set = event.event_set();
                        if set.contains(EventSet::ERROR) {
                            let gone = io::Error::from_raw_os_error(libc::ENODEV);
                            self.common.tap_failed(&gone);
                        }
                        rx.end(Wait::Tap);
                        if set.intersects(EventSet::OUT | EventSet::ERROR) {
                            tx.end(Wait::Tap);
                        }
                    }
                    RX => rx.end(Wait::Guest),
                    TX => tx.end(Wait::Guest),
                    _ => commands = true,
                }
            }
            let mut interrupt = false;
            if std::mem::take(&mut commands)
                && let Some(control) = &mut self.control
            {
                (interrupt, commands) = control.serve()?;
            }
            if rx.is_over() {
                rx = Waiting::new(self.receiver.round(BATCH)?);
                interrupt |= self.receiver.wants_interrupt()?;
            }
            if tx.is_over() {
                tx = Waiting::new(self.transmitter.round(BATCH)?);
                interrupt |= self.transmitter.wants_interrupt()?;
            }
            if interrupt {
                self.interrupt.used_buffers();
            }
            self.common.counts.service.record(start.elapsed());
        }
    }
}
