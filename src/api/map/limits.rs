//! Token buckets and rates: `size` at once, and `size` again each `refill_time` milliseconds.

use crate::api::fault::Fault;
use crate::api::model::{RateLimiter, TokenBucket};
use crate::config::{Rate, RateLimit};

/// The limits that `limiter` stands for.
///
/// # Errors
///
/// A field that asks for what mote hasn't.
pub fn rate_limit(limiter: Option<&RateLimiter>) -> Result<RateLimit, Fault> {
    let rate = |bucket: Option<&TokenBucket>| bucket.map_or(Ok(None), rate);
    Ok(RateLimit {
        bytes: rate(limiter.and_then(|limiter| limiter.bandwidth.as_ref()))?,
        ops: rate(limiter.and_then(|limiter| limiter.ops.as_ref()))?,
    })
}

fn rate(bucket: &TokenBucket) -> Result<Option<Rate>, Fault> {
    if bucket.size == 0 || bucket.refill_time == 0 {
        return Ok(None);
    }
    if bucket.one_time_burst.is_some_and(|burst| burst > 0) {
        let why = "mote's limits start with a full bucket and no more; leave it out, or give a larger size";
        return Err(Fault::field("one_time_burst", why));
    }
    let per_second = u128::from(bucket.size) * 1000 / u128::from(bucket.refill_time);
    match u64::try_from(per_second) {
        Ok(per_second @ 1..) => Ok(Some(Rate {
            per_second,
            burst: bucket.size,
        })),
        _ => {
            let why = "size and refill_time make less than one a second, or too many";
            Err(Fault::field("refill_time", why))
        }
    }
}

/// The bucket that stands for a rate.
pub(super) fn bucket(rate: &Rate) -> TokenBucket {
    let millis = u128::from(rate.burst) * 1000 / u128::from(rate.per_second.max(1));
    TokenBucket {
        size: rate.burst,
        one_time_burst: None,
        refill_time: u64::try_from(millis).unwrap_or(u64::MAX).max(1),
    }
}

/// The same of both; `None` where there is no limit.
pub(super) fn limiter(limit: &RateLimit) -> Option<RateLimiter> {
    let limiter = RateLimiter {
        bandwidth: limit.bytes.as_ref().map(bucket),
        ops: limit.ops.as_ref().map(bucket),
    };
    (limiter != RateLimiter::default()).then_some(limiter)
}
