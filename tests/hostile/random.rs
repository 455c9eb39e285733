//! Numbers for what is tried at random; `MOTE_SEED` makes them the same again.

use crate::native::ONE_OF;

/// A generator (splitmix64).
pub struct Random(u64);

impl Random {
    /// Says its seed, which a failed test prints.
    pub fn new() -> Self {
        let given = std::env::var("MOTE_SEED").ok().and_then(|s| s.parse().ok());
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let seed = given.unwrap_or(now.as_nanos() as u64);
        println!("MOTE_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Those of a long list that there is time for here: each in turn, over many seeds.
    pub fn some<T>(&mut self, list: Vec<T>) -> Vec<T> {
        let first = self.below(ONE_OF as u64) as usize;
        list.into_iter().skip(first).step_by(ONE_OF).collect()
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
