//! Where a VM's threads and memory are on the host, as the host's kernel shows it while a tiny guest
//! runs: CPUs, policies, NUMA nodes. And that a program's own threads are left where they were.

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, RAM, VIRTIO, can_run, kvm};
use motevm::Exit;
use motevm::arch::layout::ram_ranges;
use motevm::config::{CpuList, Cpus, VmConfig};
use motevm::placement::thread::current;

/// A thread as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Task {
    name: String,
    cpus: String,
    /// 0: other, 1: fifo, 2: rr (sched(7)).
    policy: u32,
    priority: u32,
}

/// The threads of a process that still are there when it is their turn.
fn tasks(pid: u32) -> Vec<Task> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let task = |folder: &Path| {
        let read = |file| fs::read_to_string(folder.join(file)).ok();
        let status = read("status")?;
        let cpus = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"))?;
        let stat = read("stat")?;
        // After the name: fields 3 and up (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<_> = fields.split(' ').collect();
        Some(Task {
            name: read("comm")?.trim().to_owned(),
            cpus: cpus.to_owned(),
            priority: fields.get(37)?.parse().ok()?,
            policy: fields.get(38)?.parse().ok()?,
        })
    };
    entries
        .flatten()
        .filter_map(|entry| task(&entry.path()))
        .collect()
}

/// Waits until `look` finds what it looks for.
#[track_caller]
fn until<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => panic!("{seen}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A `mote run` that is killed at the end of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mote(folder: &Path, code: &Code, arguments: &[&str]) -> Command {
    let kernel = folder.join("kernel");
    fs::write(&kernel, code.kernel()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command
        .args(["run", "--kernel", kernel.to_str().unwrap()])
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Two CPUs that this process may use, the first and the last, or `None` (said aloud).
fn two_cpus() -> Option<(String, String)> {
    let all = current().unwrap();
    let obstacle = (all.len() < 2).then(|| format!("there is one CPU for this test ({all})"));
    can_run("cpus", obstacle).then(|| {
        let (first, last) = (all.iter().next(), all.iter().last());
        (first.unwrap().to_string(), last.unwrap().to_string())
    })
}

/// Whether this process may have real-time threads (said aloud if not).
fn may_be_real_time() -> bool {
    let refused = thread::spawn(|| {
        let param = libc::sched_param { sched_priority: 1 };
        // SAFETY: a valid parameter, for a thread that ends with it.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
        (result != 0).then(|| format!("no real-time thread: {}", std::io::Error::last_os_error()))
    });
    can_run("realtime", refused.join().unwrap())
}

/// Sets up the first `queues` queues of the virtio device `index`, and sets DRIVER_OK.
fn drive(code: Code, index: u64, queues: u32) -> Code {
    let device = VIRTIO + index * 0x1000;
    let status = device + 0x70;
    // ACKNOWLEDGE, DRIVER, VIRTIO_F_VERSION_1, FEATURES_OK (virtio 1.3 §3.1.1)
    let code = code.write_long(status, 1).write_long(status, 3);
    let code = code
        .write_long(device + 0x24, 1)
        .write_long(device + 0x20, 1);
    let mut code = code.write_long(status, 11);
    for queue in 0..queues {
        let rings = RAM + 0x80_0000 + (index * 8 + u64::from(queue)) * 0x4000;
        code = code
            .write_long(device + 0x30, queue)
            .write_long(device + 0x38, 8);
        for (register, address) in [
            (0x80, rings),
            (0x90, rings + 0x1000),
            (0xa0, rings + 0x2000),
        ] {
            code = code.write_long(device + register, address as u32);
        }
        code = code.write_long(device + 0x44, 1);
    }
    code.write_long(status, 15)
}

const SAID: &str = "at work";

/// A guest that has its two drives and its entropy device at work, writes to its console, and spins.
fn busy_guest() -> Code {
    let code = (0..3).fold(Code::new(), |code, index| drive(code, index, 1));
    code.print(SAID).spin()
}

/// The arguments for its devices.
fn devices(folder: &Path) -> Vec<String> {
    let image = |name: &str| {
        let path = folder.join(name);
        fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        path.display().to_string()
    };
    let (threads, ring) = (image("a"), image("b"));
    vec![
        format!("--disk={threads}"),
        format!("--disk={ring},engine=io_uring"),
        format!("--metrics=file={}", folder.join("prom").display()),
    ]
}

const THREADS: [&str; 6] = [
    "mote",
    "mote-vda",
    "mote-vdb",
    "mote-rng",
    "mote-metrics",
    "mote-console",
];

/// The threads of a running VM with devices, once all of them are there.
fn placed(arguments: &[&str]) -> Option<Vec<Task>> {
    kvm()?;
    let folder = tempfile::tempdir().unwrap();
    let devices = devices(folder.path());
    let devices: Vec<_> = devices.iter().map(String::as_str).collect();
    let mut command = mote(
        folder.path(),
        &busy_guest(),
        &[arguments, &devices].concat(),
    );
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    // The guest says it when all its devices are at work. While it starts them, its vCPU's thread is
    // elsewhere for moments.
    let mut said = [0; SAID.len()];
    let stdout = running.0.stdout.as_mut().unwrap();
    stdout.read_exact(&mut said).unwrap();
    assert_eq!(said, SAID.as_bytes());
    let pid = running.0.id();
    // The threads that the guest has no part in.
    Some(until(|| {
        let tasks = tasks(pid);
        let has = |name: &str| tasks.iter().any(|task| task.name == name);
        let mut names = THREADS.iter().chain(&["mote-vcpu0", "mote-vcpu1"]);
        match names.all(|name| has(name)) {
            true => Ok(tasks),
            false => Err(format!("{tasks:#?}")),
        }
    }))
}

fn is_vcpu(task: &&Task) -> bool {
    task.name.starts_with("mote-vcpu")
}

#[track_caller]
fn assert_cpus(tasks: &[Task], vcpus: [&str; 2], others: &str) {
    for task in tasks {
        let expected = match task.name.as_str() {
            "mote-vcpu0" => vcpus[0],
            "mote-vcpu1" => vcpus[1],
            _ => others,
        };
        assert_eq!(task.cpus, expected, "{task:?} of {tasks:#?}");
    }
}

#[test]
fn vcpus_are_on_their_cpus_and_all_other_threads_on_theirs() {
    let Some((first, last)) = two_cpus() else {
        return;
    };
    let pin = format!("0={last},1={first}");
    let Some(tasks) = placed(&["--cpus=2", "--pin", &pin, "--io-cpus", &first]) else {
        return;
    };
    assert_cpus(&tasks, [&last, &first], &first);
    assert!(tasks.iter().all(|task| task.policy == 0));
}

#[test]
fn one_mask_leaves_the_other_threads_where_they_were() {
    let Some((first, last)) = two_cpus() else {
        return;
    };
    let all = current().unwrap().to_string();
    // Only vCPU 1 is pinned: what it or another starts isn't.
    let pin = format!("1={last}");
    let Some(tasks) = placed(&["--cpus=2", "--pin", &pin]) else {
        return;
    };
    assert_cpus(&tasks, [&all, &last], &all);
    let Some(tasks) = placed(&["--cpus=2", "--io-cpus", &first]) else {
        return;
    };
    assert_cpus(&tasks, [&all, &all], &first);
}

#[test]
fn what_a_pinned_vcpu_starts_is_not_pinned() {
    let Some((first, last)) = two_cpus() else {
        return;
    };
    let all = current().unwrap().to_string();
    // The guest's first vCPU, which starts all devices' threads.
    let pin = format!("0={last},1={first}");
    let Some(tasks) = placed(&["--cpus=2", "--pin", &pin]) else {
        return;
    };
    assert_cpus(&tasks, [&last, &first], &all);
}

#[test]
fn vcpu_threads_are_real_time_and_what_they_start_is_not() {
    let Some((first, last)) = two_cpus() else {
        return;
    };
    if !may_be_real_time() {
        return;
    }
    // The second vCPU waits for the first one's sign, and so takes no time.
    let pin = format!("0={last},1={last}");
    let arguments = [
        "--cpus=2",
        "--pin",
        &pin,
        "--io-cpus",
        &first,
        "--sched",
        "0=rr:1,1=fifo:2,force",
    ];
    let Some(tasks) = placed(&arguments) else {
        return;
    };
    assert_cpus(&tasks, [&last, &last], &first);
    for task in &tasks {
        let expected = match task.name.as_str() {
            "mote-vcpu0" => (2, 1),
            "mote-vcpu1" => (1, 2),
            _ => (0, 0),
        };
        assert_eq!((task.policy, task.priority), expected, "{tasks:#?}");
    }
}

#[test]
fn a_missing_privilege_is_named_and_no_guest_runs() {
    if kvm().is_none() {
        return;
    }
    let Some((first, last)) = two_cpus() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // The first vCPU has its place, and waits for the second one.
    let pin = format!("--pin=1={last}");
    let io_cpus = format!("--io-cpus={first}");
    let arguments = ["--cpus=2", &pin, &io_cpus, "--sched=1=fifo:10"];
    let mut command = mote(folder.path(), &Code::new().print("ran").reset(), &arguments);
    command.stdout(Stdio::piped());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            const CAP_SYS_NICE: libc::c_ulong = 23;
            // Who isn't root hasn't got it, and may not do this either.
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0);
            let limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_RTPRIO, &raw const limit);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("--sched fifo:10 for vCPU 1: ") && text.contains("CAP_SYS_NICE"),
        "{text}"
    );
    assert!(
        text.contains("ulimit -r 10") && text.lines().count() == 1 && output.stdout.is_empty(),
        "{text}"
    );
}

#[test]
fn memory_and_threads_are_on_the_node_that_was_asked_for() {
    let Ok(nodes) = fs::read_to_string("/sys/devices/system/node/has_memory") else {
        can_run(
            "numa",
            Some("the host's kernel shows no NUMA nodes".to_owned()),
        );
        return;
    };
    if kvm().is_none() {
        return;
    }
    let node = nodes.trim().split(['-', ',']).next().unwrap();
    let cpus = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).unwrap();
    let cpus = cpus
        .trim()
        .parse::<CpuList>()
        .unwrap()
        .and(&current().unwrap())
        .to_string();
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--numa-node",
        node,
        "--memory=4G",
        "--cpus=2",
        "--console=none",
    ];
    let mut command = mote(folder.path(), &Code::new().spin(), &arguments);
    let running = Running(command.spawn().unwrap());
    let pid = running.0.id();
    let tasks = until(|| match tasks(pid) {
        tasks
            if tasks.iter().filter(is_vcpu).count() == 2
                && tasks.iter().all(|t| t.cpus == cpus) =>
        {
            Ok(tasks)
        }
        tasks => Err(format!("{tasks:#?}")),
    });
    assert!(tasks.len() >= 3);
    // Each range: on x86_64 that is below the device gap and above it.
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    let policy = format!("bind:{node}");
    let of = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let bound = maps
        .lines()
        .filter(|line| of(line).as_deref() == Some(&policy));
    assert!(bound.count() >= ram_ranges(4 << 30).len(), "{maps}");
    let missing = mote(
        folder.path(),
        &Code::new().reset(),
        &["--numa-node", "1000"],
    )
    .output()
    .unwrap();
    let text = String::from_utf8_lossy(&missing.stderr);
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        text.contains("--numa-node=1000: no such node is online; this host has "),
        "{text}"
    );
}

#[test]
fn a_program_gets_its_thread_back_whatever_happens() {
    let Some(host) = kvm() else { return };
    let Some((first, last)) = two_cpus() else {
        return;
    };
    let before = current().unwrap();
    thread::scope(|scope| {
        for n in 0..4u8 {
            let (host, first, last, before) = (&host, &first, &last, &before);
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let change = |config: &mut VmConfig| {
                    config.cpus = Cpus(2);
                    let placement = &mut config.placement;
                    placement.io_cpus = Some(first.parse().unwrap());
                    placement.pin = (n % 2 == 0).then(|| format!("1={last}").parse().unwrap());
                };
                let mut vm = Code::new()
                    .print("x")
                    .reset()
                    .vm(host, folder.path(), change);
                assert_eq!(&current().unwrap(), before, "after the build");
                assert_eq!(vm.run().unwrap(), Exit::Reset);
                assert_eq!(&current().unwrap(), before, "after the run");
            });
        }
    });
    // A build that fails half-way.
    let mut config = VmConfig::default();
    config.boot.kernel = Some("/nonexistent".into());
    config.placement.io_cpus = Some(first.parse().unwrap());
    assert!(motevm::build(&host, &config, Default::default()).is_err());
    assert_eq!(current().unwrap(), before, "after a failed build");
}
