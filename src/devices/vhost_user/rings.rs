//! Where a new back-end goes on in a ring that another has left.

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::VhostUserError;
use crate::devices::virtio::ActiveQueue;

/// How many queues, counted from the first, and of which size at most: what a back-end's record
/// of requests in flight must have room for.
pub fn extent(queues: &[ActiveQueue]) -> (u16, u16) {
    let count = queues.iter().map(|q| q.index + 1).max().unwrap_or(0);
    let size = queues.iter().map(|q| q.queue.size()).max().unwrap_or(0);
    (count, size)
}

/// How many requests the last back-end had told the driver of, all in all: there the next one goes
/// on in the available ring. `recorded`: it is also given the record of those that were in
/// flight, so it knows which of them are done (QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking").
///
/// Without a record this is right only if what came first was done first; if the rings show that it
/// wasn't, nobody can say what is left to do.
///
/// # Errors
///
/// The rings are not in guest memory, or don't tell.
pub fn resume(
    queue: &Queue,
    memory: &GuestMemoryMmap<()>,
    recorded: bool,
) -> Result<u16, VhostUserError> {
    let unreadable = |_| VhostUserError::Unrecorded;
    let used = queue.used_idx(memory, Ordering::Acquire);
    let used = used.map_err(unreadable)?.0;
    let available = queue.avail_idx(memory, Ordering::Acquire);
    let in_flight = available.map_err(unreadable)?.0.wrapping_sub(used);
    if recorded || in_flight == 0 {
        return Ok(used);
    }
    // The last entries that both rings still have must name the same requests.
    let size = queue.size();
    let seen = size.saturating_sub(in_flight).min(used);
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for index in 1..=seen {
        let slot = u64::from(used.wrapping_sub(index) % size);
        let read = || -> Result<(u16, u32), vm_memory::GuestMemoryError> {
            let asked: u16 = memory.read_obj(GuestAddress(queue.avail_ring() + 4 + 2 * slot))?;
            let answered: u32 = memory.read_obj(GuestAddress(queue.used_ring() + 4 + 8 * slot))?;
            Ok((u16::from_le(asked), u32::from_le(answered)))
        };
        let (head, id) = read().map_err(|_| VhostUserError::Unrecorded)?;
        asked.push(u32::from(head));
        answered.push(id);
    }
    asked.sort_unstable();
    answered.sort_unstable();
    match asked == answered {
        true => Ok(used),
        false => Err(VhostUserError::Unrecorded),
    }
}
