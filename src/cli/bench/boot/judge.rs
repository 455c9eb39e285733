//! Whether a report passes its gates, and if not, which phase or device it is.

use super::gate::{Allowed, Budget, Limit, RATIO, Regression, Subject, Verdict};
use super::quantile::{Quantile, sorted};
use super::report::Report;
use super::samples::{Series, is_part};
use super::significance::{self, ALPHA};
use super::units::ms;
use crate::cli::CliError;

/// A figure of a report that a gate is about.
enum Figure<'a> {
    Phase(&'a Series),
    Count(&'a Series),
    /// A count of something that did not happen at all.
    Nothing,
}

impl<'a> Figure<'a> {
    fn of(report: &'a Report, name: &str) -> Self {
        let phase = report.phase(name).map(Figure::Phase);
        let count = || report.count(name).map(Figure::Count);
        phase.or_else(count).unwrap_or(Figure::Nothing)
    }

    fn values(&self) -> Vec<f64> {
        match self {
            Figure::Phase(series) | Figure::Count(series) => sorted(&series.values),
            Figure::Nothing => vec![0.0],
        }
    }

    fn is_time(&self) -> bool {
        matches!(self, Figure::Phase(_))
    }

    /// A value, with its unit.
    fn shown(&self, value: f64) -> String {
        match self.is_time() {
            true => format!("{} ms", ms(value)),
            false => format!("{value}"),
        }
    }
}

/// The name of the figure that a gate is about.
fn name<'a>(subject: &'a Subject, report: &Report) -> &'a str {
    subject.name.as_deref().unwrap_or_else(|| report.whole())
}

/// Compares with a limit: a time's median, where no quantile is given; of a count, the greatest.
pub fn budget(budget: &Budget, report: &Report) -> Verdict {
    let name = name(&budget.subject, report);
    let verdict = |passed, found: String| Verdict {
        gate: budget.text.clone(),
        passed,
        found,
    };
    let (Limit::Microseconds(limit) | Limit::Number(limit)) = budget.limit;
    if name == RATIO {
        let ratio = report
            .versus
            .as_ref()
            .map_or(f64::NAN, |versus| versus.ratio);
        return verdict(ratio <= limit, format!("ratio is {ratio:.3}"));
    }
    if name == "syscalls" && report.count(name).is_none() {
        let why = report.not_counted.as_deref().unwrap_or("not counted");
        return verdict(false, format!("system calls could not be counted: {why}"));
    }
    let figure = Figure::of(report, name);
    if figure.is_time() != matches!(budget.limit, Limit::Microseconds(_)) {
        let wanted = if figure.is_time() {
            "a time, as 5ms"
        } else {
            "a number"
        };
        return verdict(false, format!("{name} needs {wanted}"));
    }
    let usual = if figure.is_time() {
        Quantile::MEDIAN
    } else {
        Quantile::MAX
    };
    let quantile = budget.subject.quantile.unwrap_or(usual);
    let value = quantile.of(&figure.values());
    let mut found = format!("{name} {quantile} is {}", figure.shown(value));
    let passed = value <= limit;
    if !passed {
        found += &format!(", {} allowed", figure.shown(limit));
        if figure.is_time() && !is_part(name) {
            found += &largest_part(report);
        }
    }
    verdict(passed, found)
}

/// Compares with the baseline.
pub fn regression(regression: &Regression, report: &Report, base: &Report) -> Verdict {
    let name = name(&regression.subject, report);
    let (new, old) = (Figure::of(report, name), Figure::of(base, name));
    let quantile = regression.subject.quantile.unwrap_or(Quantile::MEDIAN);
    let verdict = |passed, found| Verdict {
        gate: regression.text.clone(),
        passed,
        found,
    };
    if new.is_time() && !old.is_time() {
        return verdict(false, format!("the baseline has no {name}"));
    }
    if name == "syscalls" && (report.count(name).is_none() || base.count(name).is_none()) {
        let found = "system calls were not counted in both".to_owned();
        return verdict(false, found);
    }
    let (new_values, old_values) = (new.values(), old.values());
    let (now, before) = match new.is_time() {
        true => (quantile.of(&new_values), quantile.of(&old_values)),
        // A value that was counted, and not one between two.
        false => (
            counted(&new_values, quantile),
            counted(&old_values, quantile),
        ),
    };
    let allow = |value: f64| match (regression.allowed, new.is_time()) {
        (Allowed::Percent(percent), _) => Some(value * (1.0 + percent / 100.0)),
        (Allowed::Microseconds(us), true) => Some(value + us),
        (Allowed::Number(number), false) => Some(value + number),
        _ => None,
    };
    let Some(limit) = allow(before) else {
        let wanted = if new.is_time() {
            "5% or 1ms"
        } else {
            "0 or 5%"
        };
        return verdict(false, format!("{name} needs an allowance as {wanted}"));
    };
    let change = format!(
        "{name} {quantile}: {} -> {}{}",
        new.shown(before),
        new.shown(now),
        percent(before, now)
    );
    if now <= limit {
        return verdict(true, change);
    }
    if !new.is_time() {
        return verdict(false, change + &grown_counts(name, report, base));
    }
    let allowed: Vec<_> = old_values
        .iter()
        .filter_map(|value| allow(*value))
        .collect();
    let p = significance::p_value(&new_values, &allowed, quantile);
    if p > ALPHA {
        let found = format!("{change}, which noise alone explains (p = {p:.3})");
        return verdict(true, found);
    }
    let part = if is_part(name) {
        String::new()
    } else {
        grown_part(report, base)
    };
    verdict(false, format!("{change} ({}){part}", short(p)))
}

/// Refuses, before anything is run, a comparison that so few runs can't decide.
pub fn check_runs(
    regression: &Regression,
    report: &Report,
    runs: u32,
    base: &Report,
) -> Result<(), CliError> {
    let name = name(&regression.subject, report);
    let Some(series) = base.phase(name) else {
        return Ok(());
    };
    let quantile = regression.subject.quantile.unwrap_or(Quantile::MEDIAN);
    let (new, old) = (runs as usize, series.values.len());
    significance::enough(new, old, quantile).map_err(|needed| {
        let remedy = match needed {
            Some(runs) => format!("give --runs {runs}, or make the baseline anew with more"),
            None => "make the baseline anew with more runs".to_owned(),
        };
        CliError::usage(format!(
            "{}: {quantile} can't be told from noise with {new} runs and a baseline of {old}; {remedy}",
            regression.text
        ))
    })
}

/// The quantile as one of the values.
fn counted(sorted: &[f64], quantile: Quantile) -> f64 {
    let place = (quantile.part() * sorted.len() as f64).ceil() as usize;
    sorted[place.clamp(1, sorted.len()) - 1]
}

fn short(p: f64) -> String {
    match p < 0.0001 {
        true => "p under 0.0001".to_owned(),
        false => format!("p = {p:.4}"),
    }
}

fn percent(before: f64, now: f64) -> String {
    match before > 0.0 {
        true => format!(", {:+.1} %", (now / before - 1.0) * 100.0),
        false => String::new(),
    }
}

fn median(series: &Series) -> f64 {
    Quantile::MEDIAN.of(&sorted(&series.values))
}

/// Which part takes the longest.
fn largest_part(report: &Report) -> String {
    let parts = report.phases.iter().filter(|series| is_part(&series.name));
    let largest = parts.max_by(|a, b| median(a).total_cmp(&median(b)));
    largest.map_or_else(String::new, |part| {
        format!(
            "; the largest part is {}, {} ms at p50",
            part.name,
            ms(median(part))
        )
    })
}

/// Which part has grown the most.
fn grown_part(report: &Report, base: &Report) -> String {
    let parts = report.phases.iter().filter(|series| is_part(&series.name));
    let growth = parts.map(|part| {
        let before = base.phase(&part.name).map_or(0.0, median);
        (part.name.as_str(), before, median(part))
    });
    let most = growth.max_by(|a, b| (a.2 - a.1).total_cmp(&(b.2 - b.1)));
    match most {
        Some((name, before, now)) if now > before => format!(
            "; what grew most is {name}: {} -> {} ms at p50",
            ms(before),
            ms(now)
        ),
        _ => String::new(),
    }
}

/// Which counts below this one have grown: of exits, the devices and reasons.
fn grown_counts(name: &str, report: &Report, base: &Report) -> String {
    let below = format!("{name}.");
    let usual = |series: Option<&Series>| {
        series.map_or(0.0, |series| {
            counted(&sorted(&series.values), Quantile::MEDIAN)
        })
    };
    let parts = report
        .counts
        .iter()
        .filter(|series| series.name.starts_with(&below));
    let growth = parts.filter_map(|part| {
        let (before, now) = (usual(base.count(&part.name)), usual(Some(part)));
        (now > before).then(|| format!("{} {before} -> {now}", part.name))
    });
    let growth: Vec<_> = growth.collect();
    match growth.is_empty() {
        true => String::new(),
        false => format!("; of them {}", growth.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate;
    use super::super::report::tests::report;
    use super::*;

    /// Boots of some milliseconds, with a little noise that is the same each time.
    fn boots(count: u64, us: u64) -> Vec<u64> {
        (0..count).map(|n| us + n * 7919 % 1000).collect()
    }

    fn of(load: u64, boot: u64, exits: u64) -> Report {
        report(&vec![load; 40], &boots(40, boot), &vec![exits; 40])
    }

    fn within(text: &str, report: &Report) -> Verdict {
        budget(&gate::budget(text).unwrap(), report)
    }

    fn against(text: &str, report: &Report, base: &Report) -> Verdict {
        regression(&gate::regression(text).unwrap(), report, base)
    }

    #[test]
    fn a_budget_is_kept_or_the_largest_part_is_named() {
        let report = of(5000, 40_000, 42);
        for text in [
            "p95=50ms",
            "kernel-load=5ms",
            "exits=42",
            "exits.virtio-blk=21",
            "exits.rng=0",
        ] {
            assert!(within(text, &report).passed, "{text}");
        }
        let late = within("p95=40ms", &report);
        assert!(!late.passed);
        assert!(
            late.found.starts_with("exec-to-init p95 is 40."),
            "{}",
            late.found
        );
        assert!(
            late.found.contains("largest part is first-run-to-init"),
            "{}",
            late.found
        );
        let exits = within("exits=41", &report);
        assert_eq!(
            (exits.passed, exits.found.as_str()),
            (false, "exits max is 42, 41 allowed")
        );
        for text in ["exits=5ms", "kernel-load.p50=5", "syscalls=100"] {
            assert!(!within(text, &report).passed, "{text}");
        }
    }

    #[test]
    fn the_same_again_passes() {
        let report = of(5000, 40_000, 42);
        for text in [
            "p50=0%",
            "p90=0%",
            "kernel-load.p50=0%",
            "exits=0",
            "p50=0us",
        ] {
            let verdict = against(text, &report, &report);
            assert!(verdict.passed, "{verdict:?}");
        }
    }

    #[test]
    fn the_phase_that_grew_is_named() {
        let (base, slow) = (of(5000, 40_000, 42), of(12_000, 47_000, 42));
        let verdict = against("p50=5%", &slow, &base);
        assert!(!verdict.passed);
        for part in [
            "exec-to-init p50",
            "+17.",
            "grew most is kernel-load: 5.000 -> 12.00 ms",
        ] {
            assert!(verdict.found.contains(part), "{part}: {}", verdict.found);
        }
        assert!(
            against("p50=20%", &slow, &base).passed,
            "that much was allowed"
        );
        assert!(
            against("p50=8ms", &slow, &base).passed,
            "that much was allowed"
        );
        assert!(
            against("p50=5%", &base, &slow).passed,
            "faster is never wrong"
        );
    }

    #[test]
    fn noise_is_not_a_regression() {
        // The median is 6 % higher, but each sample spreads over all of the other.
        let wide =
            |shift: u64| -> Vec<u64> { (0..20).map(|n| 30_000 + shift + n * 2000).collect() };
        let base = report(&[5000; 20], &wide(0), &[42; 20]);
        let new = report(&[5000; 20], &wide(3000), &[42; 20]);
        let verdict = against("p50=5%", &new, &base);
        assert!(
            verdict.passed && verdict.found.contains("noise alone"),
            "{verdict:?}"
        );
    }

    #[test]
    fn too_few_runs_are_refused_beforehand() {
        let base = of(5000, 40_000, 42);
        let check = |text: &str, runs| {
            let regression = gate::regression(text).unwrap();
            check_runs(&regression, &base, runs, &base).map_err(|e| e.to_string())
        };
        assert_eq!(check("p50=5%", 20), Ok(()));
        assert_eq!(check("exits=0", 1), Ok(()), "counts are exact");
        let error = check("p95=5%", 20).unwrap_err();
        assert!(error.contains("20 runs and a baseline of 40"), "{error}");
        assert!(check("p50=5%", 2).unwrap_err().contains("--runs"));
    }

    #[test]
    fn counts_are_compared_exactly_and_the_device_is_named() {
        let (base, more) = (of(5000, 40_000, 42), of(5000, 40_000, 44));
        let verdict = against("exits=0", &more, &base);
        assert!(!verdict.passed);
        assert_eq!(
            verdict.found,
            "exits p50: 42 -> 44, +4.8 %; of them exits.virtio-blk 21 -> 22"
        );
        assert!(against("exits=2", &more, &base).passed);
        assert!(against("exits=5%", &more, &base).passed);
        assert!(against("exits=0", &base, &more).passed);
        // One run that went another way is not a change.
        let mut stray = vec![42; 40];
        stray[7] = 43;
        let stray = report(&[5000; 40], &boots(40, 40_000), &stray);
        assert!(against("exits=0", &stray, &base).passed);
    }
}
