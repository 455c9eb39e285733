//! Where a new back-end goes on in a ring that another has left.
//!
//! With a record of the requests in flight (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) that is simple: at
//! the used index, and the record says which of the requests before and after are still to be
//! done. A back-end that keeps none (qemu-storage-daemon) leaves only the two rings. Requests may
//! be done in another order than they were asked for, so those that are left are not simply the
//! last ones of the available ring.
//!
//! Both rings still have their last entries, as many as they are long. Each head is asked for and
//! answered in turn. Say that head h was asked for at positions p1 < p2 < ... of the available ring,
//! and answered at q1 < q2 < ... of the used one. An answer comes before the same head is asked for
//! again, and there are never more answers than questions, so the answer that precedes the
//! question at p has q < p. If the last question for h were still open, each of its answers, counted
//! from the end, would precede the question of the same rank. So one that doesn't shows that h is
//! not open. If exactly as many heads as are in flight pass this test, they are those. If more
//! pass, nobody can say which, and the driver has to start anew. (A request that has stayed open while
//! a whole ring of others came and went is not in the rings any more, and not seen.)
//!
//! What is open is then put into the available ring from the used index on, where its successor
//! looks; what is done stands before it as if it had been done in order. No driver reads
//! there again.

use std::collections::BTreeMap;
use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::VhostUserError;
use crate::devices::virtio::ActiveQueue;

/// No descriptor has this number: an entry of the used ring that was never written.
const NEVER: u32 = !0;

/// How many queues, counted from the first, and of which size at most: what a back-end's record
/// of requests in flight must have room for.
pub fn extent(queues: &[ActiveQueue]) -> (u16, u16) {
    let count = queues.iter().map(|q| q.index + 1).max().unwrap_or(0);
    let size = queues.iter().map(|q| q.queue.size()).max().unwrap_or(0);
    (count, size)
}

/// Marks the entries of a used ring that nobody has written yet: whoever looks later knows where its history
/// begins.
///
/// # Errors
///
/// The ring is not in guest memory.
pub fn mark(queue: &Queue, memory: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
    let rings = Rings { queue, memory };
    (0..queue.size()).try_for_each(|index| rings.set_answered(index, NEVER))
}

/// Where a successor starts in the available ring. `recorded`: it is also given the record of its
/// predecessor.
///
/// # Errors
///
/// The rings are not in guest memory, or don't tell.
pub fn resume(
    queue: &Queue,
    memory: &GuestMemoryMmap<()>,
    recorded: bool,
) -> Result<u16, VhostUserError> {
    let index = |index: Result<Wrapping<u16>, _>| match index {
        Ok(Wrapping(index)) => Ok(index),
        Err(_) => Err(VhostUserError::Unrecorded),
    };
    let used = index(queue.used_idx(memory, Ordering::Acquire))?;
    let available = index(queue.avail_idx(memory, Ordering::Acquire))?;
    let open = available.wrapping_sub(used);
    if recorded || open == 0 {
        return Ok(used);
    }
    if open > queue.size() {
        return Err(VhostUserError::Unrecorded);
    }
    let rings = Rings { queue, memory };
    match rings.restore(used, open) {
        Ok(true) => Ok(used),
        Ok(false) | Err(_) => Err(VhostUserError::Unrecorded),
    }
}

struct Rings<'a> {
    queue: &'a Queue,
    memory: &'a GuestMemoryMmap<()>,
}

/// Where a head was asked for, and where it was answered, relative to the used index.
#[derive(Default)]
struct Events {
    asked: Vec<i32>,
    answered: Vec<i32>,
}

impl Events {
    /// Whether the last question can still be open; see the top.
    fn may_be_open(&self) -> bool {
        let pairs = self.asked.iter().rev().zip(self.answered.iter().rev());
        pairs.into_iter().all(|(asked, answered)| answered < asked)
    }
}

impl Rings<'_> {
    /// Finds the `open` requests, and puts the available ring in order; false if it can't be said
    /// which they are.
    fn restore(&self, used: u16, open: u16) -> Result<bool, GuestMemoryError> {
        let (size, open) = (i32::from(self.queue.size()), i32::from(open));
        let at = |offset: i32| used.wrapping_add(offset as u16);
        // The entry that would be written next was written a whole ring ago, if ever. (An index that has come to 0 again
        // has been everywhere.)
        let new = self.answered(used)? == NEVER;
        let start = if new { -i32::from(used) } else { -size };
        let mut heads: BTreeMap<u32, Events> = BTreeMap::new();
        for offset in start.max(open - size)..open {
            let head = self.asked(at(offset))?;
            heads.entry(head.into()).or_default().asked.push(offset);
        }
        for offset in start..0 {
            let head = self.answered(at(offset))?;
            heads.entry(head).or_default().answered.push(offset);
        }
        // From its beginning, the history says it by counting.
        let whole = new && open - size <= start;
        let mut left: Vec<(i32, u16)> = Vec::new();
        for (head, events) in &heads {
            let is_open = match whole {
                true => events.asked.len() > events.answered.len(),
                false => events.may_be_open(),
            };
            if let (true, Some(asked)) = (is_open, events.asked.last()) {
                left.push((*asked, *head as u16));
            }
        }
        if left.len() != open as usize {
            return Ok(false);
        }
        left.sort_unstable();
        for offset in start.max(open - size)..0 {
            self.set_asked(at(offset), self.answered(at(offset))? as u16)?;
        }
        for (offset, (_, head)) in (0..).zip(left) {
            self.set_asked(at(offset), head)?;
        }
        Ok(true)
    }

    /// The entry of the available ring (virtio 1.3 §2.7.6).
    fn asked(&self, index: u16) -> Result<u16, GuestMemoryError> {
        self.memory.read_obj(self.asked_at(index)).map(u16::from_le)
    }

    fn set_asked(&self, index: u16, head: u16) -> Result<(), GuestMemoryError> {
        self.memory.write_obj(head.to_le(), self.asked_at(index))
    }

    fn asked_at(&self, index: u16) -> GuestAddress {
        let slot = u64::from(index % self.queue.size());
        GuestAddress(self.queue.avail_ring() + 4 + 2 * slot)
    }

    /// The entry of the used ring (§2.7.8).
    fn answered(&self, index: u16) -> Result<u32, GuestMemoryError> {
        self.memory
            .read_obj(self.answered_at(index))
            .map(u32::from_le)
    }

    fn set_answered(&self, index: u16, head: u32) -> Result<(), GuestMemoryError> {
        self.memory.write_obj(head.to_le(), self.answered_at(index))
    }

    fn answered_at(&self, index: u16) -> GuestAddress {
        let slot = u64::from(index % self.queue.size());
        GuestAddress(self.queue.used_ring() + 4 + 8 * slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, GuestRam};

    const SIZE: u16 = 16;

    /// A driver and a back-end that answers in any order, in rings of their own.
    struct Play {
        ram: GuestRam,
        queue: Queue,
        available: u16,
        used: u16,
        open: Vec<u16>,
        /// Where they were asked for.
        since: Vec<u16>,
        random: u64,
    }

    impl Play {
        fn new(seed: u64) -> Self {
            let ram = GuestRam::new(&[(GuestAddress(0), 1 << 20)], Backing::Anonymous).unwrap();
            let mut queue = Queue::new(SIZE).unwrap();
            queue.set_desc_table_address(Some(0x1000), None);
            queue.set_avail_ring_address(Some(0x2000), None);
            queue.set_used_ring_address(Some(0x3000), None);
            queue.set_ready(true);
            mark(&queue, ram.memory()).unwrap();
            let (open, since, random) = (Vec::new(), Vec::new(), seed | 1);
            Play {
                ram,
                queue,
                available: 0,
                used: 0,
                open,
                since,
                random,
            }
        }

        fn random(&mut self, below: usize) -> usize {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            (self.random >> 32) as usize % below
        }

        fn rings(&self) -> Rings<'_> {
            Rings {
                queue: &self.queue,
                memory: self.ram.memory(),
            }
        }

        fn ask(&mut self, most: usize) {
            // Nobody stays open while a whole ring of others comes and goes: that can't be seen.
            let lingers = |asked: &u16| self.available.wrapping_sub(*asked) >= SIZE - 1;
            if self.open.len() >= most || self.since.first().is_some_and(lingers) {
                return self.answer(1);
            }
            self.since.push(self.available);
            let free = (0..SIZE).find(|head| !self.open.contains(head)).unwrap();
            self.rings().set_asked(self.available, free).unwrap();
            self.open.push(free);
            self.available = self.available.wrapping_add(1);
            let index = self.available.to_le();
            self.ram
                .memory()
                .write_obj(index, GuestAddress(0x2002))
                .unwrap();
        }

        /// One of the oldest `reach` is answered.
        fn answer(&mut self, reach: usize) {
            if self.open.is_empty() {
                return;
            }
            let which = self.random(reach.min(self.open.len()));
            let head = self.open.remove(which);
            self.since.remove(which);
            self.rings().set_answered(self.used, head.into()).unwrap();
            self.used = self.used.wrapping_add(1);
            let index = self.used.to_le();
            self.ram
                .memory()
                .write_obj(index, GuestAddress(0x3002))
                .unwrap();
        }

        /// What a successor would do, or `None` if nobody can tell.
        fn resume(&self) -> Option<Vec<u16>> {
            let base = resume(&self.queue, self.ram.memory(), false).ok()?;
            assert_eq!(base, self.used);
            let count = self.available.wrapping_sub(base);
            let entries = (0..count).map(|i| self.rings().asked(base.wrapping_add(i)).unwrap());
            Some(entries.collect())
        }
    }

    #[test]
    fn what_is_open_is_found_or_nothing_is_said() {
        let (mut told, mut silent) = (0, 0);
        for seed in 1..400 {
            let mut play = Play::new(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
            let (most, reach) = (1 + play.random(8), 1 + play.random(4));
            for _ in 0..play.random(400) {
                match play.random(2) {
                    0 => play.ask(most),
                    _ => play.answer(reach),
                }
                if play.random(40) != 0 {
                    continue;
                }
                match play.resume() {
                    Some(found) => {
                        // In the order in which they were asked for.
                        assert_eq!(found, play.open, "seed {seed}");
                        told += 1;
                    }
                    None => silent += 1,
                }
            }
        }
        println!("told {told}, silent {silent}");
        assert!(told > 4 * silent, "told {told}, silent {silent}");
    }

    #[test]
    fn a_record_and_an_empty_ring_need_no_search() {
        let mut play = Play::new(1);
        play.ask(4);
        let memory = play.ram.memory();
        assert_eq!(resume(&play.queue, memory, true).unwrap(), 0);
        play.answer(1);
        assert_eq!(play.resume(), Some(Vec::new()));
    }

    #[test]
    fn rings_that_a_guest_has_spoilt_say_nothing() {
        let play = Play::new(1);
        let memory = play.ram.memory();
        let resume = || resume(&play.queue, memory, false);
        let set = |at: u64, index: u16| memory.write_obj(index, GuestAddress(at)).unwrap();
        set(0x2002, SIZE + 1);
        assert!(resume().is_err());
        set(0x2002, 5);
        set(0x3002, 9);
        assert!(resume().is_err());
        // All ones and all the same: any answer will do, for it is the guest's own disk.
        memory
            .write_slice(&[0xff; 64], GuestAddress(0x2004))
            .unwrap();
        for used in 0..100 {
            set(0x3002, used);
            let _ = resume();
        }
    }
}
