//! Tables for people, or JSON.

use serde_json::{Value, json};

use crate::emulated;
use crate::jobs::Job;
use crate::measure::{Cost, Figures};
use crate::monitors::{Contender, MEMORY_MIB};

/// How the figures are told.
pub struct Report {
    json: bool,
    rounds: usize,
    uncounted: Option<String>,
}

impl Report {
    /// Says what follows.
    pub fn begin(json: bool, rounds: usize, uncounted: Option<String>, all: &[Contender]) -> Self {
        if !json {
            let names: Vec<_> = all.iter().map(|contender| contender.name).collect();
            println!(
                "{}: 1 vCPU, {MEMORY_MIB} MiB, the same guest and commands, {rounds} rounds in turn.\n\
                 Each figure is for one request: (cost of many - cost of few) / (many - few), medians of the rounds.\n\
                 CPU: all threads of the monitor, the guest's own work included; \"not vCPU\": its other threads.\n\
                 exits: from the guest to KVM; \"to user\": of these, to the monitor; switches: a thread leaves the CPU.\n\
                 null: a hole of a file in memory; file: one in the host's page cache.",
                names.join(" | ")
            );
            if emulated() {
                println!(
                    "This machine is emulated: of the times only ratios within this run mean something."
                );
            }
            if let Some(why) = &uncounted {
                println!("NOT COUNTED, exits and system calls: {why}");
            }
        }
        Self {
            json,
            rounds,
            uncounted,
        }
    }

    /// Whether there are counts to show.
    pub fn counts(&self) -> bool {
        self.uncounted.is_none()
    }

    /// One job's figures, printed, or as JSON for [`end`](Self::end).
    pub fn job(
        &self,
        job: &Job,
        many: u64,
        all: &[Contender],
        figures: &[Figures],
    ) -> Option<Value> {
        let pairs: Vec<_> = all
            .iter()
            .map(|contender| contender.name)
            .zip(figures)
            .collect();
        if self.json {
            let monitors: Vec<_> = pairs.iter().map(as_json).collect();
            let name = job.name;
            return Some(
                json!({ "job": name, "unit": job.unit, "requests": many, "monitors": monitors }),
            );
        }
        println!("\n{} ({many} times: {})", job.name, job.unit);
        println!(
            "{:<24}{:>10}{:>10}{:>10}{:>9}{:>9}{:>10}{:>10}",
            "", "per s", "CPU us", "not vCPU", "exits", "to user", "sys calls", "switches"
        );
        pairs.iter().for_each(row);
        for (name, figures) in &pairs {
            if let Some(counts) = &figures.counts {
                let calls = counts.calls.iter().filter(|(_, count)| *count >= 0.01);
                let calls: Vec<_> = calls.map(|(call, n)| format!("{call} {n:.2}")).collect();
                println!("  system calls, {name}: {}", calls.join(", "));
            }
        }
        // mote, QEMU, mote, QEMU.
        for pair in pairs.chunks_exact(2).filter(|_| self.rounds > 0) {
            let [(name, one), (other_name, other)] = pair else {
                unreachable!()
            };
            let [low, middle, high] = ratios(one, other, |c| 1.0 / c.wall);
            let [cpu_low, cpu, cpu_high] = ratios(one, other, |c| c.cpu);
            println!(
                "  {name} / {other_name}: per s {middle:.2} ({low:.2} to {high:.2}), \
                 CPU {cpu:.2} ({cpu_low:.2} to {cpu_high:.2})"
            );
        }
        None
    }

    /// All that is left to say.
    pub fn end(self, jobs: Vec<Value>) {
        if self.json {
            let (rounds, uncounted) = (self.rounds, self.uncounted);
            let emulated = emulated();
            let all = json!({ "emulated": emulated, "rounds": rounds, "uncounted": uncounted, "jobs": jobs });
            println!("{all:#}");
        }
    }
}

fn row((name, figures): &(&str, &Figures)) {
    print!("{name:<24}");
    if figures.costs.is_empty() {
        print!("{:>10}{:>10}{:>10}", "-", "-", "-");
    } else {
        let (cpu, others) = (median(figures, |c| c.cpu), median(figures, |c| c.others));
        print!("{:>10.0}", 1e9 / median(figures, |c| c.wall));
        print!("{:>10.1}{:>10.1}", cpu / 1e3, others / 1e3);
    }
    if let Some(counts) = &figures.counts {
        print!("{:>9.2}{:>9.2}", counts.exits, counts.to_user);
        print!("{:>10.2}{:>10.2}", counts.system_calls, counts.switches);
    }
    println!();
}

fn as_json((name, figures): &(&str, &Figures)) -> Value {
    let counts = figures.counts.as_ref().map(|counts| {
        let calls = counts
            .calls
            .iter()
            .map(|(call, count)| ((*call).to_owned(), json!(count)));
        json!({
            "exits": counts.exits,
            "exits_to_user": counts.to_user,
            "system_calls": counts.system_calls,
            "context_switches": counts.switches,
            "calls": Value::Object(calls.collect()),
        })
    });
    let of = |of: fn(&Cost) -> f64| figures.costs.iter().map(of).collect::<Vec<_>>();
    json!({
        "monitor": name,
        "wall_ns": of(|c| c.wall),
        "cpu_ns": of(|c| c.cpu),
        "cpu_not_vcpu_ns": of(|c| c.others),
        "counts": counts,
    })
}

fn median(figures: &Figures, of: fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<_> = figures.costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of one to another, round by round: least, median, most.
fn ratios(one: &Figures, other: &Figures, of: fn(&Cost) -> f64) -> [f64; 3] {
    let pairs = one.costs.iter().zip(&other.costs);
    let mut ratios: Vec<_> = pairs.map(|(a, b)| of(a) / of(b)).collect();
    ratios.sort_by(f64::total_cmp);
    [
        ratios[0],
        ratios[ratios.len() / 2],
        ratios[ratios.len() - 1],
    ]
}
