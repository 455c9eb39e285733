//! Input: from the event loop into the buffers of the receive queue. There is no thread for it.
//!
//! Linux' driver throws away what it gets between filling the queue and registering its port, and
//! meanwhile it may print the whole boot log. Nothing tells a device when that is over, so input
//! that comes early is preceded by empty buffers, at intervals that double from 20 ms on: once the
//! driver has put one of them back into the queue, it listens.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::timerfd::TimerFd;

use super::super::buffers::{Buffers, ChainError};
use super::super::queue::{pop, push_used};
use super::super::{ActiveQueue, Interrupt};
use super::{Counts, QUEUE_SIZE};
use crate::devices::console::InputPort;

/// How long to wait for the driver before the first empty buffer.
const FIRST_PROBE: Duration = Duration::from_millis(20);
/// How many empty buffers at most; input follows then in any case. After 2.5 s.
pub(super) const PROBES: u32 = 7;

/// Where input for hvc0 goes.
pub struct HvcInput {
    counts: Arc<Counts>,
    timer: RawFd,
    state: Mutex<State>,
}

struct State {
    /// Armed while input waits for a driver that doesn't listen yet.
    timer: TimerFd,
    armed: bool,
    /// While there is a driver.
    receiver: Option<Receiver>,
}

struct Receiver {
    queue: ActiveQueue,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    listening: bool,
    probes: u32,
}

/// How the driver got it wrong.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Queue(#[from] virtio_queue::Error),
}

impl HvcInput {
    pub(super) fn new(counts: Arc<Counts>) -> io::Result<Self> {
        let timer = TimerFd::new()?;
        Ok(HvcInput {
            counts,
            timer: timer.as_raw_fd(),
            state: Mutex::new(State {
                timer,
                armed: false,
                receiver: None,
            }),
        })
    }

    pub(super) fn go_live(
        &self,
        queue: ActiveQueue,
        memory: GuestMemoryMmap<()>,
        interrupt: Arc<Interrupt>,
    ) {
        let notify = queue.notify.clone();
        self.lock().receiver = Some(Receiver {
            queue,
            memory,
            interrupt,
            listening: false,
            probes: 0,
        });
        // Input may wait already: the event loop listens to this event (see InputPort).
        if let Err(error) = notify.write(1) {
            log::debug!("console: waking the event loop: {error}");
        }
    }

    pub(super) fn reset(&self) {
        self.lock().receiver = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputPort for HvcInput {
    /// None before the driver listens, and at most as many bytes as there are buffers for. The
    /// queue's notification says when there may be more.
    fn enqueue(&self, input: &[u8]) -> usize {
        let mut state = self.lock();
        let State {
            timer,
            armed,
            receiver: place,
        } = &mut *state;
        let Some(receiver) = place else {
            return 0;
        };
        if !receiver.listening {
            if !*armed {
                let result = timer.reset(FIRST_PROBE * (1 << receiver.probes), None);
                *armed = result.is_ok();
                receiver.listening = result.is_err(); // better early than never
            }
            return 0;
        }
        let mut done = 0;
        let result = receiver.fill(input, &mut done, &self.counts);
        receiver.settle(result).unwrap_or_else(|()| *place = None);
        self.counts.read.add(done as u64);
        done
    }

    fn timer(&self) -> Option<RawFd> {
        Some(self.timer)
    }

    fn tick(&self) {
        // Only the event loop arms it and waits for it, so this doesn't block.
        let _ = self.lock().timer.wait();
        self.look_for_driver();
    }
}

impl HvcInput {
    /// What is done when the timer has run out.
    pub(super) fn look_for_driver(&self) {
        let mut state = self.lock();
        state.armed = false;
        if let Some(receiver) = &mut state.receiver {
            let result = receiver.probe();
            let settled = receiver.settle(result);
            settled.unwrap_or_else(|()| state.receiver = None);
        }
    }
}

impl Receiver {
    /// Looks whether the driver has used a buffer and put it back; if not, gives it an empty one.
    /// True if it wants an interrupt.
    fn probe(&mut self) -> Result<bool, ReceiveError> {
        let queue = &mut self.queue.queue;
        // The driver has filled the queue once; whatever comes beyond that came back.
        let given = queue.avail_idx(&self.memory, Ordering::Acquire)?.0;
        self.listening = given > queue.size() || self.probes == PROBES;
        self.probes += 1;
        if self.listening {
            return Ok(false);
        }
        match pop(queue, &self.memory)? {
            Some((chain, _)) => Ok(push_used(queue, &self.memory, chain.head_index(), 0)?),
            None => Ok(false),
        }
    }

    /// True if the driver wants an interrupt.
    fn fill(
        &mut self,
        input: &[u8],
        done: &mut usize,
        counts: &Counts,
    ) -> Result<bool, ReceiveError> {
        let queue = &mut self.queue.queue;
        let mut buffers = Buffers::new(&self.memory);
        let mut interrupt = false;
        queue.disable_notification(&self.memory)?;
        // A driver that gives buffers of no bytes must not keep the event loop here.
        for _ in 0..QUEUE_SIZE {
            if *done == input.len() {
                break;
            }
            let Some((chain, _)) = pop(queue, &self.memory)? else {
                if queue.enable_notification(&self.memory)? {
                    continue; // one came before the driver could see that it's to notify
                }
                break;
            };
            let head = chain.head_index();
            buffers.load(chain)?;
            let count = buffers.writable.write(&input[*done..]);
            *done += count;
            counts.reads.inc();
            interrupt |= push_used(queue, &self.memory, head, count as u32)?;
        }
        Ok(interrupt)
    }

    /// Interrupts the driver, or fails the device.
    fn settle(&self, result: Result<bool, ReceiveError>) -> Result<(), ()> {
        match result {
            Ok(true) => self.interrupt.used_buffers(),
            Ok(false) => {}
            Err(error) => {
                self.interrupt.fail(&error);
                return Err(());
            }
        }
        Ok(())
    }
}
