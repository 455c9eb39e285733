//! Limits to what a device does.

use serde::{Deserialize, Serialize};

/// Limits to bytes and to operations. Both hold at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Of requests or packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// What it is once `update` is applied, which leaves as they are those that it doesn't name.
    pub fn updated(&self, update: &RateLimiter) -> RateLimiter {
        RateLimiter {
            bandwidth: update.bandwidth.or(self.bandwidth),
            ops: update.ops.or(self.ops),
        }
    }
}

/// So many at once, and so long until they have come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Bytes, or operations. With 0 there is no limit.
    pub size: u64,
    /// Besides `size`, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds until an empty bucket is full. With 0 there is no limit.
    pub refill_time: u64,
}
