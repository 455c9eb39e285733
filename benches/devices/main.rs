//! Devices at work, mote beside QEMU's smallest machine: the same kernel, root file system, images and
//! commands in the guest, in one run.
//!
//!     cargo bench --bench devices [-- --rounds 5] [--only WORDS] [--json]
//!
//! All monitors' guests are up all the time, and take turns: while one works the others wait for a
//! line on their consoles. Each job is done with many requests and with few; what the many took
//! more, divided by the number of requests that they are more, is a request's own. Times come from
//! rounds in which nothing else is measured; events from a further round, by perf_event_open.
//!
//! Where KVM can't run Linux this runs itself in the emulated machine (resources/on-kvm.sh).
//!
//! - [`jobs`]: what the guests do
//! - [`monitors`]: who runs them, and with what
//! - [`measure`]: what a job costs
//! - [`report`]: tables and JSON

mod guest;
mod jobs;
mod measure;
mod monitors;
mod network;
#[path = "../common/perf.rs"]
mod perf;
mod report;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use measure::Figures;
use motevm::check::{Root, has_hardware};

/// Rounds with times, without `--rounds`; with none there are only counts.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let value = |name: &str| {
        let mut rest = arguments.iter().skip_while(|argument| *argument != name);
        rest.nth(1)
    };
    let rounds = value("--rounds").map_or(ROUNDS, |n| n.parse().expect("--rounds N"));
    let only = value("--only").map_or("", String::as_str);
    if let Some(code) = elsewhere() {
        std::process::exit(code);
    }
    perf::mount_tracefs();
    let begin = Instant::now();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in /dev/shm");
    let mut contenders = monitors::start(folder.path(), memory.path());
    let uncounted = measure::cannot_count();
    let report = report::Report::begin(json, rounds, uncounted, &contenders);
    let mut results = Vec::new();
    for job in jobs::all().filter(|job| job.name.contains(only)) {
        if job.network
            && contenders
                .iter()
                .any(|contender| contender.network.is_none())
        {
            eprintln!("NOT RUN: {}: there is no network (see above)", job.name);
            continue;
        }
        eprintln!("[{:3} s] {}", begin.elapsed().as_secs(), job.name);
        let many = measure::calibrate(job, &mut contenders[0]);
        let mut figures: Vec<_> = contenders.iter().map(|_| Figures::default()).collect();
        for _ in 0..rounds {
            for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
                figures
                    .costs
                    .push(measure::cost_of_one(contender, job, many));
            }
        }
        if report.counts() {
            for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
                measure::count(contender, job, many, figures);
            }
        }
        results.extend(report.job(job, many, &contenders, &figures));
    }
    report.end(results);
}

/// The repository's script of that name.
fn script(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("resources").join(name)
}

fn emulated() -> bool {
    std::env::var_os("MOTE_EMULATED").is_some()
}

/// Sees to the guests' files, and where KVM can't run Linux, does everything in the emulated
/// machine: its exit status.
fn elsewhere() -> Option<i32> {
    if emulated() {
        return None;
    }
    for maker in ["guest.sh", "rootfs/test-rootfs.sh"] {
        let made = Command::new(script(maker)).stdout(Stdio::null()).status();
        assert!(
            made.is_ok_and(|status| status.success()),
            "resources/{maker} failed"
        );
    }
    if has_hardware(&Root::default()) && File::open("/dev/kvm").is_ok() {
        return None;
    }
    let mut command = Command::new(script("on-kvm.sh"));
    command.args(["-m", "3072", "-t", "1800", "--"]);
    command.arg(std::env::current_exe().expect("this program"));
    let status = command.args(std::env::args().skip(1)).status();
    Some(status.expect("resources/on-kvm.sh").code().unwrap_or(1))
}
