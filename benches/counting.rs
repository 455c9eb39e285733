//! What counting costs a request: two readings of the clock, two counters and a histogram, which is
//! what a drive does for each.
//!
//!     cargo bench --bench counting
//!
//! Time is that of a loop; instructions are counted by valgrind and system calls by strace, each in
//! two runs of different length, whose difference is divided by the further requests.

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use motevm::metrics::{Counter, Histogram};

const TIMED: u64 = 10_000_000;
const FEW: u64 = 1_000;
const MANY: u64 = 101_000;

fn count(requests: u64, clock: bool) {
    let (requests_total, bytes, times) = (Counter::new(), Counter::new(), Histogram::new());
    let mut time = std::time::Duration::from_micros(20);
    for _ in 0..requests {
        let start = clock.then(Instant::now);
        black_box(&requests_total).inc();
        black_box(&bytes).add(black_box(4096));
        if let Some(start) = start {
            time = start.elapsed();
        }
        black_box(&times).record(black_box(time));
    }
}

fn time(clock: bool) -> f64 {
    let run = || {
        let start = Instant::now();
        count(TIMED, clock);
        start.elapsed().as_secs_f64() * 1e9 / TIMED as f64
    };
    (0..5).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Runs this program under another one; what that printed on standard error.
fn under(program: &[&str], requests: u64, more: &[&str]) -> Option<String> {
    let me = std::env::current_exe().ok()?;
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(me).arg("--count");
    let output = command.arg(requests.to_string()).args(more).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A number per request, from two runs.
fn per_request(
    program: &[&str],
    more: &[&str],
    number: impl Fn(&str) -> Option<u64>,
) -> Option<f64> {
    let run = |requests| number(&under(program, requests, more)?);
    let (few, many) = (run(FEW)?, run(MANY)?);
    Some((many as f64 - few as f64) / (MANY - FEW) as f64)
}

fn show(what: &str, value: Option<f64>) {
    match value {
        Some(value) => println!("{what:<52}{value:>8.2}"),
        None => println!("{what:<52}       -"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--count") {
        let requests = arguments.get(at + 1).and_then(|n| n.parse().ok());
        let clock = arguments.iter().any(|a| a == "--clock");
        return count(requests.unwrap_or(FEW), clock);
    }
    show("counting a request, ns", Some(time(true)));
    show("of that without reading the clock, ns", Some(time(false)));
    // "==1== Collected : 1234"
    let collected = |text: &str| {
        let line = text.lines().find(|line| line.contains("Collected"))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let callgrind = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
    ];
    show(
        "instructions, without reading the clock",
        per_request(&callgrind, &[], collected),
    );
    // The last line: "100.00 0.000123 3 45 6 total"
    let calls = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_end().ends_with("total"))?;
        line.split_whitespace().nth(3)?.parse().ok()
    };
    show(
        "system calls, the clock included",
        per_request(&["strace", "-f", "-c"], &["--clock"], calls),
    );
}
