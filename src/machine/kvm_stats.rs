//! KVM's own counts of a VM: for the report, and as metrics. Asked only when somebody reads them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::halts::Halts;
use crate::kvm::{self, Statistic, StatisticKind, Statistics, StatisticsError};
use crate::metrics::{Samples, Source};

/// What KVM has counted so far, by KVM's names (Linux arch/*/include/asm/kvm_host.h).
#[derive(Clone, Debug, Serialize)]
pub struct KvmReport {
    /// Of the halts of all vCPUs.
    pub halts: Halts,
    /// Of the VM.
    pub vm: BTreeMap<String, Values>,
    /// Of each vCPU.
    pub vcpus: Vec<BTreeMap<String, Values>>,
}

/// One number, or those of a histogram's buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// One number.
    One(u64),
    /// The buckets' counts.
    Buckets(Vec<u64>),
}

fn by_name(statistics: &[Statistic]) -> BTreeMap<String, Values> {
    let value = |statistic: &Statistic| match statistic.values.as_slice() {
        [value] => Values::One(*value),
        values => Values::Buckets(values.to_vec()),
    };
    let named = |statistic: &Statistic| (statistic.name.clone(), value(statistic));
    statistics.iter().map(named).collect()
}

/// The name of the reason in KVM's name for a count of exits.
fn reason(name: &str) -> Option<&str> {
    match name {
        // AArch64's, by who answers.
        "mmio_exit_user" => Some("mmio_user"),
        "mmio_exit_kernel" => Some("mmio_kernel"),
        _ => name
            .strip_suffix("_exits")
            .or_else(|| name.strip_suffix("_exit_stat")),
    }
}

impl KvmReport {
    /// Asks KVM. No vCPU may be running.
    pub(super) fn now(fd: &kvm::Vm, vcpus: &[kvm::Vcpu]) -> Result<Self, StatisticsError> {
        let vm = fd.statistics()?.read()?;
        let vcpus = vcpus.iter().map(|vcpu| vcpu.statistics()?.read());
        let vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
        let halts = vcpus.iter().map(|statistics| Halts::of(statistics));
        Ok(KvmReport {
            halts: halts.fold(Halts::default(), Halts::plus),
            vm: by_name(&vm),
            vcpus: vcpus.iter().map(|statistics| by_name(statistics)).collect(),
        })
    }

    /// All vCPUs' counts of exits together, the most frequent first.
    fn exits(&self) -> (u64, Vec<(&str, u64)>) {
        let mut total = 0;
        let mut by_reason = BTreeMap::new();
        for (name, value) in self.vcpus.iter().flatten() {
            match (value, reason(name)) {
                (Values::One(count), None) if name == "exits" => total += count,
                (Values::One(count), Some(reason)) => {
                    *by_reason.entry(reason).or_insert(0) += count
                }
                _ => {}
            }
        }
        let mut by_reason: Vec<_> = by_reason.into_iter().filter(|(_, n)| *n > 0).collect();
        by_reason.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        (total, by_reason)
    }
}

impl fmt::Display for KvmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, by_reason) = self.exits();
        write!(f, "  exits to KVM until the end: {total}")?;
        for (index, (reason, count)) in by_reason.iter().enumerate() {
            let start = if index == 0 { " (of them " } else { ", " };
            write!(f, "{start}{} {count}", reason.replace('_', " "))?;
        }
        writeln!(f, "{}", if by_reason.is_empty() { "" } else { ")" })?;
        writeln!(f, "  {}", self.halts)
    }
}

/// The same as metrics, while the VM runs.
pub(super) struct KvmSource {
    vm: Statistics,
    vcpus: Vec<Statistics>,
}

impl KvmSource {
    /// To be made before the vCPUs run.
    pub(super) fn new(fd: &kvm::Vm, vcpus: &[kvm::Vcpu]) -> Result<Self, StatisticsError> {
        let vcpus = vcpus.iter().map(kvm::Vcpu::statistics);
        Ok(KvmSource {
            vm: fd.statistics()?,
            vcpus: vcpus.collect::<Result<_, _>>()?,
        })
    }
}

impl Source for KvmSource {
    fn collect(&self, samples: &mut Samples) {
        let read = |statistics: &Statistics| {
            let failed = |e| log::debug!("metrics of KVM: {e}");
            statistics.read().map_err(failed).unwrap_or_default()
        };
        let vcpus: Vec<_> = self.vcpus.iter().map(read).collect();
        collect(&read(&self.vm), &vcpus, samples);
    }
}

/// Names of metrics stay as they are, whatever KVM calls a statistic: those that mean something
/// for users are named here, and what else grows is an event by KVM's name for it.
fn collect(vm: &[Statistic], vcpus: &[Vec<Statistic>], samples: &mut Samples) {
    for (index, statistics) in vcpus.iter().enumerate() {
        let vcpu = index.to_string();
        for statistic in statistics {
            if let (StatisticKind::Cumulative, [value]) = (statistic.kind, &*statistic.values) {
                vcpu_counter(&statistic.name, &vcpu, *value, samples);
            }
        }
        halts(&vcpu, Halts::of(statistics), samples);
    }
    asleep(vcpus, samples);
    for statistic in vm {
        let [value] = *statistic.values else { continue };
        let name = statistic.name.as_str();
        match (statistic.kind, name.strip_prefix("pages_")) {
            (StatisticKind::Instant, Some(size)) => samples.gauge(
                "mote_kvm_mapped_pages",
                "Pages by which KVM maps the guest's memory.",
                &[("size", size)],
                value as f64,
            ),
            (StatisticKind::Cumulative, _) => samples.counter(
                "mote_kvm_vm_events_total",
                "What else KVM counts of the VM, by KVM's name for it.",
                &[("event", name)],
                value,
            ),
            _ => {}
        }
    }
}

fn vcpu_counter(name: &str, vcpu: &str, value: u64, samples: &mut Samples) {
    match (name, reason(name)) {
        ("exits", _) => samples.counter(
            "mote_kvm_exits_total",
            "Exits of a vCPU from the guest, those that KVM answers included.",
            &[("vcpu", vcpu)],
            value,
        ),
        (_, Some(reason)) => samples.counter(
            "mote_kvm_exits_by_reason_total",
            "Exits of a vCPU for the reasons that KVM counts; the rest has none.",
            &[("vcpu", vcpu), ("reason", reason)],
            value,
        ),
        // Told by `halts`.
        _ if name.starts_with("halt_") && name != "halt_wakeup" => {}
        _ => samples.counter(
            "mote_kvm_vcpu_events_total",
            "What else KVM counts of a vCPU, by KVM's name for it.",
            &[("vcpu", vcpu), ("event", name)],
            value,
        ),
    }
}

fn halts(vcpu: &str, halts: Halts, samples: &mut Samples) {
    let vain = halts.polls.saturating_sub(halts.polls_in_time);
    for (result, polls, ns) in [
        ("in_time", halts.polls_in_time, halts.polled_in_time_ns),
        ("in_vain", vain, halts.polled_in_vain_ns),
    ] {
        samples.counter(
            "mote_kvm_halt_polls_total",
            "How often KVM polled for a halted vCPU's wake-up.",
            &[("vcpu", vcpu), ("result", result)],
            polls,
        );
        samples.counter(
            "mote_kvm_halt_poll_nanoseconds_total",
            "How long KVM polled for a halted vCPU's wake-up.",
            &[("vcpu", vcpu), ("result", result)],
            ns,
        );
    }
}

/// How long the threads of halted vCPUs slept, of all vCPUs together: bucket 0 is 0 ns, and bucket
/// i from 2^(i-1) to 2^i - 1.
fn asleep(vcpus: &[Vec<Statistic>], samples: &mut Samples) {
    let mut buckets: Vec<u64> = Vec::new();
    for statistic in vcpus.iter().flatten() {
        if statistic.name == "halt_wait_hist" && statistic.kind == StatisticKind::LogHistogram {
            buckets.resize(buckets.len().max(statistic.values.len()), 0);
            let both = buckets.iter_mut().zip(&statistic.values);
            both.for_each(|(sum, count)| *sum += count);
        }
    }
    if buckets.is_empty() {
        return;
    }
    let slept: u64 = vcpus.iter().map(|vcpu| Halts::of(vcpu).slept_ns).sum();
    let last = buckets.len() - 1;
    let counts = buckets.iter().enumerate().map(|(index, count)| {
        let bound = 2f64.powi(index as i32) / 1e9;
        (if index == last { f64::INFINITY } else { bound }, *count)
    });
    samples.buckets(
        "mote_kvm_halt_sleep_seconds",
        "How long the thread of a halted vCPU slept.",
        &[],
        counts,
        slept as f64 / 1e9,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, kind: StatisticKind, values: &[u64]) -> Statistic {
        Statistic {
            name: name.to_owned(),
            kind,
            values: values.to_vec(),
        }
    }

    fn vcpu() -> Vec<Statistic> {
        let count = |name, value| one(name, StatisticKind::Cumulative, &[value]);
        vec![
            count("exits", 100),
            count("io_exits", 7),
            count("halt_exits", 10),
            count("nmi_window_exits", 0),
            count("mmio_exit_user", 3),
            count("halt_attempted_poll", 6),
            count("halt_successful_poll", 4),
            count("halt_poll_fail_ns", 50_000),
            count("halt_wait_ns", 3000),
            count("irq_injections", 12),
            one("blocking", StatisticKind::Instant, &[1]),
            one("halt_wait_hist", StatisticKind::LogHistogram, &[0, 2, 1, 1]),
        ]
    }

    #[test]
    fn metrics_have_names_of_their_own() {
        let vm = [
            one("pages_2m", StatisticKind::Instant, &[3]),
            one("max_mmu_rmap_size", StatisticKind::Peak, &[9]),
            one("remote_tlb_flush", StatisticKind::Cumulative, &[5]),
        ];
        let mut samples = Samples::default();
        collect(&vm, &[vcpu(), vcpu()], &mut samples);
        let text = samples.to_string();
        for line in [
            "mote_kvm_exits_total{vcpu=\"1\"} 100",
            "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"io\"} 7",
            "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"halt\"} 10",
            "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"mmio_user\"} 3",
            "mote_kvm_halt_polls_total{vcpu=\"0\",result=\"in_time\"} 4",
            "mote_kvm_halt_polls_total{vcpu=\"1\",result=\"in_vain\"} 2",
            "mote_kvm_halt_poll_nanoseconds_total{vcpu=\"0\",result=\"in_vain\"} 50000",
            "mote_kvm_vcpu_events_total{vcpu=\"0\",event=\"irq_injections\"} 12",
            "mote_kvm_halt_sleep_seconds_bucket{le=\"0.000000001\"} 0",
            "mote_kvm_halt_sleep_seconds_bucket{le=\"0.000000002\"} 4",
            "mote_kvm_halt_sleep_seconds_bucket{le=\"0.000000004\"} 6",
            "mote_kvm_halt_sleep_seconds_bucket{le=\"+Inf\"} 8",
            "mote_kvm_halt_sleep_seconds_sum 0.000006",
            "mote_kvm_halt_sleep_seconds_count 8",
            "mote_kvm_mapped_pages{size=\"2m\"} 3",
            "mote_kvm_vm_events_total{event=\"remote_tlb_flush\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            !text.contains("blocking") && !text.contains("rmap"),
            "{text}"
        );
        assert!(!text.contains("event=\"halt_"), "{text}");
    }

    #[test]
    fn the_report_sums_up_the_vcpus() {
        let vcpus = [vcpu(), vcpu()];
        let halts = vcpus.iter().map(|vcpu| Halts::of(vcpu));
        let report = KvmReport {
            halts: halts.fold(Halts::default(), Halts::plus),
            vm: by_name(&[]),
            vcpus: vcpus.iter().map(|vcpu| by_name(vcpu)).collect(),
        };
        let text = report.to_string();
        assert!(
            text.contains("exits to KVM until the end: 200 (of them halt 20, io 14, mmio user 6)"),
            "{text}"
        );
        assert!(text.contains("20 halts; polling: 8 of 12 polls"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["vcpus"][1]["irq_injections"], 12);
        assert_eq!(json["vcpus"][0]["halt_wait_hist"][1], 2);
        assert_eq!(json["halts"]["polled_in_vain_ns"], 100_000);
    }
}
