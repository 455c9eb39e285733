//! VM after VM in one process, with what a VM can have: the last finds what the first one found. In a test
//! program of its own, so that nothing else opens files or starts threads meanwhile.

mod common;

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, kvm};
use motevm::config::{Console, Cpus, Disk, Engine, Metrics, VmConfig, Vsock};
use motevm::{Exit, Host};

/// 200 VMs with drives, vsock, metrics and each sort of console, one after the other: what this process has is
/// the same as after the first of them.
#[test]
fn the_two_hundredth_vm_finds_what_the_first_one_found() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let threads = entries("task");
    // The allocator takes a while to have what it needs.
    (0..20).for_each(|round| vm_with_everything(&host, folder.path(), round));
    wait_for_threads(threads);
    let count = || (entries("fd"), entries("task"), entries("map_files"));
    let (before, maps, resident) = (count(), mappings(), resident_kib());
    (0..200).for_each(|round| vm_with_everything(&host, folder.path(), round));
    wait_for_threads(threads);
    assert_eq!(before, count(), "open files, threads, mapped files");
    // The allocator may add or drop a mapping; a VM of these has dozens.
    let more = mappings().saturating_sub(maps);
    assert!(more <= 4, "{more} mappings more");
    let more = resident_kib().saturating_sub(resident);
    assert!(more < 1024, "{more} KiB more are resident");
    // The console, the drives, the kernel and the metrics.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
}

/// Builds, runs and drops one; some end by themselves, some are stopped.
fn vm_with_everything(host: &Host, folder: &Path, round: u32) {
    let by_itself = !round.is_multiple_of(4);
    let code = Code::new().print("x");
    let code = if by_itself { code.reset() } else { code.halt() };
    let disk = |name: &str, engine| {
        let path = folder.join(name);
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        Disk {
            path,
            engine,
            ..Disk::default()
        }
    };
    let change = |config: &mut VmConfig| {
        config.cpus = Cpus(1 + (round % 3) as u8);
        config.disks = vec![
            disk("threads", Engine::Threads),
            disk("ring", Engine::IoUring),
        ];
        config.vsock = Some(Vsock {
            cid: 3,
            socket: Some(folder.join("vsock")),
            ..Vsock::default()
        });
        config.metrics = Some(Metrics {
            file: Some(folder.join("vm.prom")),
            interval: None,
            unix: Some(folder.join("metrics")),
        });
        if round.is_multiple_of(2) {
            config.console = Console::Pty;
        }
    };
    let mut vm = code.vm(host, folder, change);
    if by_itself {
        assert_eq!(vm.run().unwrap(), Exit::Reset);
    } else {
        // Whether the guest runs by then or not.
        vm.stopper().stop();
        assert_eq!(vm.run().unwrap(), Exit::Stopped);
    }
}

/// The host's kernel may end a thread of its own for each VM (kvm-nx-lpage-recovery) a moment after the VM.
fn wait_for_threads(count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while entries("task") > count && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many ranges of addresses are mapped.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().count()
}

/// How much memory is resident.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = row.unwrap().split_whitespace().next();
    number.unwrap().parse().unwrap()
}

/// How many files, threads or file mappings this process has.
fn entries(kind: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{kind}"))
        .unwrap()
        .count()
}
