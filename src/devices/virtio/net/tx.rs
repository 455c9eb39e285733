//! From the guest to the tap (virtio 1.3 §5.1.6.2): each chain is a packet, written to the tap out of
//! guest memory by one system call.

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::pair::{Common, PairError, Wait};
use super::rx::LARGEST;
use super::tap::{HEADER, Tap};
use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::queue::{Signalled, pop, push_used_together};

/// Sends the packets of one queue.
pub struct Transmitter {
    queue: Queue,
    memory: GuestMemoryMmap<()>,
    common: Arc<Common>,
    tap: Arc<Tap>,
    buffers: Buffers,
    /// A chain that is in `buffers`, checked and as the tap takes it, which had no room for it.
    waiting: Option<u16>,
    signalled: Signalled,
    quiet: bool,
}

/// What became of one packet.
enum Step {
    Sent(usize),
    Dropped,
    Failed,
    Full,
}

impl Transmitter {
    pub fn new(
        queue: Queue,
        memory: &GuestMemoryMmap<()>,
        common: &Arc<Common>,
        tap: &Arc<Tap>,
    ) -> Self {
        Self {
            signalled: Signalled::new(&queue),
            queue,
            memory: memory.clone(),
            common: common.clone(),
            tap: tap.clone(),
            buffers: Buffers::new(memory),
            waiting: None,
            quiet: false,
        }
    }

    /// Sends up to `most` packets; what to wait for then.
    pub fn round(&mut self, most: usize) -> Result<Wait, PairError> {
        let (mut packets, mut bytes, mut drops, mut errors) = (0, 0, 0, 0);
        let mut wait = Wait::Nothing;
        for _ in 0..most {
            let again = self.waiting.is_some();
            let Some(head) = self.next()? else {
                wait = Wait::Guest;
                break;
            };
            let mut time = None;
            match if again { self.write() } else { self.send() } {
                Step::Sent(len) => {
                    packets += 1;
                    bytes += len as u64;
                    time = self.common.tx_throttle(len);
                }
                Step::Dropped => drops += 1,
                Step::Failed => errors += 1,
                Step::Full => {
                    self.waiting = Some(head);
                    wait = Wait::Tap;
                    break;
                }
            }
            push_used_together(&mut self.queue, &self.memory, &[(head, 0)])?;
            if let Some(time) = time {
                wait = Wait::Time(time);
                break;
            }
        }
        let counts = &self.common.counts.tx;
        counts.packets.add(packets);
        counts.bytes.add(bytes);
        if drops + errors > 0 {
            counts.drops.add(drops);
            counts.errors.add(errors);
        }
        Ok(wait)
    }

    /// Whether the driver wants an interrupt for what has been sent since it was last asked.
    pub fn wants_interrupt(&mut self) -> Result<bool, PairError> {
        Ok(self.signalled.wanted(&self.queue, &self.memory)?)
    }

    /// Loads the next chain into `buffers`. If there's none, the driver is asked to notify.
    fn next(&mut self) -> Result<Option<u16>, PairError> {
        if let Some(head) = self.waiting.take() {
            return Ok(Some(head));
        }
        loop {
            if let Some((chain, _)) = pop(&mut self.queue, &self.memory)? {
                if !self.quiet {
                    self.quiet = true;
                    self.queue.disable_notification(&self.memory)?;
                }
                let head = chain.head_index();
                self.buffers.load(chain)?;
                return Ok(Some(head));
            }
            if !self.queue.enable_notification(&self.memory)? {
                self.quiet = false;
                return Ok(None);
            }
        }
    }

    fn send(&mut self) -> Step {
        let bytes = &mut self.buffers.readable;
        let len = bytes.len();
        // One with more pieces than a system call takes would be cut.
        let whole = bytes
            .iovecs()
            .iter()
            .map(|piece| piece.iov_len)
            .sum::<usize>()
            == len;
        if len <= HEADER || len > LARGEST || !whole || !self.common.shared.up() {
            return Step::Dropped;
        }
        if !self.tap.has_header() {
            bytes.advance(HEADER);
        }
        self.write()
    }

    /// Writes what is in `buffers` to the tap: with the header, or without where the tap has none.
    fn write(&self) -> Step {
        let bytes = &self.buffers.readable;
        let header = if self.tap.has_header() { HEADER } else { 0 };
        loop {
            // SAFETY: the pieces are guest memory, which `buffers` keeps mapped.
            let error = match unsafe { self.tap.send(bytes.iovecs()) } {
                Ok(_) => return Step::Sent(bytes.len() - header),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Step::Full,
                Some(libc::EINTR) => {}
                // A header that makes no sense (EINVAL), an interface that is down (EIO), no
                // memory, or a tap that is gone: as on a wire, the packet is lost.
                _ => {
                    log::trace!("{}: sending: {error}", self.common.name);
                    return Step::Failed;
                }
            }
        }
    }
}
