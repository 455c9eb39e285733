//! Input: from the event loop into the buffers of the receive queue. There is no thread for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

use super::super::buffers::{Buffers, ChainError};
use super::super::queue::{pop, push_used};
use super::super::{ActiveQueue, Interrupt};
use super::{Counts, QUEUE_SIZE};
use crate::devices::console::InputPort;

/// Where input for hvc0 goes.
pub struct HvcInput {
    counts: Arc<Counts>,
    /// While there is a driver.
    receiver: Mutex<Option<Receiver>>,
}

struct Receiver {
    queue: ActiveQueue,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
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
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        HvcInput {
            counts,
            receiver: Mutex::new(None),
        }
    }

    pub(super) fn go_live(
        &self,
        queue: ActiveQueue,
        memory: GuestMemoryMmap<()>,
        interrupt: Arc<Interrupt>,
    ) {
        // Input may wait already: the event loop listens to this event (see InputPort).
        if let Err(error) = queue.notify.write(1) {
            log::debug!("console: waking the event loop: {error}");
        }
        *self.lock() = Some(Receiver {
            queue,
            memory,
            interrupt,
        });
    }

    pub(super) fn reset(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Receiver>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputPort for HvcInput {
    /// None before there is a driver, and at most as many bytes as there are buffers for. The
    /// queue's notification says when there may be more.
    fn enqueue(&self, input: &[u8]) -> usize {
        let mut guard = self.lock();
        let Some(receiver) = guard.as_mut() else {
            return 0;
        };
        let mut done = 0;
        match receiver.fill(input, &mut done, &self.counts) {
            Ok(true) => receiver.interrupt.used_buffers(),
            Ok(false) => {}
            Err(error) => {
                receiver.interrupt.fail(&error);
                *guard = None;
            }
        }
        self.counts.read.add(done as u64);
        done
    }
}

impl Receiver {
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
}
