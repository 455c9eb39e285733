//! Samples as Prometheus reads them (exposition formats, text format version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::{BUCKETS, Histogram};

/// Samples by the name of their metric, since all of one name must stand together.
#[derive(Debug, Default)]
pub struct Samples {
    metrics: BTreeMap<&'static str, Metric>,
}

#[derive(Debug)]
struct Metric {
    kind: &'static str,
    help: &'static str,
    lines: String,
}

/// Labels of a sample: names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Samples {
    /// A number that only grows; by convention its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        let lines = self.lines(name, "counter", help);
        line(lines, name, labels, None, value);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: Labels, value: f64) {
        let lines = self.lines(name, "gauge", help);
        line(lines, name, labels, None, value);
    }

    /// Times; by convention the name ends in `_seconds`.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels,
        value: &Histogram,
    ) {
        let counts = value.counts();
        let buckets = counts.into_iter().enumerate().map(|(index, count)| {
            let bound = match index {
                BUCKETS => f64::INFINITY,
                _ => (1u64 << index) as f64 / 1e6,
            };
            (bound, count)
        });
        self.buckets(name, help, labels, buckets, value.sum().as_secs_f64());
    }

    /// A histogram that somebody else counts, as of [`Samples::histogram`]: the buckets' upper
    /// bounds, the last of them infinite, with what each has alone, and the sum of all values.
    pub fn buckets(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels,
        buckets: impl Iterator<Item = (f64, u64)>,
        sum: f64,
    ) {
        let lines = self.lines(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        for (bound, more) in buckets {
            count += more;
            let bound = match bound.is_finite() {
                true => bound.to_string(),
                false => "+Inf".to_owned(),
            };
            line(lines, &bucket, labels, Some(&bound), count);
        }
        line(lines, &format!("{name}_sum"), labels, None, sum);
        line(lines, &format!("{name}_count"), labels, None, count);
    }

    fn lines(&mut self, name: &'static str, kind: &'static str, help: &'static str) -> &mut String {
        let metric = self.metrics.entry(name).or_insert(Metric {
            kind,
            help,
            lines: String::new(),
        });
        debug_assert_eq!(metric.kind, kind, "{name}");
        &mut metric.lines
    }
}

fn line(
    lines: &mut String,
    name: &str,
    labels: Labels,
    le: Option<&str>,
    value: impl fmt::Display,
) {
    lines.push_str(name);
    let mut opened = false;
    for (key, text) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
        let _ = write!(lines, "{}{key}=\"", if opened { ',' } else { '{' });
        opened = true;
        for c in text.chars() {
            match c {
                '\\' => lines.push_str("\\\\"),
                '"' => lines.push_str("\\\""),
                '\n' => lines.push_str("\\n"),
                c => lines.push(c),
            }
        }
        lines.push('"');
    }
    let _ = writeln!(lines, "{} {value}", if opened { "}" } else { "" });
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Metric { kind, help, lines }) in &self.metrics {
            write!(f, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn samples_of_a_name_stand_together() {
        let mut samples = Samples::default();
        let histogram = Histogram::new();
        histogram.record(Duration::from_micros(3));
        samples.counter("mote_b_total", "Bs.", &[("device", "a\"\\\n")], 3);
        samples.gauge("mote_a", "As.", &[], 1.5);
        samples.counter("mote_b_total", "Bs.", &[("device", "c"), ("op", "x")], 4);
        samples.histogram("mote_c_seconds", "Cs.", &[("device", "c")], &histogram);
        let text = samples.to_string();
        let expected = "# HELP mote_a As.\n# TYPE mote_a gauge\nmote_a 1.5\n\
            # HELP mote_b_total Bs.\n# TYPE mote_b_total counter\n\
            mote_b_total{device=\"a\\\"\\\\\\n\"} 3\n\
            mote_b_total{device=\"c\",op=\"x\"} 4\n\
            # HELP mote_c_seconds Cs.\n# TYPE mote_c_seconds histogram\n\
            mote_c_seconds_bucket{device=\"c\",le=\"0.000001\"} 0\n\
            mote_c_seconds_bucket{device=\"c\",le=\"0.000002\"} 0\n\
            mote_c_seconds_bucket{device=\"c\",le=\"0.000004\"} 1\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with(
            "mote_c_seconds_bucket{device=\"c\",le=\"+Inf\"} 1\n\
             mote_c_seconds_sum{device=\"c\"} 0.000003\nmote_c_seconds_count{device=\"c\"} 1\n"
        ));
    }
}
