//! From exec to the first KVM_RUN: mote beside a bare C program that makes the same ioctls and
//! reads the same kernel (floor.c), in turn, so that the machine's mood meets both alike.
//!
//!     cargo bench --bench launch [-- --runs 40]
//!
//! Times come from the programs themselves, by the same clocks; system calls from strace, where
//! it is installed. The kernel is 12 MiB of ELF whose guest resets at once, so that this runs on
//! any KVM.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::Code;

const KERNEL_SIZE: usize = 12 << 20;
const MEMORY_MIB: &str = "128";

/// Runs one of the programs once, with the files in a folder.
type Run = fn(&Path) -> Sample;

/// One run's figures, in microseconds.
#[derive(Clone, Copy)]
struct Sample {
    wall: u64,
    cpu: u64,
}

fn main() {
    let mut arguments = std::env::args()
        .skip_while(|argument| argument != "--runs")
        .skip(1);
    let runs: usize = arguments
        .next()
        .map_or(40, |runs| runs.parse().expect("--runs N"));
    if common::kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    std::fs::write(folder.join("kernel"), kernel()).expect("writing the kernel");
    std::fs::write(folder.join("disk"), vec![0; 1 << 20]).expect("writing the drive");
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(folder.join("floor"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/floor.c"))
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "cc could not build benches/floor.c"
    );

    let contenders: [(&str, Run); 3] = [
        ("floor, small pages", |folder| floor(folder, "small")),
        ("floor, huge pages", |folder| floor(folder, "thp")),
        ("mote (huge pages)", mote),
    ];
    let mut samples = vec![Vec::with_capacity(runs); contenders.len()];
    for _ in 0..runs + 2 {
        for (index, (_, run)) in contenders.iter().enumerate() {
            samples[index].push(run(folder));
        }
    }
    println!(
        "exec to first KVM_RUN, 1 vCPU, {MEMORY_MIB} MiB, 12 MiB kernel, {runs} runs each, in turn"
    );
    println!(
        "{:<22}{:>14}{:>14}{:>14}{:>14}",
        "", "CPU min ms", "CPU median", "wall min", "wall median"
    );
    let mut medians = Vec::new();
    for ((name, _), samples) in contenders.iter().zip(&samples) {
        let samples = &samples[2..]; // the first two warm the caches
        let cpu = sorted(samples, |s| s.cpu);
        let wall = sorted(samples, |s| s.wall);
        let figures = [cpu[0], cpu[runs / 2], wall[0], wall[runs / 2]];
        print!("{name:<22}");
        figures
            .iter()
            .for_each(|us| print!("{:>14.3}", *us as f64 / 1000.0));
        println!();
        medians.push(figures);
    }
    let ratio = |column: usize| medians[2][column] as f64 / medians[1][column] as f64;
    println!(
        "mote / floor with the same pages: CPU {:.2} (min) {:.2} (median), wall {:.2} (min) {:.2} (median)",
        ratio(0),
        ratio(1),
        ratio(2),
        ratio(3)
    );
    let mote = mote_command(folder);
    println!(
        "system calls up to there: {}",
        count_system_calls(folder, mote)
    );
}

fn sorted(samples: &[Sample], value: fn(&Sample) -> u64) -> Vec<u64> {
    let mut values: Vec<_> = samples.iter().map(value).collect();
    values.sort_unstable();
    values
}

/// A kernel that resets at once, with as much behind it as a small Linux has.
fn kernel() -> Vec<u8> {
    Code::new().reset().elf_of_size(KERNEL_SIZE)
}

fn floor(folder: &Path, pages: &str) -> Sample {
    let mut command = Command::new(folder.join("floor"));
    command.arg(folder.join("kernel")).args([MEMORY_MIB, pages]);
    let output = command.output().expect("running the floor program");
    assert!(output.status.success(), "{output:?}");
    sample(
        &serde_json::from_slice(&output.stdout).expect("JSON"),
        "/wall_us",
        "/cpu_us",
    )
}

fn mote_command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command
        .arg("run")
        .arg("--kernel")
        .arg(folder.join("kernel"));
    command
        .arg("--disk")
        .arg(format!("path={}", folder.join("disk").display()));
    command.args(["--memory", "128M", "--console", "none"]);
    command
        .arg("--timings")
        .arg(format!("json={}", folder.join("t.json").display()));
    command.stdin(Stdio::null());
    command
}

fn mote(folder: &Path) -> Sample {
    let output = mote_command(folder).output().expect("running mote");
    assert!(output.status.success(), "{output:?}");
    let json = std::fs::read(folder.join("t.json")).expect("the report");
    let json = serde_json::from_slice(&json).expect("JSON");
    sample(&json, "/exec_to_first_run_us", "/exec_to_first_run_cpu_us")
}

fn sample(json: &serde_json::Value, wall: &str, cpu: &str) -> Sample {
    let number = |pointer| {
        json.pointer(pointer)
            .and_then(|v| v.as_u64())
            .expect(pointer)
    };
    Sample {
        wall: number(wall),
        cpu: number(cpu),
    }
}

fn count_system_calls(folder: &Path, command: Command) -> String {
    let trace = folder.join("trace");
    let mut strace = Command::new("strace");
    strace
        .arg("-f")
        .arg("-o")
        .arg(&trace)
        .arg(command.get_program())
        .args(command.get_args());
    match strace.stdin(Stdio::null()).output() {
        Err(e) => format!("not counted (strace: {e})"),
        Ok(_) => {
            let text = std::fs::read_to_string(&trace).unwrap_or_default();
            // A call that another thread interrupts has a second line, for its end.
            let mut calls = text.lines().filter(|line| !line.contains(" resumed>"));
            let before = calls.position(|line| line.contains("KVM_RUN"));
            before.map_or_else(|| "not counted".to_owned(), |count| count.to_string())
        }
    }
}
