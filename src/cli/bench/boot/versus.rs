//! Two monitors' times, compared: the ratio of their medians, and how sure it is.

use super::quantile::{Quantile, sorted};

/// How many samples are drawn anew.
const DRAWN: usize = 2000;

/// The ratio of the medians, and the interval in which it is with 95 %: by a percentile bootstrap
/// (Efron), always with the same random numbers, so that the same figures give the same interval.
pub fn ratio(ours: &[u64], theirs: &[u64]) -> (f64, (f64, f64)) {
    let median = |values: &[u64]| Quantile::MEDIAN.of(&sorted(values));
    let mut state = 0x5eed_u64;
    let mut drawn: Vec<f64> = (0..DRAWN)
        .map(|_| {
            let (ours, theirs) = (draw(ours, &mut state), draw(theirs, &mut state));
            median(&ours) / median(&theirs)
        })
        .collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |percent: &str| Quantile::parse(percent).map_or(f64::NAN, |q| q.of(&drawn));
    (median(ours) / median(theirs), (at("p2.5"), at("p97.5")))
}

/// As many values, each any of these.
fn draw(values: &[u64], state: &mut u64) -> Vec<u64> {
    let mut one = || {
        // xorshift64* (Vigna)
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        values[random as usize % values.len()]
    };
    (0..values.len()).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_the_medians_and_lies_in_its_interval() {
        let ours: Vec<u64> = (0..50).map(|n| 40_000 + n * 100).collect();
        let theirs: Vec<u64> = ours.iter().map(|value| value * 2).collect();
        let (ratio, (low, high)) = ratio(&ours, &theirs);
        assert!((ratio - 0.5).abs() < 1e-9);
        assert!(low < 0.5 && 0.5 < high && high - low < 0.05, "{low} {high}");
    }

    #[test]
    fn values_without_noise_have_no_interval() {
        assert_eq!(ratio(&[3; 5], &[6; 5]), (0.5, (0.5, 0.5)));
    }
}
