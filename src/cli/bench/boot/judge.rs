//! Whether a report passes its gates, and if not, which phase or device it is.

use super::gate::{Allowed, Budget, Limit, RATIO, Regression, Subject, Verdict};
use super::quantile::{Quantile, sorted};
use super::report::Report;
use super::samples::{Series, is_part};
use super::significance::{self, ALPHA};
use crate::cli::CliError;
use crate::cli::bench::units::ms;

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
mod tests;
