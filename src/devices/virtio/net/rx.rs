//! From the tap to the guest (virtio 1.3 §5.1.6.3, §5.1.6.4).
//!
//! A packet is read straight into the guest's buffers. Its size isn't known before, so there must
//! be room for the largest: with mergeable buffers several chains are gathered for it, and those that
//! a packet leaves over are for the next. Where the guest has less room than that, or the tap gives no
//! header, a packet is read into a buffer of the thread's own first and copied. Where it has none,
//! packets stay in the tap's queue, which drops what it can't hold.

use std::io;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::filter::FilterCopy;
use super::gathered::Gathered;
use super::pair::{Common, PairError, Wait};
use super::tap::{HEADER, Tap};
use crate::devices::virtio::queue::{Signalled, pop, push_used_together};

/// The largest packet with its header, which a driver must have room for (§5.1.6.3.1).
pub const LARGEST: usize = 65562;
/// A VLAN tag, which the tap puts back into the packet.
const VLAN: usize = 4;
/// An Ethernet header.
const ETHERNET: usize = 14;
/// Where num_buffers is in the header.
const NUM_BUFFERS: usize = 10;

/// Receives packets into one queue.
pub struct Receiver {
    queue: Queue,
    memory: GuestMemoryMmap<()>,
    common: Arc<Common>,
    tap: Arc<Tap>,
    filter: FilterCopy,
    mergeable: bool,
    /// The largest packet that is expected, with its header.
    largest: usize,
    gathered: Gathered,
    used: Vec<(u16, u32)>,
    /// A packet that waits for room is in the first `held` bytes.
    aside: Box<[u8]>,
    held: usize,
    signalled: Signalled,
    /// The driver is asked not to notify.
    quiet: bool,
}

/// What became of one packet.
enum Step {
    Delivered(usize),
    Filtered,
    Dropped,
    Stop(Wait),
}

impl Receiver {
    /// `mtu` is the tap's, if the guest takes no packet that is larger than that.
    pub fn new(
        queue: Queue,
        memory: &GuestMemoryMmap<()>,
        common: &Arc<Common>,
        tap: &Arc<Tap>,
        mergeable: bool,
        mtu: Option<u16>,
    ) -> Self {
        Self {
            signalled: Signalled::new(&queue),
            gathered: Gathered::new(memory, queue.size()),
            used: Vec::with_capacity(queue.size().into()),
            queue,
            memory: memory.clone(),
            common: common.clone(),
            tap: tap.clone(),
            filter: common.filter.copy(),
            mergeable,
            largest: mtu.map_or(LARGEST, |mtu| HEADER + ETHERNET + usize::from(mtu)),
            aside: vec![0; LARGEST + VLAN + 1].into_boxed_slice(),
            held: 0,
            quiet: false,
        }
    }

    /// Receives up to `most` packets; what to wait for then.
    pub fn round(&mut self, most: usize) -> Result<Wait, PairError> {
        let (mut packets, mut bytes, mut drops, mut filtered) = (0, 0, 0, 0);
        let mut wait = Wait::Nothing;
        for _ in 0..most {
            match self.one()? {
                Step::Delivered(len) => {
                    packets += 1;
                    bytes += len as u64;
                    if let Some(time) = self.common.rx_throttle(len) {
                        wait = Wait::Time(time);
                        break;
                    }
                }
                Step::Filtered => filtered += 1,
                Step::Dropped => drops += 1,
                Step::Stop(reason) => {
                    wait = reason;
                    break;
                }
            }
        }
        let counts = &self.common.counts;
        counts.rx.packets.add(packets);
        counts.rx.bytes.add(bytes);
        if drops + filtered > 0 {
            counts.rx.drops.add(drops);
            counts.filtered.add(filtered);
        }
        Ok(wait)
    }

    /// Whether the driver wants an interrupt for what has been received since it was last asked.
    pub fn wants_interrupt(&mut self) -> Result<bool, PairError> {
        Ok(self.signalled.wanted(&self.queue, &self.memory)?)
    }

    fn one(&mut self) -> Result<Step, PairError> {
        if !self.common.shared.up() {
            self.held = 0;
            return Ok(match self.read_aside() {
                Ok(_) => Step::Dropped,
                Err(wait) => Step::Stop(wait),
            });
        }
        if self.held > 0 {
            return self.deliver(self.held);
        }
        // More than the largest, so that one that's larger shows.
        let wanted = match self.mergeable {
            true => self.largest + VLAN + 1,
            false => self.largest,
        };
        if self.gather(wanted)? && self.tap.has_header() {
            return self.read();
        }
        if self.gathered.len() == 0 {
            return Ok(Step::Stop(Wait::Guest));
        }
        match self.read_aside() {
            Ok(bytes) => self.deliver(bytes),
            Err(wait) => Ok(Step::Stop(wait)),
        }
    }

    /// Reads a packet straight into the gathered chains.
    fn read(&mut self) -> Result<Step, PairError> {
        let pieces = match self.mergeable {
            true => self.gathered.pieces(),
            false => self.gathered.first_pieces(),
        };
        // SAFETY: the pieces are guest memory, which `gathered` keeps mapped.
        let bytes = match unsafe { self.tap.receive(pieces) } {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Step::Stop(self.read_failed(&error))),
        };
        if bytes < HEADER || (self.mergeable && bytes >= self.gathered.room()) {
            return Ok(Step::Dropped);
        }
        self.accept(bytes)
    }

    /// Reads a packet into the thread's own buffer; its length with the header.
    fn read_aside(&mut self) -> Result<usize, Wait> {
        let start = if self.tap.has_header() { 0 } else { HEADER };
        self.aside[..HEADER].fill(0);
        let piece = libc::iovec {
            iov_base: self.aside[start..].as_mut_ptr().cast(),
            iov_len: self.aside.len() - start,
        };
        // SAFETY: the piece is a buffer that nobody else uses.
        match unsafe { self.tap.receive(&[piece]) } {
            Ok(bytes) => Ok(start + bytes),
            Err(error) => Err(self.read_failed(&error)),
        }
    }

    fn read_failed(&self, error: &io::Error) -> Wait {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Wait::Tap,
            Some(libc::EINTR) => Wait::Nothing,
            _ => {
                self.common.counts.rx.errors.inc();
                self.common.tap_failed(error);
                Wait::Tap
            }
        }
    }

    /// Copies the packet in `aside` to the guest, keeps it until there's room, or drops it.
    fn deliver(&mut self, bytes: usize) -> Result<Step, PairError> {
        self.held = 0;
        if bytes < HEADER || bytes == self.aside.len() {
            return Ok(Step::Dropped);
        }
        if !self.gather(bytes)? {
            let may_grow = self.mergeable && self.can_gather();
            if may_grow || self.gathered.len() == 0 {
                self.held = bytes;
                return Ok(Step::Stop(Wait::Guest));
            }
            return Ok(Step::Dropped);
        }
        self.gathered.write(0, &self.aside[..bytes]);
        self.accept(bytes)
    }

    /// Gives the guest the packet that is in the first `bytes` bytes of the gathered chains, unless
    /// it doesn't want it.
    fn accept(&mut self, bytes: usize) -> Result<Step, PairError> {
        let filter = self.filter.now(&self.common.filter);
        if !filter.promiscuous {
            let mut to = [0; 6];
            self.gathered.read(HEADER, &mut to);
            if !filter.passes(&to) {
                return Ok(Step::Filtered);
            }
        }
        let count = self.gathered.count_for(bytes);
        self.gathered.write(NUM_BUFFERS, &count.to_le_bytes());
        self.gathered.consume(bytes, &mut self.used);
        push_used_together(&mut self.queue, &self.memory, &self.used)?;
        Ok(Step::Delivered(bytes - HEADER))
    }

    /// Takes chains from the queue until they hold `wanted` bytes (without mergeable buffers: until
    /// there is one, and whether it does). If there are too few, the driver is asked to notify.
    fn gather(&mut self, wanted: usize) -> Result<bool, PairError> {
        loop {
            if self.mergeable && self.gathered.room() >= wanted {
                return Ok(true);
            }
            if !self.mergeable
                && let Some(room) = self.gathered.first_room()
            {
                return Ok(room >= wanted);
            }
            if !self.can_gather() {
                return Ok(false);
            }
            if let Some((chain, _)) = pop(&mut self.queue, &self.memory)? {
                self.gathered.take(chain)?;
                if !self.quiet {
                    self.quiet = true;
                    self.queue.disable_notification(&self.memory)?;
                }
            } else if !self.queue.enable_notification(&self.memory)? {
                // False if nothing came before the driver could see that it's to notify.
                self.quiet = false;
                return Ok(false);
            }
        }
    }

    /// Whether more chains can be had, now or later.
    fn can_gather(&self) -> bool {
        self.gathered.can_take() && self.gathered.len() < usize::from(self.queue.size())
    }
}
