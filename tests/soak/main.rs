//! Many VMs, one after the other and at once, that end in any way; and what is left of them, which is
//! nothing. `resources/soak.sh` runs this for long (docs/testing.md).

mod at_once;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod drive;
mod place;
mod random;
mod vm;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{can_run, kvm};
use counts::Counts;
use place::Place;
use vm::{End, Outcome, Shared, SoakVm};

/// Only one test at a time: they count what this process has.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number from the environment, as resources/soak.sh sets it.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Whether the machine is emulated, so that all takes long.
fn emulated() -> bool {
    std::env::var_os("MOTE_EMULATED").is_some()
}

/// How many VMs a short run has.
fn short(many: u64) -> u64 {
    if emulated() { many / 4 } else { many }
}

#[test]
fn vms_that_end_in_any_way_leave_nothing_behind() {
    let _alone = alone();
    if kvm().is_none() {
        return;
    }
    let vms = setting("MOTE_SOAK_VMS").unwrap_or(short(100)) as usize;
    let parallel = setting("MOTE_SOAK_PARALLEL").unwrap_or(4) as usize;
    let limit = Duration::from_secs(setting("MOTE_SOAK_SECONDS").unwrap_or(300));
    let time = std::time::UNIX_EPOCH.elapsed().unwrap();
    let seed = setting("MOTE_SOAK_SEED").unwrap_or(time.as_nanos() as u64 >> 10 & 0xffff_ffff);
    eprintln!("{vms} VMs, {parallel} at a time, seed {seed}");
    // Not this thread: what it belongs to afterwards is for the VMs.
    let report = thread::scope(|scope| scope.spawn(|| soak(vms, parallel, limit, seed)).join());
    eprintln!("{}", report.unwrap_or_else(|e| resume_unwind(e)));
}

fn soak(vms: usize, parallel: usize, limit: Duration, seed: u64) -> String {
    let place = Place::enter();
    // SAFETY: takes no pointer. What a killed mote had started becomes this process's child.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let folder = tempfile::tempdir().unwrap();
    let folders: Vec<_> = (0..parallel)
        .map(|n| folder.path().join(n.to_string()))
        .collect();
    for folder in &folders {
        std::fs::create_dir_all(folder.join("tmp")).unwrap();
    }
    let mut shared = Shared {
        seed,
        taps: place.own,
        passt: place.own.then(passt).flatten(),
        linux: linux(),
        jail: (place.own && can_jail()).then(|| place.cgroup.clone()),
        start: Duration::ZERO,
    };
    if shared.passt.is_some() {
        place::add_route();
    }
    // The first VM in each folder makes the files that all make; and the host's kernel starts its own threads.
    let begin = Instant::now();
    let count = run_full(&shared, &folders);
    shared.start = begin.elapsed() / count;
    let before = Counts::take(folder.path(), &place);
    let host = counts::host();

    let begin = Instant::now();
    let mut done = run_random(&shared, &folders, vms, limit);
    let took = begin.elapsed();
    // What a killed VM left in its folder must not keep another one from starting; and that one tidies up.
    run_full(&shared, &folders);
    let after = Counts::settled(&before, folder.path(), &place);
    let now = counts::host();
    if done.count < vms && done.failures.is_empty() {
        let count = done.count;
        let short = format!("only {count} of {vms} VMs in {limit:?}");
        done.failures.push(short);
    }
    done.failures.extend(before.differences(&after));
    done.failures.extend(memory_gone(&host, &now));
    let table = done.table(took) + &before.table(&after) + &host_table(&host, &now);
    let failures = done.failures.join("\n");
    assert!(failures.is_empty(), "seed {seed}:\n{failures}\n{table}");
    table
}

/// A VM with everything in each folder, one after the other; and one in a jail. How many those were.
fn run_full(shared: &Shared, folders: &[PathBuf]) -> u32 {
    let mut count = 0;
    for (number, folder) in folders.iter().enumerate() {
        for jailed in [false, true] {
            if !jailed || shared.jail.is_some() {
                let outcome = SoakVm::full(shared, number, folder, jailed).run();
                outcome.result.unwrap();
                count += 1;
            }
        }
    }
    count
}

/// VMs of any sort, in all folders at the same time.
fn run_random(shared: &Shared, folders: &[PathBuf], vms: usize, limit: Duration) -> Done {
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Done::default());
    let work = |folder: &Path| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= vms || begin.elapsed() > limit {
                break;
            }
            let vm = SoakVm::draw(shared, number, folder);
            let outcome = vm.run();
            let mut done = done.lock().unwrap();
            done.add(&vm, outcome);
            if done.count.is_multiple_of(100) {
                let seconds = begin.elapsed().as_secs();
                eprintln!("{} of {vms} VMs, {seconds} s", done.count);
            }
            if done.failures.len() > 4 {
                break;
            }
        }
    };
    thread::scope(|scope| {
        for folder in folders {
            scope.spawn(|| work(folder));
        }
    });
    done.into_inner().unwrap()
}

/// What the VMs of a soak did.
#[derive(Default)]
struct Done {
    count: usize,
    /// How many ended so; of those, how many had a guest that ran, how many were Linux, how many in a jail.
    ends: BTreeMap<End, [usize; 4]>,
    failures: Vec<String>,
}

impl Done {
    fn add(&mut self, vm: &SoakVm, outcome: Outcome) {
        self.count += 1;
        let counts = self.ends.entry(vm.end).or_default();
        let more = [1, outcome.ran.into(), vm.linux.into(), vm.jailed.into()];
        for (count, more) in counts.iter_mut().zip(more) {
            *count += more;
        }
        self.failures.extend(outcome.result.err());
    }

    fn table(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        let mut text = format!("{} VMs in {seconds:.1} s\n", self.count);
        let mut row = |what: &str, cells: &[&str]| {
            text += &format!("  {what:<44}");
            cells.iter().for_each(|cell| text += &format!(" {cell:>6}"));
            text.push('\n');
        };
        row("ended", &["VMs", "ran", "Linux", "jailed"]);
        for (end, counts) in &self.ends {
            let counts = counts.map(|count| count.to_string());
            row(end.name(), &counts.each_ref().map(String::as_str));
        }
        row("there is", &["before", "after"]);
        text
    }
}

/// What the whole host has: others change it meanwhile.
fn host_table(before: &counts::Host, after: &counts::Host) -> String {
    let rows = before
        .iter()
        .zip(after)
        .map(|((what, before), (_, after))| {
            let what = format!("the host's {what}");
            let change = after - before;
            format!("  {what:<37} {before:>13} {after:>13} {change:>+9}\n")
        });
    rows.collect()
}

/// Says if more of the host's memory is gone than `MOTE_SOAK_MEMORY` (MiB) allows. Others use memory, too, so a
/// short run doesn't ask.
fn memory_gone(before: &counts::Host, after: &counts::Host) -> Option<String> {
    let allowed = setting("MOTE_SOAK_MEMORY")? as i64;
    let gone = (before[0].1 - after[0].1) >> 10;
    let text = || format!("{gone} MiB less of the host's memory are available; {allowed} may be");
    (gone > allowed).then(text)
}

/// Whether this mote has jails.
fn can_jail() -> bool {
    let mut help = Command::new(env!("CARGO_BIN_EXE_mote"));
    let help = help.args(["run", "--help"]).output().unwrap();
    String::from_utf8_lossy(&help.stdout).contains("--jail")
}

/// The passt that resources/peers.sh made, or `None` (said aloud).
fn passt() -> Option<PathBuf> {
    let passt = in_cache("peers").join("passt");
    let obstacle = match () {
        () if emulated() => Some("passt may take longer to answer here than mote waits for it"),
        () if !passt.exists() => Some("there is no passt: resources/peers.sh"),
        () => None,
    };
    let obstacle = obstacle.map(|why| format!("networks by passt: {why}"));
    can_run("passt", obstacle).then_some(passt)
}

/// The default guest, where resources/soak.sh asks for Linux.
fn linux() -> Option<(PathBuf, PathBuf)> {
    setting("MOTE_SOAK_LINUX").filter(|wanted| *wanted > 0)?;
    let guest = in_cache("guest");
    let kernel = ["vmlinux", "Image"].map(|name| guest.join(name));
    let kernel = kernel.into_iter().find(|kernel| kernel.exists());
    let kernel = kernel.expect("no guest is built: resources/guest.sh");
    Some((kernel, guest.join("rootfs.ext4")))
}

/// Where the scripts in resources/ put what they make for this architecture.
fn in_cache(name: &str) -> PathBuf {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = folder("MOTE_CACHE").unwrap_or_else(|| {
        let home = || folder("HOME").unwrap_or_default().join(".cache");
        folder("XDG_CACHE_HOME").unwrap_or_else(home).join("mote")
    });
    cache.join(name).join(std::env::consts::ARCH)
}
