//! Gates: what `--budget` and `--max-regression` ask for, as they are written.

use serde::{Deserialize, Serialize};

use super::quantile::Quantile;
use super::samples::{SEEN, Sample};
use crate::cli::CliError;
use crate::cli::bench::units;

/// What a gate came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// As the user wrote it.
    pub gate: String,
    pub passed: bool,
    /// The figures, and what grew.
    pub found: String,
}

/// A figure: a phase or a count, and which quantile of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// `None` is the whole boot.
    pub name: Option<String>,
    pub quantile: Option<Quantile>,
}

/// `--budget`: a figure and its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    pub text: String,
    pub subject: Subject,
    pub limit: Limit,
}

/// `--max-regression`: a figure, and by how much it may be worse than the baseline's.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    pub text: String,
    pub subject: Subject,
    pub allowed: Allowed,
}

/// The greatest value that is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    Microseconds(f64),
    Number(f64),
}

/// How much more is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    Percent(f64),
    Microseconds(f64),
    Number(f64),
}

impl Limit {
    /// Whether it is a time.
    pub fn says_time(self) -> Option<bool> {
        Some(matches!(self, Limit::Microseconds(_)))
    }
}

impl Allowed {
    /// Whether it is a time; a part of something is neither.
    pub fn says_time(self) -> Option<bool> {
        match self {
            Allowed::Percent(_) => None,
            Allowed::Microseconds(_) => Some(true),
            Allowed::Number(_) => Some(false),
        }
    }
}

/// mote's median by the other monitor's: a figure of `--vs`.
pub const RATIO: &str = "ratio";

impl Subject {
    fn parse(text: &str) -> Option<Self> {
        if let Some(quantile) = Quantile::parse(text) {
            return Some(Subject {
                name: None,
                quantile: Some(quantile),
            });
        }
        let parts = [".p", ".min", ".max"].into_iter().find_map(|mark| {
            let (name, rest) = text.split_at(text.rfind(mark)?);
            Some((name, Quantile::parse(&rest[1..])?))
        });
        let (name, quantile) = match parts {
            Some((name, quantile)) => (name, Some(quantile)),
            None => (text, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        (!name.is_empty() && name.chars().all(plain)).then(|| Subject {
            name: Some(name.to_owned()),
            quantile,
        })
    }
}

/// Reads `[PHASE.]QUANTILE=TIME`, or `COUNT=NUMBER`.
pub fn budget(text: &str) -> Result<Budget, String> {
    let limit = |value: &str| {
        let time = units::microseconds(value).map(Limit::Microseconds);
        time.or_else(|| units::number(value).map(Limit::Number))
    };
    let parts = text.split_once('=');
    let parts = parts.and_then(|(subject, value)| Some((Subject::parse(subject)?, limit(value)?)));
    let (subject, limit) = parts.ok_or(
        "must be [PHASE.]QUANTILE=TIME as p95=50ms or kernel-load.p50=5ms, COUNT=NUMBER as exits=60, \
         or ratio=NUMBER",
    )?;
    if matches!((&limit, &subject.name), (Limit::Number(_), None)) {
        return Err("needs a unit: us, ms or s".to_owned());
    }
    Ok(Budget {
        text: format!("--budget {text}"),
        subject,
        limit,
    })
}

/// Reads `[PHASE.]QUANTILE=PERCENT%`, `...=TIME`, or `COUNT=NUMBER`.
pub fn regression(text: &str) -> Result<Regression, String> {
    let allowed = |value: &str| match value.strip_suffix('%') {
        Some(percent) => units::number(percent).map(Allowed::Percent),
        None => {
            let time = units::microseconds(value).map(Allowed::Microseconds);
            time.or_else(|| units::number(value).map(Allowed::Number))
        }
    };
    let parts = text.split_once('=');
    let parts =
        parts.and_then(|(subject, value)| Some((Subject::parse(subject)?, allowed(value)?)));
    let (subject, allowed) = parts.ok_or(
        "must be [PHASE.]QUANTILE=PERCENT% as p50=5% or kernel-load.p50=10%, or COUNT=NUMBER as exits=0",
    )?;
    if matches!((&allowed, &subject.name), (Allowed::Number(_), None)) {
        return Err("needs a unit: %, us, ms or s".to_owned());
    }
    if subject
        .quantile
        .is_some_and(|quantile| !quantile.is_inner())
    {
        return Err("min and max are noise, which can't be compared; take p1 to p99".to_owned());
    }
    Ok(Regression {
        text: format!("--max-regression {text}"),
        subject,
        allowed,
    })
}

/// Refuses a limit of time for a count, and a number for a time; `sample` is one run.
/// `says_time`: whether the limit is one, where it isn't a part of something.
pub fn check_unit(
    text: &str,
    subject: &Subject,
    says_time: Option<bool>,
    sample: &Sample,
) -> Result<(), CliError> {
    let Some(name) = &subject.name else {
        return Ok(());
    };
    let is_time = name == SEEN || sample.phase(name).is_some();
    let wanted = match (is_time, says_time) {
        (true, Some(false)) => "a time, as 5ms",
        (false, Some(true)) => "a number",
        _ => return Ok(()),
    };
    Err(CliError::usage(format!("{text}: {name} needs {wanted}")))
}

/// Refuses a gate on a figure that doesn't exist; `sample` is one run.
pub fn check_name(
    text: &str,
    subject: &Subject,
    sample: &Sample,
    vs: bool,
) -> Result<(), CliError> {
    let Some(name) = &subject.name else {
        return Ok(());
    };
    let known = match name.as_str() {
        RATIO | SEEN => vs,
        // Of a device that this guest hasn't used, or counted apart from the runs.
        _ if name.contains("exits.") || name == "syscalls" => true,
        _ => sample.names().any(|found| found == name),
    };
    if known {
        return Ok(());
    }
    let names: Vec<_> = sample
        .names()
        .filter(|name| !name.contains("exits."))
        .collect();
    let names = names.join(", ");
    let needs = match name.as_str() {
        RATIO | SEEN => " without --vs".to_owned(),
        _ => format!("; there are {names}, syscalls, and exits.DEVICE"),
    };
    Err(CliError::usage(format!(
        "{text}: there is no {name}{needs}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: Option<&str>, quantile: Option<&str>) -> Subject {
        Subject {
            name: name.map(str::to_owned),
            quantile: quantile.map(|text| Quantile::parse(text).unwrap()),
        }
    }

    #[test]
    fn a_budget_is_of_the_boot_a_phase_or_a_count() {
        for (text, expected, limit) in [
            (
                "p95=50ms",
                subject(None, Some("p95")),
                Limit::Microseconds(50_000.0),
            ),
            (
                "kernel-load.p50=5ms",
                subject(Some("kernel-load"), Some("p50")),
                Limit::Microseconds(5000.0),
            ),
            (
                "exits=60",
                subject(Some("exits"), None),
                Limit::Number(60.0),
            ),
            (
                "exits.virtio-blk=20",
                subject(Some("exits.virtio-blk"), None),
                Limit::Number(20.0),
            ),
            (
                "faults.max=900",
                subject(Some("faults"), Some("max")),
                Limit::Number(900.0),
            ),
            (
                "memory.p99.9=1ms",
                subject(Some("memory"), Some("p99.9")),
                Limit::Microseconds(1000.0),
            ),
            (
                "ratio=0.8",
                subject(Some("ratio"), None),
                Limit::Number(0.8),
            ),
        ] {
            let budget = budget(text).unwrap();
            assert_eq!((budget.subject, budget.limit), (expected, limit), "{text}");
        }
    }

    #[test]
    fn what_makes_no_gate_is_refused() {
        for text in [
            "", "p95", "p95=", "=5ms", "p95=50", "p95=fast", "p95=-5ms", "a b=5", "p95=5%",
        ] {
            assert!(budget(text).is_err(), "{text}");
        }
        for text in [
            "",
            "p50",
            "p50=5",
            "p50=x%",
            "max=5%",
            "memory.min=5%",
            "p50=-5%",
            "exits=",
        ] {
            assert!(regression(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_regression_is_in_percent_in_time_or_in_number() {
        assert_eq!(regression("p50=5%").unwrap().allowed, Allowed::Percent(5.0));
        assert_eq!(
            regression("p50=1ms").unwrap().allowed,
            Allowed::Microseconds(1000.0)
        );
        let exits = regression("exits=0").unwrap();
        assert_eq!(
            (exits.allowed, exits.text.as_str()),
            (Allowed::Number(0.0), "--max-regression exits=0")
        );
    }

    #[test]
    fn a_figure_that_does_not_exist_is_named_with_those_that_do() {
        let sample = Sample {
            phases: vec![("kernel-load".to_owned(), 1)],
            counts: vec![("exits".to_owned(), 1)],
        };
        let check = |text: &str, vs| {
            let budget = budget(text).unwrap();
            check_name(&budget.text, &budget.subject, &sample, vs)?;
            let says_time = budget.limit.says_time();
            check_unit(&budget.text, &budget.subject, says_time, &sample)
        };
        assert!(check("p50=1ms", false).is_ok() && check("exits.rng=5", false).is_ok());
        assert!(check("kernel-load.p50=1ms", false).is_ok() && check("ratio=1", true).is_ok());
        let error = check("kernel-lood.p50=1ms", false).unwrap_err().to_string();
        assert!(
            error.contains("no kernel-lood; there are kernel-load, exits, "),
            "{error}"
        );
        for (text, expected) in [
            ("exits=5ms", "exits needs a number"),
            ("kernel-load=5", "kernel-load needs a time"),
            ("ratio=5ms", "ratio needs a number"),
        ] {
            let error = check(text, true).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = check("ratio=1", false).unwrap_err().to_string();
        assert!(error.contains("--vs"), "{error}");
    }
}
