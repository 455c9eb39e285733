//! How much a device may do in a second: the rates behind `iops=`, `bw=` and their bursts.

use super::ConfigError;

/// So many per second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The long-term average. Not 0.
    pub per_second: u64,
    /// What may pass at once when nothing has passed for a while. Not 0.
    pub burst: u64,
}

/// Limits to operations and to bytes. Both hold at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests, or packets.
    pub ops: Option<Rate>,
    /// Bytes of data.
    pub bytes: Option<Rate>,
}

impl Rate {
    /// A rate as the user gave it. Without a burst, that is a tenth of a second's worth.
    ///
    /// `option` and `key` name it in the error: "--disk" and "iops".
    ///
    /// # Errors
    ///
    /// 0, or a burst without a rate.
    pub fn new(
        option: &'static str,
        key: &'static str,
        per_second: Option<u64>,
        burst: Option<u64>,
    ) -> Result<Option<Rate>, ConfigError> {
        match (per_second, burst) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(ConfigError::BurstAlone { option, key }),
            (Some(0), _) | (_, Some(0)) => Err(ConfigError::RateZero { option, key }),
            (Some(per_second), burst) => Ok(Some(Rate {
                per_second,
                burst: burst.unwrap_or(per_second.div_ceil(10)),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_has_a_default_and_needs_a_rate() {
        let rate = |rate, burst| Rate::new("--disk", "iops", rate, burst);
        assert_eq!(rate(None, None), Ok(None));
        let expected = |per_second, burst| Ok(Some(Rate { per_second, burst }));
        assert_eq!(rate(Some(1000), None), expected(1000, 100));
        assert_eq!(rate(Some(1), None), expected(1, 1));
        assert_eq!(rate(Some(1000), Some(5)), expected(1000, 5));
        assert_eq!(
            rate(None, Some(5)).unwrap_err().to_string(),
            "--disk iops-burst without iops: a burst needs the rate that it is over, \
             e.g. iops=1000"
        );
        for wrong in [rate(Some(0), None), rate(Some(1), Some(0))] {
            assert_eq!(
                wrong.unwrap_err().to_string(),
                "--disk iops: a rate or burst of 0 would stop the device; \
                 leave it out for no limit"
            );
        }
    }
}
