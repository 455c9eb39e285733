//! Quantiles of measured values, and the five that are shown.

use std::fmt;

use serde::Serialize;

/// A quantile, in percent: 0 is the least value, 100 the greatest.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Quantile(f64);

impl Quantile {
    /// The least value.
    pub const MIN: Quantile = Quantile(0.0);
    /// The median.
    pub const MEDIAN: Quantile = Quantile(50.0);
    /// The greatest value.
    pub const MAX: Quantile = Quantile(100.0);

    /// Reads `min`, `max`, or `p` and a number from 0 to 100.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "min" => return Some(Self::MIN),
            "max" => return Some(Self::MAX),
            _ => {}
        }
        let digits = text.strip_prefix('p')?;
        let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        if !digits.starts_with(|c: char| c.is_ascii_digit()) || !digits.bytes().all(plain) {
            return None;
        }
        let percent = digits.parse().ok()?;
        (0.0..=100.0)
            .contains(&percent)
            .then_some(Quantile(percent))
    }

    /// As a part of 1.
    pub fn part(self) -> f64 {
        self.0 / 100.0
    }

    /// Whether values lie on both sides of it.
    pub fn is_inner(self) -> bool {
        self.0 > 0.0 && self.0 < 100.0
    }

    /// This quantile of sorted values, between the two that are nearest to it where it falls between
    /// them (the definition that spreadsheets and NumPy have by default). NaN of no values.
    pub fn of(self, sorted: &[f64]) -> f64 {
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let place = self.part() * last as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        sorted[below] + (sorted[above] - sorted[below]) * place.fract()
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("min"),
            Self::MAX => f.write_str("max"),
            Quantile(percent) => write!(f, "p{percent}"),
        }
    }
}

/// The values in their order.
pub fn sorted(values: &[u64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().map(|value| *value as f64).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// What is shown of a series of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    pub fn of(values: &[u64]) -> Self {
        let sorted = sorted(values);
        let at = |percent| Quantile(percent).of(&sorted);
        Summary {
            min: at(0.0),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            max: at(100.0),
        }
    }

    /// Its columns.
    pub const NAMES: [&str; 5] = ["min", "p50", "p90", "p99", "max"];

    /// In the order of the columns.
    pub fn columns(&self) -> [f64; 5] {
        [self.min, self.p50, self.p90, self.p99, self.max]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.percentile([1, 2, 4, 8], [0, 25, 50, 90, 99, 100])
        let values = [1.0, 2.0, 4.0, 8.0];
        for (percent, expected) in [
            (0.0, 1.0),
            (25.0, 1.75),
            (50.0, 3.0),
            (90.0, 6.8),
            (99.0, 7.88),
            (100.0, 8.0),
        ] {
            let found = Quantile(percent).of(&values);
            assert!((found - expected).abs() < 1e-9, "p{percent}: {found}");
        }
        assert_eq!(Quantile::MEDIAN.of(&[7.0]), 7.0);
        assert!(Quantile::MEDIAN.of(&[]).is_nan());
    }

    #[test]
    fn they_are_read_as_they_are_written() {
        for text in ["min", "p1", "p50", "p99.9", "max"] {
            assert_eq!(Quantile::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "", "p", "50", "p101", "p-1", "pinf", "p1e1", "p.5", "median",
        ] {
            assert_eq!(Quantile::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_summary_needs_no_order() {
        let summary = Summary::of(&[30, 10, 20]);
        assert_eq!((summary.min, summary.p50, summary.max), (10.0, 20.0, 30.0));
    }
}
