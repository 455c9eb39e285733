//! Devices at work, mote beside QEMU's microvm: the same kernel, root file system, images and
//! commands in the guest, in one run.
//!
//!     cargo bench --bench devices [-- --rounds 5] [--only WORDS] [--json]
//!
//! Both monitors' guests are up all the time, and take turns: while one works the other waits for
//! a line on its console. Each job is done with many requests and with few; what the many took
//! more, divided by the number of requests that they are more, is a request's own. Times come from
//! rounds in which nothing else is measured; events from a further round, by perf_event_open.
//!
//! Where KVM can't run Linux this runs itself in the emulated machine (resources/on-kvm.sh).

#[path = "common/mod.rs"]
mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::guest::{Guest, OBEY};
use common::perf::{Counters, Event, mount_tracefs};
use serde_json::{Value, json};

/// Rounds with times, without `--rounds`.
const ROUNDS: usize = 5;
/// What one of the timed jobs should take at least, under mote.
const LONG_ENOUGH: Duration = Duration::from_millis(200);
const MEMORY_MIB: u32 = 128;
const NULL_SIZE: u64 = 16 << 30;
const FILE_SIZE: u64 = 64 << 20;

/// The events of the further round. The rest of [`CALLS`] is for what is behind the second.
const EVENTS: [Event; 4] = [
    Event::Tracepoint("kvm/kvm_exit"),
    Event::Tracepoint("kvm/kvm_userspace_exit"),
    Event::Tracepoint("raw_syscalls/sys_enter"),
    Event::ContextSwitches,
];

/// System calls that are told apart where there are any.
const CALLS: [&str; 25] = [
    "ioctl",
    "read",
    "write",
    "readv",
    "writev",
    "preadv",
    "pwritev",
    "preadv2",
    "pwritev2",
    "pread64",
    "pwrite64",
    "ppoll",
    "poll",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "futex",
    "io_uring_enter",
    "fdatasync",
    "recvmsg",
    "sendmsg",
    "recvfrom",
    "sendto",
    "clone3",
    "rt_sigprocmask",
];

/// What the guest is told to do.
struct Job {
    name: &'static str,
    /// What one request is.
    unit: &'static str,
    /// A command of the guest; the last word is added: how many requests.
    command: &'static str,
    /// The most that can be asked for.
    most: u64,
}

/// Defined in each guest: `r DEVICE BS COUNT` and `w` are requests one at a time, `r8` and `w8`
/// eight at a time; COUNT is always that of all requests.
const FUNCTIONS: [&str; 4] = [
    "r() { dd if=$1 of=/dev/null bs=$2 count=$3 iflag=direct 2>/dev/null; }",
    "w() { dd if=/dev/zero of=$1 bs=$2 count=$3 oflag=direct conv=notrunc 2>/dev/null; }",
    "r8() { n=$(($3/8)); for i in 0 1 2 3 4 5 6 7; do dd if=$1 of=/dev/null bs=$2 count=$n \
     skip=$((i*n)) iflag=direct 2>/dev/null & done; wait; }",
    "w8() { n=$(($3/8)); for i in 0 1 2 3 4 5 6 7; do dd if=/dev/zero of=$1 bs=$2 count=$n \
     seek=$((i*n)) oflag=direct conv=notrunc 2>/dev/null & done; wait; }",
];

const JOBS: [Job; 7] = [
    Job {
        name: "read 4 KiB, null, one at a time",
        unit: "request",
        command: "r /dev/vdb 4k",
        most: NULL_SIZE >> 12,
    },
    Job {
        name: "read 4 KiB, null, eight at a time",
        unit: "request",
        command: "r8 /dev/vdb 4k",
        most: NULL_SIZE >> 12,
    },
    Job {
        name: "read 64 KiB, null, one at a time",
        unit: "request",
        command: "r /dev/vdb 64k",
        most: NULL_SIZE >> 16,
    },
    Job {
        name: "read 4 KiB, file, one at a time",
        unit: "request",
        command: "r /dev/vdc 4k",
        most: FILE_SIZE >> 12,
    },
    Job {
        name: "write 4 KiB, file, one at a time",
        unit: "request",
        command: "w /dev/vdc 4k",
        most: FILE_SIZE >> 12,
    },
    Job {
        name: "write 4 KiB, file, eight at a time",
        unit: "request",
        command: "w8 /dev/vdc 4k",
        most: FILE_SIZE >> 12,
    },
    Job {
        name: "read 64 KiB, file, one at a time",
        unit: "request",
        command: "r /dev/vdc 64k",
        most: FILE_SIZE >> 16,
    },
];

/// A monitor with its guest.
struct Contender {
    name: &'static str,
    guest: Guest,
    /// What the names of its vCPU threads begin with.
    vcpu: &'static str,
}

/// What a run of a job took; nanoseconds.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    /// Of all threads, in guest mode too.
    cpu: f64,
    /// Of the threads that are no vCPU's.
    outside: f64,
}

/// One contender's figures for one job, each for one request.
#[derive(Default)]
struct Figures {
    costs: Vec<Cost>,
    events: Vec<f64>,
    calls: Vec<(&'static str, f64)>,
}

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
    mount_tracefs();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in /dev/shm");
    let mut contenders = contenders(folder.path(), memory.path());
    let uncounted = Counters::attach(std::process::id(), &EVENTS, |_| true).err();
    if !json {
        header(rounds, uncounted.as_deref());
    }
    let mut results = Vec::new();
    for job in JOBS.iter().filter(|job| job.name.contains(only)) {
        let many = calibrate(job, &mut contenders[0]);
        let few = (many / 8).next_multiple_of(8);
        let mut figures: Vec<_> = contenders.iter().map(|_| Figures::default()).collect();
        for _ in 0..rounds {
            for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
                let cost = contender.cost_of_one(job, many, few);
                figures.costs.push(cost);
            }
        }
        if uncounted.is_none() {
            for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
                contender.count(job, many, few, figures);
            }
        }
        let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
        match json {
            true => results.push(as_json(job, many, &names, &figures)),
            false => print(job, many, &names, &figures),
        }
    }
    if json {
        let results = json!({
            "emulated": emulated(),
            "rounds": rounds,
            "uncounted": uncounted,
            "jobs": results,
        });
        println!("{results:#}");
    }
}

fn emulated() -> bool {
    std::env::var_os("MOTE_EMULATED").is_some()
}

/// The repository's file of that name.
fn resource(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("resources")
        .join(name)
}

/// Sees to the guest's files, and where KVM can't run Linux, does everything in the emulated
/// machine: its exit status.
fn elsewhere() -> Option<i32> {
    if emulated() {
        return None;
    }
    let made = Command::new(resource("guest.sh"))
        .stdout(std::process::Stdio::null())
        .status();
    assert!(
        made.is_ok_and(|status| status.success()),
        "resources/guest.sh failed"
    );
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = info
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm");
    if hardware && File::open("/dev/kvm").is_ok() {
        return None;
    }
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(resource("on-kvm.sh"));
    command
        .args(["-m", "3072", "--"])
        .arg(program)
        .args(std::env::args().skip(1));
    let status = command.status().expect("resources/on-kvm.sh");
    Some(status.code().unwrap_or(1))
}

/// What a guest gets, in the host's files.
struct Files {
    kernel: PathBuf,
    rootfs: PathBuf,
    null: PathBuf,
    file: PathBuf,
}

impl Files {
    /// Images of the contender's own in two folders, one of which is in memory.
    fn make(folder: &Path, memory: &Path, contender: usize) -> Self {
        let cache = std::env::var_os("MOTE_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| {
            let home =
                || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
            let cache = std::env::var_os("XDG_CACHE_HOME");
            cache.map_or_else(home, PathBuf::from).join("mote")
        });
        let guest = cache.join("guest/x86_64");
        let null = memory.join(format!("null{contender}"));
        let nothing = File::create(&null).and_then(|file| file.set_len(NULL_SIZE));
        nothing.expect("an image of nothing");
        let file = folder.join(format!("file{contender}"));
        std::fs::write(&file, vec![0x5a; FILE_SIZE as usize]).expect("an image");
        Self {
            kernel: guest.join("vmlinux"),
            rootfs: guest.join("rootfs.ext4"),
            null,
            file,
        }
    }
}

/// All monitors, their guests up. One that can't be had is named; mote's own failure is a panic.
fn contenders(folder: &Path, memory: &Path) -> Vec<Contender> {
    let files = |contender| Files::make(folder, memory, contender);
    let mut contenders = Vec::new();
    for (name, engine) in [("mote", "threads"), ("mote, io_uring", "io_uring")] {
        let command = mote(&files(contenders.len()), engine);
        contenders.push(Contender {
            name,
            guest: Guest::start(command).unwrap_or_else(|e| panic!("{e}")),
            vcpu: "mote-vcpu",
        });
    }
    for (name, drive, device) in [
        ("QEMU microvm", "aio=threads", ""),
        ("QEMU, iothread, io_uring", "aio=io_uring", ",iothread=io"),
    ] {
        match Guest::start(qemu(&files(contenders.len()), drive, device)) {
            Ok(guest) => contenders.push(Contender {
                name,
                guest,
                vcpu: "CPU ",
            }),
            Err(e) => eprintln!("NOT RUN: {name}: {e}"),
        }
    }
    for contender in &mut contenders {
        for function in FUNCTIONS {
            let (said, _) = contender.guest.run(function);
            assert!(said.is_empty(), "{}: {said}", contender.name);
        }
    }
    contenders
}

/// As its defaults are, but for the engine: through the host's page cache.
fn mote(files: &Files, engine: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.args(["run", "--kernel"]).arg(&files.kernel);
    command
        .arg("--rootfs")
        .arg(format!("{},ro", files.rootfs.display()));
    for disk in [&files.null, &files.file] {
        command
            .arg("--disk")
            .arg(format!("path={},engine={engine}", disk.display()));
    }
    command.args([
        "--memory",
        &format!("{MEMORY_MIB}M"),
        "--cmdline",
        &format!("quiet {OBEY}"),
    ]);
    command
}

/// QEMU's smallest machine, with no device that mote's doesn't have.
fn qemu(files: &Files, drive: &str, device: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-M",
        "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on",
    ]);
    command.args([
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        &MEMORY_MIB.to_string(),
    ]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-name", "bench,debug-threads=on", "-serial", "stdio"]);
    command.args([
        "-global",
        "virtio-mmio.force-legacy=false",
        "-object",
        "iothread,id=io",
    ]);
    command
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-append")
        .arg(format!(
            "quiet console=ttyS0 reboot=t panic=-1 root=/dev/vda ro no_timer_check {OBEY}"
        ));
    for (id, path, more) in [
        ("root", &files.rootfs, ",readonly=on"),
        ("null", &files.null, ""),
        ("file", &files.file, ""),
    ] {
        let path = path.display();
        command.arg("-drive").arg(format!(
            "file={path},format=raw,if=none,id={id},{drive}{more}"
        ));
        command
            .arg("-device")
            .arg(format!("virtio-blk-device,drive={id}{device}"));
    }
    command
}

impl Contender {
    fn run(&mut self, job: &Job, requests: u64) -> Duration {
        // The console costs the same for few and for many.
        let (said, time) = self.guest.run(&format!("{} {requests:>8}", job.command));
        assert!(said.is_empty(), "{}: {}: {said}", self.name, job.name);
        time
    }

    fn cost(&mut self, job: &Job, requests: u64) -> Cost {
        let (pid, vcpu) = (self.guest.pid(), self.vcpu);
        let clock = [Event::TaskClock];
        let inside = Counters::attach(pid, &clock, |name| name.starts_with(vcpu));
        let outside = Counters::attach(pid, &clock, |name| !name.starts_with(vcpu));
        let wall = self.run(job, requests).as_nanos() as f64;
        let time =
            |counters: Result<Counters, String>| counters.map_or(f64::NAN, |c| c.read()[0] as f64);
        let outside = time(outside);
        Cost {
            wall,
            cpu: time(inside) + outside,
            outside,
        }
    }

    fn cost_of_one(&mut self, job: &Job, many: u64, few: u64) -> Cost {
        let (low, high) = (self.cost(job, few), self.cost(job, many));
        let one = |of: fn(&Cost) -> f64| (of(&high) - of(&low)) / (many - few) as f64;
        Cost {
            wall: one(|c| c.wall),
            cpu: one(|c| c.cpu),
            outside: one(|c| c.outside),
        }
    }

    /// A round that counts.
    fn count(&mut self, job: &Job, many: u64, few: u64, figures: &mut Figures) {
        let name = |call: &str| format!("syscalls/sys_enter_{call}");
        let names = CALLS.map(|call| (call, &*name(call).leak()));
        let calls: Vec<_> = names
            .into_iter()
            .filter(|(_, name)| {
                Counters::attach(self.guest.pid(), &[Event::Tracepoint(name)], |_| true).is_ok()
            })
            .collect();
        let mut events = EVENTS.to_vec();
        events.extend(calls.iter().map(|(_, name)| Event::Tracepoint(name)));
        let mut run = |requests| {
            let counters = Counters::attach(self.guest.pid(), &events, |_| true);
            self.run(job, requests);
            counters.expect("counters, which there were before").read()
        };
        let (low, high) = (run(few), run(many));
        let one = |(low, high): (u64, u64)| (high as f64 - low as f64) / (many - few) as f64;
        let mut counts = low.into_iter().zip(high).map(one);
        figures.events = counts.by_ref().take(EVENTS.len()).collect();
        figures.calls = calls.iter().map(|(call, _)| *call).zip(counts).collect();
    }
}

/// How many requests take long enough.
fn calibrate(job: &Job, contender: &mut Contender) -> u64 {
    let mut requests = 256;
    while requests < job.most && contender.run(job, requests) < LONG_ENOUGH {
        requests *= 2;
    }
    requests.min(job.most)
}

fn header(rounds: usize, uncounted: Option<&str>) {
    println!(
        "mote beside QEMU microvm: 1 vCPU, {MEMORY_MIB} MiB, the same guest and commands, {rounds} rounds in turn.\n\
         Each figure is for one request: (many requests - few) / (their difference), medians of the rounds.\n\
         CPU: of all of the monitor's threads, the guest's own work included; \"not vCPU\": of its other threads.\n\
         exits: from the guest to KVM; \"to user\": those that go on to the monitor; switches: a thread leaves\n\
         the CPU. null: a hole in a file in memory; file: one in the host's page cache."
    );
    if emulated() {
        println!("This machine is emulated: of times, only the ratios in this run mean something.");
    }
    if let Some(why) = uncounted {
        println!("NOT COUNTED, events: {why}");
    }
}

fn sorted(figures: &Figures, of: impl Fn(&Cost) -> f64) -> Vec<f64> {
    let mut values: Vec<_> = figures.costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(figures: &Figures, of: impl Fn(&Cost) -> f64) -> f64 {
    sorted(figures, of)[figures.costs.len() / 2]
}

/// Of the first to another, round by round: least, median, most.
fn ratios(figures: &Figures, other: &Figures, of: fn(&Cost) -> f64) -> [f64; 3] {
    let mut ratios: Vec<_> = figures
        .costs
        .iter()
        .zip(&other.costs)
        .map(|(a, b)| of(a) / of(b))
        .collect();
    ratios.sort_by(f64::total_cmp);
    [
        ratios[0],
        ratios[ratios.len() / 2],
        ratios[ratios.len() - 1],
    ]
}

fn print(job: &Job, many: u64, names: &[&str], figures: &[Figures]) {
    println!("\n{} ({} {}s)", job.name, many, job.unit);
    println!(
        "{:<26}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}{:>10}",
        "", "per s", "CPU us", "not vCPU", "exits", "to user", "syscalls", "switches"
    );
    for (name, one) in names.iter().zip(figures) {
        print!("{name:<26}{:>10.0}", 1e9 / median(one, |c| c.wall));
        print!(
            "{:>10.1}{:>10.1}",
            median(one, |c| c.cpu) / 1e3,
            median(one, |c| c.outside) / 1e3
        );
        let widths = [9, 9, 9, 10];
        for (count, width) in one.events.iter().zip(widths) {
            print!("{count:>width$.2}");
        }
        println!();
    }
    for (name, one) in names.iter().zip(figures) {
        let calls = one.calls.iter().filter(|(_, count)| *count >= 0.01);
        let calls: Vec<_> = calls
            .map(|(call, count)| format!("{call} {count:.2}"))
            .collect();
        println!("  system calls, {name}: {}", calls.join(", "));
    }
    for (name, other) in names.iter().zip(figures).skip(1) {
        let [low, middle, high] = ratios(&figures[0], other, |c| 1.0 / c.wall);
        let [cpu_low, cpu, cpu_high] = ratios(&figures[0], other, |c| c.cpu);
        println!(
            "  mote / {name}: per s {middle:.2} ({low:.2} to {high:.2}), \
             CPU {cpu:.2} ({cpu_low:.2} to {cpu_high:.2})"
        );
    }
}

fn as_json(job: &Job, many: u64, names: &[&str], figures: &[Figures]) -> Value {
    let of = |(name, one): (&&str, &Figures)| {
        let calls: serde_json::Map<_, _> = one
            .calls
            .iter()
            .map(|(call, count)| ((*call).to_owned(), json!(count)))
            .collect();
        json!({
            "monitor": name,
            "wall_ns": sorted(one, |c| c.wall),
            "cpu_ns": sorted(one, |c| c.cpu),
            "cpu_not_vcpu_ns": sorted(one, |c| c.outside),
            "exits": one.events.first(),
            "exits_to_user": one.events.get(1),
            "system_calls": one.events.get(2),
            "context_switches": one.events.get(3),
            "calls": calls,
        })
    };
    let monitors: Vec<_> = names.iter().zip(figures).map(of).collect();
    json!({ "job": job.name, "unit": job.unit, "requests": many, "monitors": monitors })
}
