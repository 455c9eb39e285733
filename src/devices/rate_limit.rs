//! Limits to how much a device does in a second: operations, bytes, and bursts of both.
//!
//! A [`RateLimiter`] has a token bucket for operations and one for bytes. It knows time but never
//! waits: whoever serves a queue asks it and then waits in its own way, so that a reset can end
//! the wait. The limits can be changed at any time; who waits already waits for its old time.
//! Where none is set, asking is a load.
//!
//! - A thread that has one event loop asks [`take`](RateLimiter::take), leaves the request where it
//!   is if the answer is no, and sets a timer.
//! - Threads that serve a queue together ask [`reserve`](RateLimiter::reserve): each gets a time
//!   of its own, in the order in which they asked, so that a large request isn't starved by small
//!   ones. They wait by a [`Pause`].
//!
//! Over any stretch of time, what passes is at most the burst, the rate times the stretch, and
//! one request that is larger than the burst.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Rate, RateLimit};

/// Time in picoseconds: fine enough that the cost of one byte isn't rounded away.
type Picos = u128;
const PER_SECOND: Picos = 1_000_000_000_000;

/// Says when a device may go on. Shared by all of the device's queues.
#[derive(Debug)]
pub struct RateLimiter {
    start: Instant,
    /// There is a limit.
    limits: AtomicBool,
    /// Held for some arithmetic only.
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    ops: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// A token bucket, kept as the time at which it will be full again.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// How long it takes to fill from nothing.
    depth: Picos,
    full_at: Picos,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(limit: &RateLimit) -> Self {
        let limiter = Self {
            start: Instant::now(),
            limits: AtomicBool::new(false),
            buckets: Mutex::new(Buckets {
                ops: None,
                bytes: None,
            }),
        };
        limiter.set(limit);
        limiter
    }

    /// Other limits from now on, with full buckets.
    pub fn set(&self, limit: &RateLimit) {
        // Full at a time that is past, and none has taken anything.
        let mut buckets = self.lock();
        *buckets = Buckets {
            ops: limit.ops.map(Bucket::new),
            bytes: limit.bytes.map(Bucket::new),
        };
        let limits = buckets.ops.is_some() || buckets.bytes.is_some();
        self.limits.store(limits, Ordering::Relaxed);
    }

    /// Takes the tokens for `ops` operations with `bytes` bytes, if they are there. What is larger
    /// than a burst may pass when the bucket is full.
    ///
    /// # Errors
    ///
    /// They aren't; after this time they will be. Nothing was taken.
    pub fn take(&self, ops: u64, bytes: u64) -> Result<(), Duration> {
        self.take_at(self.now(), ops, bytes)
    }

    /// Takes the tokens, if need be those that are still to come, and says how long to wait
    /// before going on.
    pub fn reserve(&self, ops: u64, bytes: u64) -> Duration {
        if !self.limits.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.reserve_at(self.now(), ops, bytes)
    }

    fn now(&self) -> Picos {
        self.start.elapsed().as_nanos() * 1000
    }

    fn take_at(&self, now: Picos, ops: u64, bytes: u64) -> Result<(), Duration> {
        let mut buckets = self.lock();
        let wait = buckets.each(ops, bytes, |bucket, amount| bucket.wait(now, amount));
        if wait > 0 {
            return Err(duration(wait));
        }
        buckets.each(ops, bytes, |bucket, amount| bucket.take(now, amount));
        Ok(())
    }

    fn reserve_at(&self, now: Picos, ops: u64, bytes: u64) -> Duration {
        let wait = self.lock().each(ops, bytes, |bucket, amount| {
            let wait = bucket.wait(now, amount);
            bucket.take(now, amount);
            wait
        });
        duration(wait)
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    /// Does something with each bucket; the longer of the two results.
    fn each(&mut self, ops: u64, bytes: u64, act: impl Fn(&mut Bucket, u64) -> Picos) -> Picos {
        let ops = self.ops.as_mut().map_or(0, |bucket| act(bucket, ops));
        let bytes = self.bytes.as_mut().map_or(0, |bucket| act(bucket, bytes));
        ops.max(bytes)
    }
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            depth: cost(&rate, rate.burst),
            full_at: 0,
        }
    }

    /// How long until `amount` tokens are there (until it's full, if it never holds as many).
    fn wait(&self, now: Picos, amount: u64) -> Picos {
        let cost = cost(&self.rate, amount).min(self.depth);
        (self.full_at.max(now) + cost).saturating_sub(now + self.depth)
    }

    fn take(&mut self, now: Picos, amount: u64) -> Picos {
        self.full_at = self.full_at.max(now) + cost(&self.rate, amount);
        self.full_at
    }
}

/// How long it takes to earn `amount` tokens.
fn cost(rate: &Rate, amount: u64) -> Picos {
    (Picos::from(amount) * PER_SECOND).div_ceil(rate.per_second.max(1).into())
}

/// Rounded up, so that whoever waits as long isn't too early.
fn duration(picos: Picos) -> Duration {
    Duration::from_nanos(u64::try_from(picos.div_ceil(1000)).unwrap_or(u64::MAX))
}

/// Where threads wait for their time, until someone ends all waits.
#[derive(Debug, Default)]
pub struct Pause {
    ended: Mutex<bool>,
    end: Condvar,
}

impl Pause {
    /// Waits for `time`; false, and at once, if the waiting was ended.
    pub fn wait(&self, time: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.wait_timeout_while(ended, time, |ended| !*ended);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends all waits, those to come as well.
    pub fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Picos = PER_SECOND / 1000;

    fn limiter(ops: Option<(u64, u64)>, bytes: Option<(u64, u64)>) -> RateLimiter {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        RateLimiter::new(&RateLimit {
            ops: ops.map(rate),
            bytes: bytes.map(rate),
        })
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn limits_come_and_go() {
        let limiter = RateLimiter::new(&RateLimit::default());
        assert_eq!(limiter.reserve(u64::MAX, u64::MAX), ms(0));
        let one = Rate {
            per_second: 1,
            burst: 1,
        };
        limiter.set(&RateLimit {
            ops: Some(one),
            bytes: None,
        });
        assert_eq!(limiter.reserve(1, u64::MAX), ms(0));
        assert!(limiter.reserve(1, 0) > ms(900));
        // Nothing is owed to those that are there no more.
        limiter.set(&RateLimit::default());
        assert_eq!(limiter.reserve(1, 0), ms(0));
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let limiter = limiter(Some((100, 5)), None);
        for _ in 0..5 {
            assert_eq!(limiter.take_at(0, 1, 1 << 40), Ok(()));
        }
        assert_eq!(limiter.take_at(0, 1, 0), Err(ms(10)));
        assert_eq!(limiter.take_at(4 * MS, 1, 0), Err(ms(6)));
        assert_eq!(limiter.take_at(10 * MS, 1, 0), Ok(()));
        assert_eq!(limiter.take_at(10 * MS, 1, 0), Err(ms(10)));
        // A long pause fills it to the burst and no further.
        let later = 3_600_000 * MS;
        assert_eq!(limiter.take_at(later, 5, 0), Ok(()));
        assert_eq!(limiter.take_at(later, 2, 0), Err(ms(20)));
    }

    #[test]
    fn both_limits_hold_and_a_refusal_takes_nothing() {
        let limiter = limiter(Some((10, 10)), Some((1000, 1000)));
        assert_eq!(limiter.take_at(0, 1, 1000), Ok(()));
        assert_eq!(limiter.take_at(0, 1, 100), Err(ms(100)));
        // Without bytes it's only the operations that count: 9 are left.
        for _ in 0..9 {
            assert_eq!(limiter.take_at(0, 1, 0), Ok(()));
        }
        assert_eq!(limiter.take_at(0, 1, 0), Err(ms(100)));
        assert_eq!(limiter.take_at(100 * MS, 1, 100), Ok(()));
    }

    #[test]
    fn more_than_a_burst_passes_when_the_bucket_is_full_and_is_paid_for_after() {
        let limiter = limiter(None, Some((1000, 100)));
        assert_eq!(limiter.take_at(0, 1, 2000), Ok(()));
        assert_eq!(limiter.take_at(0, 1, 1), Err(ms(1901)));
        assert_eq!(limiter.take_at(1900 * MS, 1, 2000), Err(ms(100)));
        assert_eq!(limiter.take_at(2000 * MS, 1, 2000), Ok(()));
    }

    #[test]
    fn reservations_are_in_order_and_never_too_early() {
        let limiter = limiter(None, Some((1000, 100)));
        let waits = [100, 100, 50, 500, 10].map(|bytes| limiter.reserve_at(0, 1, bytes));
        // The large one waits for a full bucket and goes into debt for the rest.
        assert_eq!(waits, [0, 100, 150, 250, 660].map(ms));
        assert_eq!(limiter.reserve_at(760 * MS, 1, 100), ms(0));
    }

    #[test]
    fn no_amount_overflows() {
        let limiter = limiter(Some((1, 1)), Some((u64::MAX, u64::MAX)));
        for _ in 0..1000 {
            limiter.reserve_at(0, u64::MAX, u64::MAX);
        }
        assert!(limiter.take(u64::MAX, u64::MAX).is_err());
        assert!(limiter.reserve(1, 1) > ms(1000));
    }

    #[test]
    fn single_bytes_are_not_rounded_away() {
        let limiter = limiter(None, Some((3_000_000_000, 1)));
        let wait = (0..3_000_001).map(|_| limiter.reserve_at(0, 0, 1)).last();
        let wait = wait.unwrap().as_nanos();
        assert!((1_000_000..1_005_000).contains(&wait), "{wait}");
    }

    #[test]
    fn an_ended_pause_lets_nobody_wait() {
        let pause = Pause::default();
        assert!(pause.wait(Duration::from_micros(1)));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pause.wait(Duration::from_secs(1000)));
            pause.end();
            assert!(!waiter.join().unwrap());
        });
        assert!(!pause.wait(Duration::from_secs(1000)));
    }
}
