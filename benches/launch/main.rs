//! From exec to the first KVM_RUN: mote beside a bare C program that makes the same ioctls and
//! reads the same kernel (benches/floor), with each kind of guest memory, and beside QEMU's smallest
//! machine; and what each further vCPU costs. In turn, so that the machine's mood meets all alike.
//!
//!     cargo bench --bench launch [-- --runs 40] [--only WORDS] [--mote PROGRAM] [--floor PROGRAM]
//!
//! Both clocks are read from outside, for all programs in the same way ([`stop`]); system calls
//! are strace's, where it is installed. The kernel has 12 MiB, and its guest resets at once, so that
//! this runs on any KVM. `--floor` is the C program, built already: where there is no compiler. `--mote` may be given several times: other builds of mote, to be
//! compared with this one. `--only` is a part of the name of a kind of memory, or `vCPUs`.
//!
//! - [`contenders`]: the programs and their arguments
//! - [`stop`]: runs one up to its first KVM_RUN

#[path = "../../tests/common/mod.rs"]
mod common;
mod contenders;
mod stop;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::Code;
use contenders::{BACKINGS, Files, MEMORY_MIB, QEMU, floor, mote, qemu};
use stop::Moment;

const KERNEL_SIZE: usize = 12 << 20;
/// Numbers of vCPUs; a further one costs the difference of the ends, divided.
const CPUS: [u32; 5] = [1, 2, 4, 8, 16];
/// Rounds that warm the caches and aren't counted.
const WARMUP: usize = 2;

/// A program with its arguments, and what it took each time.
struct Contender {
    name: String,
    command: Box<dyn Fn() -> Command>,
    moments: Vec<Moment>,
}

impl Contender {
    fn new(name: String, command: impl Fn() -> Command + 'static) -> Self {
        Contender {
            name,
            command: Box::new(command),
            moments: Vec::new(),
        }
    }

    /// The least and the middle, in microseconds.
    fn figures(&self, of: fn(&Moment) -> Duration) -> [f64; 2] {
        let mut values: Vec<_> = self.moments.iter().map(of).collect();
        values.sort_unstable();
        [values[0], values[values.len() / 2]].map(|value| value.as_secs_f64() * 1e6)
    }
}

const CPU: fn(&Moment) -> Duration = |moment| moment.cpu;
const WALL: fn(&Moment) -> Duration = |moment| moment.wall;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let values = |name: &str| -> Vec<String> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].clone()).collect()
    };
    let runs = values("--runs")
        .first()
        .map_or(40, |runs| runs.parse().expect("--runs N"));
    if common::kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| folder.path().join(name);
    let mut files = Files {
        kernel: place("kernel"),
        disk: place("disk"),
        floor: place("floor"),
    };
    let kernel = Code::new().reset().kernel_of_size(KERNEL_SIZE);
    std::fs::write(&files.kernel, kernel).expect("writing the kernel");
    std::fs::write(&files.disk, vec![0; 1 << 20]).expect("writing the drive");
    match values("--floor").first() {
        Some(program) => files.floor = program.into(),
        None => compile_floor(&files.floor),
    }
    let files: &'static Files = Box::leak(Box::new(files));
    let this = PathBuf::from(env!("CARGO_BIN_EXE_mote"));
    let others = values("--mote").into_iter().map(PathBuf::from);
    let programs: Vec<_> = std::iter::once(this).chain(others).collect();

    let only = values("--only").pop().unwrap_or_default();
    if only != "vCPUs" {
        by_memory(files, &programs, runs, &only);
    }
    if only.is_empty() || only == "vCPUs" {
        by_cpus(files, &programs, runs);
    }
    for (name, command) in [
        ("floor", floor(files, "thp", 1)),
        ("mote", mote(&programs[0], files, &BACKINGS[0], 1)),
        ("QEMU", qemu(files)),
    ] {
        match stop::system_calls(&command, &place("trace")) {
            Ok(count) => println!("system calls up to the first KVM_RUN, {name}: {count}"),
            Err(error) => println!("NOT RUN: system calls of {name}: {error}"),
        }
    }
}

fn compile_floor(program: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/floor/main.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(program)
        .arg(source)
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "cc could not build benches/floor/main.c; --floor PROGRAM takes one that is built"
    );
}

/// Runs all in turn; those that fail are named and left out.
fn run(contenders: &mut Vec<Contender>, runs: usize) {
    for round in 0..runs + WARMUP {
        contenders.retain_mut(
            |contender| match stop::at_first_run((contender.command)()) {
                Ok(moment) => {
                    if round >= WARMUP {
                        contender.moments.push(moment);
                    }
                    true
                }
                Err(error) => {
                    println!("NOT RUN: {}: {error}", contender.name);
                    false
                }
            },
        );
    }
}

fn named<'a>(contenders: &'a [Contender], name: &str) -> Option<&'a Contender> {
    contenders.iter().find(|contender| contender.name == name)
}

/// What another build of mote is called.
fn program_name(index: usize, programs: &[PathBuf]) -> String {
    match index {
        0 => "mote".to_owned(),
        _ => programs[index].display().to_string(),
    }
}

fn by_memory(files: &'static Files, programs: &[PathBuf], runs: usize, only: &str) {
    let mut contenders = Vec::new();
    for backing in BACKINGS
        .iter()
        .filter(|backing| backing.name.contains(only))
    {
        if let Some(obstacle) = backing.obstacle() {
            println!("NOT RUN: {}: {obstacle}", backing.name);
            continue;
        }
        let name = format!("floor, {}", backing.name);
        contenders.push(Contender::new(name, || floor(files, backing.floor, 1)));
        for (index, program) in programs.iter().enumerate() {
            let name = format!("{}, {}", program_name(index, programs), backing.name);
            let program = program.clone();
            let command = move || mote(&program, files, backing, 1);
            contenders.push(Contender::new(name, command));
        }
    }
    contenders.push(Contender::new(QEMU.to_owned(), || qemu(files)));
    run(&mut contenders, runs);

    println!(
        "exec to first KVM_RUN, 1 vCPU, {MEMORY_MIB} MiB, 12 MiB kernel, {runs} runs each, in turn"
    );
    println!(
        "{:<36}{:>12}{:>12}{:>12}{:>12}",
        "", "CPU min ms", "median", "wall min ms", "median"
    );
    for contender in &contenders {
        print!("{:<36}", contender.name);
        for of in [CPU, WALL] {
            let [least, middle] = contender.figures(of);
            print!("{:>12.3}{:>12.3}", least / 1e3, middle / 1e3);
        }
        println!();
    }
    let ratio = |a: &str, b: &str, aim: &str| {
        let (Some(a), Some(b)) = (named(&contenders, a), named(&contenders, b)) else {
            return;
        };
        let [cpu, wall] = [CPU, WALL].map(|of| {
            let (a, b) = (a.figures(of), b.figures(of));
            [a[0] / b[0], a[1] / b[1]]
        });
        println!(
            "{} / {}: CPU {:.2} (min) {:.2} (median), wall {:.2} (min) {:.2} (median){aim}",
            a.name, b.name, cpu[0], cpu[1], wall[0], wall[1]
        );
    };
    for backing in &BACKINGS {
        let of = |who: &str| format!("{who}, {}", backing.name);
        for index in 0..programs.len() {
            let mote = of(&program_name(index, programs));
            ratio(&mote, &of("floor"), " (aim: at most 1.2)");
        }
        for index in 1..programs.len() {
            ratio(&of("mote"), &of(&program_name(index, programs)), "");
        }
    }
    let mote = format!("mote, {}", BACKINGS[0].name);
    ratio(&mote, QEMU, " (aim: less than 0.5)");
}

fn by_cpus(files: &'static Files, programs: &[PathBuf], runs: usize) {
    let mut contenders = Vec::new();
    for cpus in CPUS {
        let name = format!("floor, {cpus}");
        contenders.push(Contender::new(name, move || floor(files, "thp", cpus)));
        for (index, program) in programs.iter().enumerate() {
            let name = format!("{}, {cpus}", program_name(index, programs));
            let program = program.clone();
            let command = move || mote(&program, files, &BACKINGS[0], cpus);
            contenders.push(Contender::new(name, command));
        }
    }
    run(&mut contenders, runs);

    // The floor times the ioctl itself, the further vCPUs' only.
    let mut itself = Vec::new();
    for cpus in &CPUS[1..] {
        let Some(contender) = named(&contenders, &format!("floor, {cpus}")) else {
            continue;
        };
        itself.extend(contender.moments.iter().filter_map(|moment| {
            let said: serde_json::Value = serde_json::from_str(&moment.out).ok()?;
            said.pointer("/create_vcpu_us")?.as_f64()
        }));
    }
    itself.sort_unstable_by(f64::total_cmp);
    if itself.is_empty() {
        return println!("NOT RUN: the floor program did not tell of KVM_CREATE_VCPU");
    }
    let create = [itself[0], itself[itself.len() / 2]];
    println!("exec to first KVM_RUN by the number of vCPUs, wall ms, median");
    let mut names = vec!["floor".to_owned()];
    names.extend((0..programs.len()).map(|index| program_name(index, programs)));
    for name in &names {
        let at = |cpus: u32| named(&contenders, &format!("{name}, {cpus}"));
        print!("{name:<36}");
        for contender in CPUS.iter().filter_map(|cpus| at(*cpus)) {
            print!("{:>10.3}", contender.figures(WALL)[1] / 1e3);
        }
        println!();
        let (first, last) = (CPUS[0], CPUS[CPUS.len() - 1]);
        let (Some(one), Some(many)) = (at(first), at(last)) else {
            continue;
        };
        let further = |of, index: usize| {
            let (one, many): (f64, f64) = (one.figures(of)[index], many.figures(of)[index]);
            (many - one) / f64::from(last - first)
        };
        for (index, kind) in ["least", "median"].into_iter().enumerate() {
            let [cpu, wall] = [CPU, WALL].map(|of| further(of, index));
            let create = create[index];
            println!(
                "  each further vCPU, {kind}: CPU {cpu:.0} us, wall {wall:.0} us; to KVM_CREATE_VCPU \
                 itself ({create:.0} us): {:.2}, {:.2} (aim for mote: at most 2)",
                cpu / create,
                wall / create
            );
        }
    }
}
