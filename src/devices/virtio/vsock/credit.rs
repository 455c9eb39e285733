//! Credit: how much each side of a connection may send (virtio 1.3 §5.10.6.3). All counters are
//! modulo 2^32 and wrap.

/// How much of the guest's data a connection takes without its having been passed on to the host's
/// program: what is announced to the guest as `buf_alloc`.
pub const BUF_ALLOC: u32 = 64 * 1024;

/// The guest sends more than it was told that there is room for.
#[derive(Debug, PartialEq, Eq)]
pub struct Overrun;

/// What one connection has sent, received and passed on.
#[derive(Clone, Debug, Default)]
pub struct Credit {
    /// Data from the guest: received.
    received: u32,
    /// Passed on to the host's program.
    forwarded: u32,
    /// What the guest was last told of `forwarded`.
    told: u32,
    /// Data to the guest: sent.
    sent: u32,
    /// What the guest last told.
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
}

impl Credit {
    /// Data of `len` bytes has come from the guest.
    pub fn receive(&mut self, len: u32) -> Result<(), Overrun> {
        let in_flight = self.received.wrapping_sub(self.told);
        if len > BUF_ALLOC.saturating_sub(in_flight) {
            return Err(Overrun);
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// As many bytes from the guest have been passed on.
    pub fn forward(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// Whether the guest is to be told of room, should nothing else be sent to it: when it knows of
    /// no more than three quarters. A guest that waits for room has used all of it, and hears
    /// of it at the latest when all of its data is passed on.
    pub fn update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUF_ALLOC / 4
    }

    /// `fwd_cnt` for a packet that is now sent to the guest.
    pub fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.forwarded
    }

    /// Takes what a packet of the guest tells of its own room.
    pub fn hear(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buf_alloc = buf_alloc;
        self.peer_fwd_cnt = fwd_cnt;
    }

    /// How many bytes may be sent to the guest. A guest that claims to have passed on more than it was
    /// sent, or that has taken back room, gets nothing until its counts make sense again.
    pub fn available(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(in_flight)
    }

    /// As many bytes have been sent to the guest.
    pub fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }
}

#[cfg(test)]
impl Credit {
    /// As after a long life: all counters are `at`.
    pub fn after(at: u32) -> Self {
        Self {
            received: at,
            forwarded: at,
            told: at,
            sent: at,
            peer_buf_alloc: 0,
            peer_fwd_cnt: at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_overrun_is_seen_also_where_the_counters_wrap() {
        for at in [0, u32::MAX - 10, 1 << 31] {
            let mut credit = Credit::after(at);
            assert_eq!(credit.receive(BUF_ALLOC), Ok(()));
            assert_eq!(credit.receive(1), Err(Overrun));
            credit.forward(100);
            // The guest doesn't know yet.
            assert_eq!(credit.receive(1), Err(Overrun));
            assert_eq!(credit.tell(), at.wrapping_add(100));
            assert_eq!(credit.receive(101), Err(Overrun));
            assert_eq!(credit.receive(100), Ok(()));
            assert_eq!(credit.receive(0), Ok(()));
            assert_eq!(credit.receive(u32::MAX), Err(Overrun));
        }
    }

    #[test]
    fn counts_that_make_no_sense_give_no_credit() {
        let mut credit = Credit::after(1000);
        credit.hear(u32::MAX, 1000);
        assert_eq!(credit.available(), u32::MAX);
        credit.hear(100, 2000);
        assert_eq!(credit.available(), 0);
        credit.hear(100, 900);
        assert_eq!(credit.available(), 0);
        credit.hear(100, 950);
        assert_eq!(credit.available(), 50);
    }

    proptest! {
        /// Two ends of a connection, each with a view of its own: nobody sends too much, and
        /// whoever waits gets to know of room once all is passed on.
        #[test]
        fn both_ends_agree(
            start in any::<u32>(),
            peer_room in 1u32..200_000,
            steps in prop::collection::vec((0u8..5, 0u32..70_000), 1..200),
        ) {
            let mut credit = Credit::after(start);
            credit.hear(peer_room, start);
            // The guest's part: what it has sent, what it was told, what it holds.
            let (mut sent, mut told) = (start, start);
            let mut queued = 0u32;
            let (mut held, mut passed) = (0u32, start);
            for (what, amount) in steps {
                match what {
                    0 => {
                        let room = BUF_ALLOC - sent.wrapping_sub(told);
                        let len = amount.min(room);
                        prop_assert_eq!(credit.receive(len), Ok(()));
                        sent = sent.wrapping_add(len);
                        queued += len;
                        prop_assert!(queued <= BUF_ALLOC);
                    }
                    1 => {
                        let len = amount.min(queued);
                        credit.forward(len);
                        queued -= len;
                        if credit.update_due() {
                            told = credit.tell();
                        }
                    }
                    2 => {
                        let len = amount.min(credit.available());
                        credit.send(len);
                        held += len;
                        prop_assert!(held <= peer_room);
                        told = credit.tell();
                    }
                    3 => {
                        let len = amount.min(held);
                        held -= len;
                        passed = passed.wrapping_add(len);
                    }
                    _ => credit.hear(peer_room, passed),
                }
                if queued == 0 {
                    prop_assert!(sent.wrapping_sub(told) < BUF_ALLOC, "the guest is stuck");
                }
            }
        }
    }
}
