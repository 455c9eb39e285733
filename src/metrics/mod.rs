//! Counting what devices do, for whoever operates the VM.
//!
//! A device keeps its counts in [`Counter`]s and [`Histogram`]s and shows them as a [`Source`];
//! the [`Registry`] of a VM asks all sources when someone wants to know, and writes them in the
//! Prometheus text format (version 0.0.4). Counting is an uncontended atomic addition: no lock, no
//! allocation, no system call. [`export`] shows them to other programs.

mod client;
pub mod export;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod target;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use text::Samples;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The buckets of a [`Histogram`]: up to 1 us, 2 us, 4 us, ... 8.4 s, and beyond.
const BUCKETS: usize = 24;

/// How long something took, in buckets that double from 1 us on.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, that took `time`.
    pub fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // The first bucket whose bound, 1000 << index, is not below `ns`.
        let us = ns.div_ceil(1000).max(1);
        let index = (us.next_power_of_two().trailing_zeros() as usize).min(BUCKETS);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// The time of all together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }

    fn counts(&self) -> [u64; BUCKETS + 1] {
        std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed))
    }
}

/// What has counts to show.
pub trait Source: Send + Sync {
    /// Adds its samples as they are now.
    fn collect(&self, samples: &mut Samples);
}

/// The sources of a VM.
#[derive(Clone, Default)]
pub struct Registry {
    sources: Vec<Arc<dyn Source>>,
}

impl Registry {
    /// No sources.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source.
    pub fn add(&mut self, source: Arc<dyn Source>) {
        self.sources.push(source);
    }

    /// All samples as they are now, in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut samples = Samples::default();
        for source in &self.sources {
            source.collect(&mut samples);
        }
        samples.to_string()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry of {} sources", self.sources.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_into_the_bucket_that_holds_them() {
        let histogram = Histogram::new();
        for (ns, bucket) in [
            (0, 0),
            (1000, 0),
            (1001, 1),
            (2000, 1),
            (2001, 2),
            (8_388_608_000, 23),
            (8_388_608_001, 24),
            (u64::MAX, 24),
        ] {
            let before = histogram.counts()[bucket];
            histogram.record(Duration::from_nanos(ns));
            assert_eq!(histogram.counts()[bucket], before + 1, "{ns} ns");
        }
        assert_eq!(histogram.count(), 8);
    }
}
