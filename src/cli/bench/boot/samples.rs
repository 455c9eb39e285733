//! What one run told (the JSON of `--timings`), and the series that many runs make.
//!
//! Phases and counts are taken from the report by the form of their names, so that a phase that is
//! added there is measured here, too.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::quantile::Summary;

/// Up to the guest's first instruction.
pub const FIRST_RUN: &str = "exec-to-first-run";
/// Up to init's signal.
pub const INIT: &str = "exec-to-init";
/// Up to a text on the console, by the monitor's own clock.
pub const MARKER: &str = "exec-to-marker";
/// The same, by the clock of whoever started the monitor.
pub const SEEN: &str = "spawn-to-marker";

/// Phases that are sums of others, or another measure of them.
const TOTALS: [&str; 5] = [FIRST_RUN, "exec-to-first-run-cpu", INIT, MARKER, SEEN];

/// Whether a phase is a part of the others' sum.
pub fn is_part(name: &str) -> bool {
    !TOTALS.contains(&name)
}

/// One run: times in microseconds, and counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub phases: Vec<(String, u64)>,
    pub counts: Vec<(String, u64)>,
}

/// The report's fields in their order, which a map of serde_json's doesn't keep.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Sample {
    /// Reads the report of `--timings json=`.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let Fields(fields) = serde_json::from_slice(json)?;
        let mut sample = Sample::default();
        let mut faults = 0;
        for (name, value) in &fields {
            match (name.strip_suffix("_us"), value) {
                (Some(phase), Value::Number(us)) => {
                    let us = us.as_u64().unwrap_or(0);
                    sample.phases.push((phase.replace('_', "-"), us));
                }
                (None, Value::Number(count)) => sample.count(name, count.as_u64()),
                (None, Value::Object(_)) if name == "exits" => sample.exits(value),
                (None, Value::Object(_)) if name == "kvm" => sample.kvm_exits(value),
                (None, Value::Object(usage)) if name == "process" => {
                    for (name, value) in usage {
                        match name.ends_with("_faults") {
                            true => faults += value.as_u64().unwrap_or(0),
                            false => sample.count(name, value.as_u64()),
                        }
                    }
                    sample.count("faults", Some(faults));
                }
                _ => {}
            }
        }
        sample.add_rests();
        Ok(sample)
    }

    /// How long a phase took.
    pub fn phase(&self, name: &str) -> Option<u64> {
        let phase = self.phases.iter().find(|(found, _)| found == name);
        phase.map(|(_, us)| *us)
    }

    /// Every name that a gate may have.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.phases.iter().chain(&self.counts);
        all.map(|(name, _)| name.as_str())
    }

    fn count(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.counts.push((name.replace(['_', ' '], "-"), value));
        }
    }

    fn exits(&mut self, exits: &Value) {
        self.count("exits", exits["total"].as_u64());
        for (reason, count) in exits["by_reason"].as_object().into_iter().flatten() {
            self.count(&format!("exits.{reason}"), count.as_u64());
        }
        for device in exits["by_device"].as_array().into_iter().flatten() {
            let of = |name| device[name].as_u64().unwrap_or(0);
            let (name, count) = (device["device"].as_str(), of("reads") + of("writes"));
            let name = format!("exits.{}", name.unwrap_or("?"));
            self.count(&name, Some(count));
        }
    }

    /// Exits to KVM itself, most of which it answers without the monitor: all vCPUs' together.
    fn kvm_exits(&mut self, kvm: &Value) {
        let vcpus = kvm["vcpus"].as_array().into_iter().flatten();
        for (name, count) in vcpus.flat_map(Value::as_object).flatten() {
            let reason = name.strip_suffix("_exits");
            let reason = reason.or_else(|| name.strip_suffix("_exit_stat"));
            let name = match reason {
                Some(reason) => format!("kvm-exits.{}", reason.replace('_', "-")),
                None if name == "exits" => "kvm-exits".to_owned(),
                None => continue,
            };
            let count = count.as_u64().unwrap_or(0);
            match self.counts.iter_mut().find(|(found, _)| *found == name) {
                Some((_, sum)) => *sum += count,
                None => self.counts.push((name, count)),
            }
        }
    }

    /// The parts that the report has no name for: up to the first KVM_RUN, and up to the marker.
    fn add_rests(&mut self) {
        let first_run = self.phase(FIRST_RUN);
        if let Some(total) = first_run {
            let named = self.phases.iter().take_while(|(name, _)| is_part(name));
            let named: u64 = named.map(|(_, us)| us).sum();
            let place = self.phases.iter().position(|(name, _)| name == FIRST_RUN);
            let threads = ("threads".to_owned(), total.saturating_sub(named));
            self.phases.insert(place.unwrap_or(0), threads);
        }
        if let Some(total) = self.phase(MARKER) {
            let (name, before) = match (self.phase(INIT), first_run) {
                (Some(init), _) => ("init-to-marker", init),
                (None, first_run) => ("first-run-to-marker", first_run.unwrap_or(0)),
            };
            let place = self.phases.iter().position(|(name, _)| name == MARKER);
            let rest = (name.to_owned(), total.saturating_sub(before));
            self.phases.insert(place.unwrap_or(0), rest);
        }
    }
}

/// One figure of all runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Series {
    pub name: String,
    pub values: Vec<u64>,
}

impl Series {
    pub fn summary(&self) -> Summary {
        Summary::of(&self.values)
    }

    /// Whether there was any of it.
    pub fn happened(&self) -> bool {
        self.values.iter().any(|value| *value > 0)
    }

    /// Whether all runs gave the same.
    pub fn is_constant(&self) -> bool {
        self.values.windows(2).all(|pair| pair[0] == pair[1])
    }
}

impl Serialize for Series {
    /// With what scripts want to know and needn't compute.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            name: &'a str,
            #[serde(flatten)]
            summary: Summary,
            values: &'a [u64],
        }
        let Series { name, values } = self;
        let summary = self.summary();
        Written {
            name,
            summary,
            values,
        }
        .serialize(serializer)
    }
}

/// A series for each name; a count that a run doesn't have is 0.
pub fn series<'a>(runs: impl Iterator<Item = &'a [(String, u64)]> + Clone) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for (name, _) in runs.clone().flatten() {
        if !all.iter().any(|series| series.name == *name) {
            let of = |run: &[(String, u64)]| {
                let found = run.iter().find(|(found, _)| found == name);
                found.map_or(0, |(_, value)| *value)
            };
            all.push(Series {
                name: name.clone(),
                values: runs.clone().map(of).collect(),
            });
        }
    }
    all
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const REPORT: &str = r#"{"exec_to_kvm_open_us": 100, "kernel_load_us": 5000, "vcpus_us": 300,
        "exec_to_first_run_us": 6000, "exec_to_first_run_cpu_us": 5500,
        "first_run_to_init_us": 40000, "exec_to_init_us": 46000,
        "exits": {"by_reason": {"mmio_write": 40, "pio_out": 2}, "total": 42,
                  "by_device": [{"device": "virtio-blk", "reads": 1, "writes": 19}]},
        "bytes_loaded": 10, "supported_cpuid_calls": 1,
        "process": {"minor_faults": 70, "major_faults": 2, "guest_kib": 5}}"#;

    #[test]
    fn a_report_is_read_with_whatever_phases_it_has() {
        let sample = Sample::read(REPORT.as_bytes()).unwrap();
        let names: Vec<_> = sample
            .phases
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            names[..5],
            [
                "exec-to-kvm-open",
                "kernel-load",
                "vcpus",
                "threads",
                FIRST_RUN
            ]
        );
        assert_eq!(sample.phase("threads"), Some(600));
        assert_eq!(sample.phase(INIT), Some(46_000));
        let count = |name: &str| {
            let found = sample.counts.iter().find(|(found, _)| found == name);
            found.map(|(_, count)| *count)
        };
        assert_eq!(count("exits"), Some(42));
        assert_eq!(count("exits.mmio-write"), Some(40));
        assert_eq!(count("exits.virtio-blk"), Some(20));
        assert_eq!(count("faults"), Some(72));
        assert_eq!(count("bytes-loaded"), Some(10));
    }

    #[test]
    fn the_parts_make_the_whole() {
        let report = REPORT.replace("\"exits\"", "\"exec_to_marker_us\": 50000, \"exits\"");
        let sample = Sample::read(report.as_bytes()).unwrap();
        let parts = sample.phases.iter().filter(|(name, _)| is_part(name));
        assert_eq!(parts.map(|(_, us)| us).sum::<u64>(), 50_000);
        // A guest that doesn't signal init has null there.
        let silent = report.replace("40000", "null").replace("46000", "null");
        let sample = Sample::read(silent.as_bytes()).unwrap();
        assert_eq!(sample.phase(INIT), None);
        assert_eq!(sample.phase("first-run-to-marker"), Some(44_000));
    }

    #[test]
    fn what_kvm_counts_is_added_up() {
        let report = r#"{"kvm": {"halts": {"polled": 5}, "vm": {"pages": 7}, "vcpus":
            [{"exits": 10, "halt_exits": 2, "halt_wait_hist": [1, 2]}, {"exits": 5, "halt_exits": 1}]}}"#;
        let sample = Sample::read(report.as_bytes()).unwrap();
        let expected = [("kvm-exits", 15), ("kvm-exits.halt", 3)];
        assert_eq!(
            sample.counts,
            expected.map(|(name, count)| (name.to_owned(), count))
        );
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for text in ["", "[]", "{\"a\":"] {
            assert!(Sample::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn runs_make_series() {
        let runs = [
            vec![("exits".to_owned(), 1)],
            vec![("exits".to_owned(), 2), ("exits.rng".to_owned(), 3)],
        ];
        let made = series(runs.iter().map(Vec::as_slice));
        assert_eq!(made[0].values, [1, 2]);
        assert_eq!(
            (made[1].name.as_str(), &made[1].values[..]),
            ("exits.rng", &[0, 3][..])
        );
        assert!(!made[0].is_constant());
    }
}
