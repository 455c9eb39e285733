//! A queue: what the driver says about it, checked once, and then its rings at work.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A descriptor chain that the driver has made available.
pub type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap<()>>;

/// What the driver has written to a queue's registers, as raw as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueRegisters {
    pub max_size: u16,
    pub size: u32,
    pub ready: bool,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// Why a queue can't be made ready.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueueError {
    /// Not a power of two between 1 and the device's maximum (virtio 1.3 §2.7, §4.2.2.2).
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// The size that the driver chose.
        size: u32,
        /// The largest that the device offers.
        max: u16,
    },
    /// A ring's address breaks the alignment that §2.7 asks for.
    #[error("{ring} at {address:#x} is not aligned to {align} bytes")]
    Align {
        /// Which of the three.
        ring: &'static str,
        /// Its guest address.
        address: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// A ring isn't in guest memory, or not all of it.
    #[error("{ring} of {len} bytes at {address:#x} is not in guest memory")]
    Memory {
        /// Which of the three.
        ring: &'static str,
        /// Its guest address.
        address: u64,
        /// Its length.
        len: usize,
    },
}

impl QueueRegisters {
    pub fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size.into(),
            ..Self::default()
        }
    }

    /// The queue, if all that the driver wrote makes sense.
    pub fn build(
        &self,
        memory: &GuestMemoryMmap<()>,
        event_idx: bool,
    ) -> Result<Queue, QueueError> {
        let bad_size = || QueueError::Size {
            size: self.size,
            max: self.max_size,
        };
        let size = u16::try_from(self.size).map_err(|_| bad_size())?;
        let mut queue = Queue::new(self.max_size).map_err(|_| bad_size())?;
        queue.try_set_size(size).map_err(|_| bad_size())?;

        // Lengths and alignments: §2.7. With event index each ring has two bytes more.
        let entries = usize::from(size);
        for (ring, address, len, align) in [
            ("descriptor table", self.descriptors, 16 * entries, 16),
            ("available ring", self.available, 6 + 2 * entries, 2),
            ("used ring", self.used, 6 + 8 * entries, 4),
        ] {
            if address % align != 0 {
                return Err(QueueError::Align {
                    ring,
                    address,
                    align,
                });
            }
            // The virtio-queue crate takes address 0 for "not set"; nobody has a ring there.
            let there = memory.check_range(GuestAddress(address), len);
            if !there || (address == 0 && ring == "available ring") {
                return Err(QueueError::Memory { ring, address, len });
            }
        }
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

/// The next available chain, if there is one, and whether there are more behind it.
///
/// # Errors
///
/// The rings are not in guest memory, or the available index is further ahead than the queue is
/// long.
pub fn pop<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemoryMmap<()>,
) -> Result<Option<(Chain<'m>, bool)>, Error> {
    let Some(chain) = queue.iter(memory)?.next() else {
        return Ok(None);
    };
    Ok(Some((chain, waiting(queue, memory)?)))
}

/// Whether there's an available chain.
///
/// # Errors
///
/// The available ring is not in guest memory.
pub fn waiting(queue: &Queue, memory: &GuestMemoryMmap<()>) -> Result<bool, Error> {
    Ok(queue.avail_idx(memory, Ordering::Relaxed)?.0 != queue.next_avail())
}

/// Gives a chain back to the driver; `len` bytes of it were written. True if the driver wants
/// an interrupt for it.
///
/// # Errors
///
/// A ring is not in guest memory, or `head` is no descriptor of the queue.
pub fn push_used(
    queue: &mut Queue,
    memory: &GuestMemoryMmap<()>,
    head: u16,
    len: u32,
) -> Result<bool, Error> {
    queue.add_used(memory, head, len)?;
    // With event index it's the crate that knows; without it, the driver's flag (§2.7.7).
    let wanted = queue.needs_notification(memory)?;
    if queue.event_idx_enabled() {
        return Ok(wanted);
    }
    let flags = load_u16(memory, queue.avail_ring())?;
    Ok(flags & VIRTQ_AVAIL_F_NO_INTERRUPT == 0)
}

/// Gives chains back to the driver, which sees all of them or none: heads, and how many bytes of
/// each were written. Whether it wants an interrupt, [`Signalled`] tells.
///
/// # Errors
///
/// A ring is not in guest memory.
pub fn push_used_together(
    queue: &mut Queue,
    memory: &GuestMemoryMmap<()>,
    chains: &[(u16, u32)],
) -> Result<(), Error> {
    let mut next = queue.next_used();
    for (head, len) in chains {
        // §2.7.8: flags and index, then elements of eight bytes.
        let slot = u64::from(next % queue.size());
        let element = [u32::from(*head).to_le(), len.to_le()];
        memory
            .write_obj(element, GuestAddress(queue.used_ring() + 4 + 8 * slot))
            .map_err(Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    memory
        .store(
            next.to_le(),
            GuestAddress(queue.used_ring() + 2),
            Ordering::Release,
        )
        .map_err(Error::GuestMemory)
}

/// Up to where the driver was last asked whether it wants an interrupt, for a queue whose chains
/// are given back by [`push_used_together`].
pub struct Signalled(u16);

impl Signalled {
    /// Nothing has been used yet that the driver doesn't know of.
    pub fn new(queue: &Queue) -> Self {
        Self(queue.next_used())
    }

    /// Whether the driver wants an interrupt for what was used since it was last asked (§2.7.7,
    /// §2.7.10).
    ///
    /// # Errors
    ///
    /// A ring is not in guest memory.
    pub fn wanted(&mut self, queue: &Queue, memory: &GuestMemoryMmap<()>) -> Result<bool, Error> {
        let now = queue.next_used();
        let since = std::mem::replace(&mut self.0, now);
        if now == since {
            return Ok(false);
        }
        // The used index must be there to see before the driver's wish is looked at.
        fence(Ordering::SeqCst);
        if queue.event_idx_enabled() {
            let used_event = queue.avail_ring() + 4 + 2 * u64::from(queue.size());
            let event = load_u16(memory, used_event)?;
            return Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(since));
        }
        let flags = load_u16(memory, queue.avail_ring())?;
        Ok(flags & VIRTQ_AVAIL_F_NO_INTERRUPT == 0)
    }
}

fn load_u16(memory: &GuestMemoryMmap<()>, address: u64) -> Result<u16, Error> {
    memory
        .load(GuestAddress(address), Ordering::Relaxed)
        .map(u16::from_le)
        .map_err(Error::GuestMemory)
}

/// §2.7.6
const VIRTQ_AVAIL_F_NO_INTERRUPT: u16 = 1;
