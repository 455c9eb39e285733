//! The figures as text, for a terminal; and the words that all forms of the report share.

use std::fmt::Write;

use super::monitor::short_name;
use super::quantile::Summary;
use super::report::{Report, Versus};
use super::samples::{FIRST_RUN, INIT, MARKER, SEEN, Series};
use crate::cli::bench::units::{bytes, ms};

/// The whole report.
pub fn page(report: &Report) -> String {
    let mut page = format!("{}\n", title(report));
    for (what, value) in facts(report) {
        page += &format!("  {what:<10}{value}\n");
    }
    let shown = seen_phases(report).chain(seen_counts(report));
    let width = shown.map(|series| series.name.len());
    let width = width.max().unwrap_or(0).max(24);
    let mut table = |title: &str, rows: Vec<(String, [String; 5])>| {
        let _ = write!(page, "\n{title:<width$}  ", width = width + 2);
        Summary::NAMES.iter().for_each(|name| {
            let _ = write!(page, "{name:>10}");
        });
        page.push('\n');
        for (name, cells) in rows {
            let _ = write!(page, "  {name:<width$}  ");
            cells.iter().for_each(|cell| {
                let _ = write!(page, "{cell:>10}");
            });
            page.push('\n');
        }
    };
    let row = |series: &Series, cells: [String; 5]| (series.name.clone(), cells);
    let phases = seen_phases(report).map(|series| row(series, times(series)));
    table("times, ms", phases.collect());
    let counts = seen_counts(report).map(|series| row(series, numbers(series)));
    table("counts", counts.collect());
    if let Some(versus) = &report.versus {
        table(
            "from start to marker, ms",
            compared(report, versus).to_vec(),
        );
        page += &format!("  {}\n", ratio(versus));
    }
    if let Some(why) = &report.not_counted {
        page += &format!("\nSystem calls were not counted: {why}\n");
    }
    if !report.gates.is_empty() {
        page += "\ngates\n";
    }
    for gate in &report.gates {
        let word = if gate.passed { "ok  " } else { "FAIL" };
        page += &format!("  {word}  {}: {}\n", gate.gate, gate.found);
    }
    page
}

/// What was done.
pub fn title(report: &Report) -> String {
    let plan = &report.plan;
    let at_once = match plan.parallel {
        1 => String::new(),
        n => format!(", {n} at a time"),
    };
    format!(
        "mote {}: {} boots until {}, {} before them for warm-up{at_once}",
        report.mote, plan.runs, report.guest.until, plan.warmup
    )
}

/// Where and with what.
pub fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (host, config) = (&report.host, &report.guest.config);
    let cpus = match config["cpus"].as_u64() {
        Some(1) => "1 vCPU".to_owned(),
        n => format!("{} vCPUs", n.unwrap_or(0)),
    };
    let memory = &config["memory"];
    let memory = memory.as_str().or_else(|| memory["size"].as_str());
    let memory = memory.unwrap_or("?");
    let mut facts = vec![
        ("host", format!("{}, CPUs {}", host.cpu, host.cpus)),
        (
            "kernel",
            format!(
                "Linux {}, {}, governor {}",
                host.kernel, host.kvm, host.governor
            ),
        ),
        ("guest", format!("{cpus}, {memory}")),
    ];
    facts.extend(report.guest.images.iter().map(|image| {
        let role = match image.role.as_str() {
            "kernel" => "image",
            "initrd" => "initrd",
            _ => "rootfs",
        };
        let (size, hash) = (bytes(image.bytes), image.short_hash());
        (role, format!("{}, {size}, blake3 {hash}", image.path))
    }));
    facts
}

/// Phases that took any time.
pub fn seen_phases(report: &Report) -> impl Iterator<Item = &Series> {
    report.phases.iter().filter(|series| series.happened())
}

/// Counts of what happened at all.
pub fn seen_counts(report: &Report) -> impl Iterator<Item = &Series> {
    report.counts.iter().filter(|series| series.happened())
}

/// A series of times, in the columns of a summary.
pub fn times(series: &Series) -> [String; 5] {
    series.summary().columns().map(ms)
}

/// A series of counts.
pub fn numbers(series: &Series) -> [String; 5] {
    series.summary().columns().map(|value| match value.fract() {
        0.0 => format!("{value}"),
        _ => format!("{value:.1}"),
    })
}

/// Both monitors' times from start to marker.
pub fn compared(report: &Report, versus: &Versus) -> [(String, [String; 5]); 2] {
    let ours = report.phase(SEEN).map(times).unwrap_or_default();
    [
        ("mote".to_owned(), ours),
        (short_name(&versus.command), times(&versus.seen)),
    ]
}

/// How they compare.
pub fn ratio(versus: &Versus) -> String {
    let (low, high) = versus.interval;
    format!(
        "mote takes {:.3} times as long as {} at p50 (95 % interval {low:.3} to {high:.3})",
        versus.ratio,
        short_name(&versus.command)
    )
}

/// What a phase is, for who doesn't know its name.
pub fn meaning(name: &str) -> &'static str {
    match name {
        "exec-to-kvm-open" => "the process starts, /dev/kvm is opened",
        "create-vm" => "KVM_CREATE_VM (the host's part)",
        "memory" => "guest memory is reserved and registered",
        "prefault" => "waiting for guest memory to be there",
        "kernel-load" => "kernel and initrd are brought into guest memory",
        "irqchip" => "the interrupt controllers (the host's part)",
        "devices" => "devices are opened, boot tables written",
        "vcpus" => "vCPUs are made",
        "threads" => "threads are started; what no other part is",
        FIRST_RUN => "all of mote's part, to the first KVM_RUN",
        "exec-to-first-run-cpu" => "its CPU time",
        "first-run-to-init" => "the guest's kernel, to init's signal",
        "first-run-to-marker" => "the guest, to the text",
        "init-to-marker" => "from init's signal to the text",
        INIT => "the whole boot",
        MARKER => "the whole boot, to the text",
        SEEN => "from starting the process to reading the text",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::Verdict;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_page_has_figures_host_and_gates() {
        let mut report = report(&[5000, 6000], &[40_000, 50_000], &[42, 42]);
        report.not_counted = Some("ptrace isn't allowed".to_owned());
        report.gates = vec![Verdict {
            gate: "--budget p95=40ms".to_owned(),
            passed: false,
            found: "exec-to-init p95 is 49.50 ms".to_owned(),
        }];
        let page = page(&report);
        for part in [
            "2 boots until init",
            "host      ",
            "1 vCPU, 128M",
            "not counted: ptrace",
            "FAIL  --budget p95=40ms: exec-to-init p95 is 49.50 ms",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let line = page
            .lines()
            .find(|line| line.contains(" exec-to-init "))
            .unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            ["exec-to-init", "40.00", "45.00", "49.00", "49.90", "50.00"]
        );
    }
}
