//! Random numbers that come again with the same seed (SplitMix64).

/// Where the sequence is; `None` draws 0 each time.
pub struct Random(Option<u64>);

impl Random {
    /// The sequence of one VM: it doesn't depend on what the others drew.
    pub fn of(seed: u64, number: usize) -> Self {
        let mut random = Random(Some(seed ^ (number as u64) << 32));
        random.next();
        random
    }

    /// Draws 0 each time, which stands for having something.
    pub fn full() -> Self {
        Random(None)
    }

    fn next(&mut self) -> u64 {
        let Some(state) = &mut self.0 else { return 0 };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// One of 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}
