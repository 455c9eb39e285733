//! Whether a quantile has grown by more than noise explains.
//!
//! The test is exact and needs no assumption about how the times are distributed (the quantile test
//! of Mood and Brown, with Fisher's exact probability). Both samples are put together, and the values
//! above the quantile of all of them are looked at: the slowest tenth, say, for p90. If nothing has
//! changed, each of these values is as likely to be from one sample as from the other, and how many
//! of them are from the new one follows the hypergeometric distribution. The chance to find as many
//! as were found, or more, is the p-value. An allowance of 5 % is made by multiplying the old values
//! with 1.05 before.
//!
//! It was preferred to a bootstrap, whose error is far from what it claims for outer quantiles of few
//! runs, and to the test of Mann and Whitney, which knows nothing of p90. And it draws no random
//! numbers: the same two files always give the same answer.

use super::quantile::Quantile;

/// The chance of a false alarm that is accepted for each gate.
pub const ALPHA: f64 = 0.01;

/// The chance of finding so many of the greatest values in `new`, or more, if both samples came
/// from the same distribution.
pub fn p_value(new: &[f64], old: &[f64], quantile: Quantile) -> f64 {
    let mut all = [new, old].concat();
    all.sort_unstable_by(f64::total_cmp);
    let above = upper(all.len(), quantile);
    let Some(limit) = (all.len() - above).checked_sub(1).map(|place| all[place]) else {
        return 1.0;
    };
    let count = |values: &[f64]| values.iter().filter(|value| **value > limit).count();
    // With equal values at the limit there are fewer above it than asked for.
    let (found, others) = (count(new), count(old));
    at_least(found, found + others, new.len(), all.len())
}

/// The least p-value that so many runs can have: all of the greatest values in the new sample.
fn least_p_value(new: usize, old: usize, quantile: Quantile) -> f64 {
    let above = upper(new + old, quantile);
    at_least(above.min(new), above, new, new + old)
}

/// Whether so many runs can show anything of this quantile; if not, how many new ones could, beside
/// those `old` ones, if any number can.
pub fn enough(new: usize, old: usize, quantile: Quantile) -> Result<(), Option<usize>> {
    const MANY: usize = 2000;
    let shows = |new: usize| least_p_value(new, old, quantile) <= ALPHA;
    if shows(new) {
        return Ok(());
    }
    Err((new + 1..MANY).find(|new| shows(*new)))
}

/// How many of so many values are above a quantile.
fn upper(count: usize, quantile: Quantile) -> usize {
    // A little more, as 0.1 * 70 is a little less than 7.
    ((1.0 - quantile.part()) * count as f64 + 1e-9).floor() as usize
}

/// The chance of at least `found` marked ones among `drawn` out of `all`, of which `marked` are marked.
fn at_least(found: usize, marked: usize, drawn: usize, all: usize) -> f64 {
    let ln = LnFactorials::up_to(all);
    let total = ln.choose(all, drawn);
    let most = marked.min(drawn);
    let chance = |k: usize| {
        let rest = drawn - k;
        if rest > all - marked {
            return 0.0;
        }
        (ln.choose(marked, k) + ln.choose(all - marked, rest) - total).exp()
    };
    (found..=most).map(chance).sum::<f64>().min(1.0)
}

/// Logarithms of factorials.
struct LnFactorials(Vec<f64>);

impl LnFactorials {
    fn up_to(count: usize) -> Self {
        let mut sum = 0.0;
        let logarithms = (1..=count).map(|n| {
            sum += (n as f64).ln();
            sum
        });
        LnFactorials(std::iter::once(0.0).chain(logarithms).collect())
    }

    fn choose(&self, n: usize, k: usize) -> f64 {
        self.0[n] - self.0[k] - self.0[n - k]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantile(text: &str) -> Quantile {
        Quantile::parse(text).unwrap()
    }

    #[test]
    fn the_chances_are_those_of_the_textbook() {
        // Fisher's lady tasting tea: 4 of 4, and at least 3 of 4, of 8 cups.
        assert!((at_least(4, 4, 4, 8) - 1.0 / 70.0).abs() < 1e-12);
        assert!((at_least(3, 4, 4, 8) - 17.0 / 70.0).abs() < 1e-12);
        assert!((at_least(0, 4, 4, 8) - 1.0).abs() < 1e-12);
        // By whole numbers: the sum of C(50, k) * C(50, 50 - k) / C(100, 50).
        let known = [(32, 0.004_492_273_027), (31, 0.013_655_808_286)];
        for (found, expected) in known {
            let chance = at_least(found, 50, 50, 100);
            assert!((chance - expected).abs() < 1e-9, "{found}: {chance}");
        }
    }

    #[test]
    fn samples_that_lie_apart_have_the_least_p_value() {
        let (low, high) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
        let apart = p_value(&high, &low, Quantile::MEDIAN);
        assert!((apart - 1.0 / 252.0).abs() < 1e-12, "{apart}");
        assert!((p_value(&low, &high, Quantile::MEDIAN) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn equal_values_show_nothing() {
        assert_eq!(p_value(&[5.0; 20], &[5.0; 20], Quantile::MEDIAN), 1.0);
        assert_eq!(p_value(&[], &[], Quantile::MEDIAN), 1.0);
    }

    #[test]
    fn few_runs_cannot_show_much_of_an_outer_quantile() {
        assert_eq!(enough(5, 5, Quantile::MEDIAN), Ok(()));
        assert_eq!(enough(4, 10, Quantile::MEDIAN), Err(Some(5)));
        assert_eq!(enough(4, 4, Quantile::MEDIAN), Err(None));
        assert_eq!(enough(50, 50, quantile("p90")), Ok(()));
        assert_eq!(enough(50, 50, quantile("p95")), Err(None));
        assert_eq!(enough(70, 70, quantile("p95")), Ok(()));
        assert_eq!(enough(50, 0, Quantile::MEDIAN), Err(None));
    }

    /// Times as boots have them: a floor, a long tail, a few runs that something disturbed.
    struct Noise(u64);

    impl Noise {
        fn uniform(&mut self) -> f64 {
            // xorshift64* (Vigna)
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn boots(&mut self, count: usize, factor: f64) -> Vec<f64> {
            let boot = |noise: &mut Noise| {
                let tail = -(1.0 - noise.uniform()).ln() * 1.5;
                let disturbed = if noise.uniform() < 0.05 { 20.0 } else { 0.0 };
                (40.0 + tail + disturbed) * factor
            };
            (0..count).map(|_| boot(self)).collect()
        }
    }

    /// In what part of many comparisons the new boots are called slower.
    fn alarms(runs: usize, factor: f64, quantile: Quantile) -> f64 {
        const COMPARISONS: usize = 4000;
        let mut noise = Noise(0x5eed);
        let alarm = |noise: &mut Noise| {
            let (old, new) = (noise.boots(runs, 1.0), noise.boots(runs, factor));
            p_value(&new, &old, quantile) <= ALPHA
        };
        (0..COMPARISONS).filter(|_| alarm(&mut noise)).count() as f64 / COMPARISONS as f64
    }

    #[test]
    fn noise_alone_raises_no_more_alarms_than_promised() {
        for (runs, name) in [(10, "p50"), (50, "p50"), (50, "p90"), (80, "p95")] {
            let found = alarms(runs, 1.0, quantile(name));
            // Three standard deviations of 4000 trials are 0.005.
            assert!(found <= ALPHA + 0.005, "{name} of {runs}: {found}");
            // Nor is it a test that never says anything (of 10 there are few outcomes: 0.0005).
            assert!(found > 0.0 || runs == 10, "{name} of {runs}: {found}");
        }
    }

    #[test]
    fn a_real_change_is_seen() {
        // By 5 %: of a spread of which half is within 3 %.
        let found = alarms(50, 1.05, Quantile::MEDIAN);
        assert!(found > 0.95, "{found}");
        let found = alarms(50, 1.6, quantile("p90"));
        assert!(found > 0.95, "{found}");
    }
}
