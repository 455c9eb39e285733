//! Many VMs in one process: they share what the host said, and leave nothing behind. In a test
//! program of its own, so that nothing else opens files or starts threads meanwhile.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, kvm};
use motevm::Exit;
use motevm::config::{Cpus, Size};

#[test]
fn many_vms_leave_nothing_behind() {
    let Some(host) = kvm() else { return };
    let before = (entries("fd"), entries("task"), entries("map_files"));
    let mapped = address_space();
    for round in 0..5 {
        thread::scope(|scope| {
            for n in 0..6 {
                let host = &host;
                scope.spawn(move || {
                    let folder = tempfile::tempdir().unwrap();
                    let text = format!("VM {round}.{n}\n");
                    let code = Code::new().print(&text).reset();
                    let mut vm = code.vm(host, folder.path(), |config| {
                        config.cpus = Cpus(2);
                        config.memory = Size::gib(1).into();
                    });
                    assert_eq!(vm.run().unwrap(), Exit::Reset);
                    assert_eq!(
                        std::fs::read_to_string(folder.path().join("out")).unwrap(),
                        text
                    );
                });
            }
        });
    }
    // The host's kernel may end a thread of its own for each VM (kvm-nx-lpage-recovery) a moment
    // after the VM.
    let deadline = Instant::now() + PATIENCE;
    while entries("task") > before.1 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let after = (entries("fd"), entries("task"), entries("map_files"));
    assert_eq!(
        (before.0, before.1),
        (after.0, after.1),
        "open files and threads"
    );
    assert!(
        after.2 <= before.2,
        "{} file mappings before, {} after",
        before.2,
        after.2
    );
    // The guests had 30 GiB. What else grows is the allocator's, for the threads there were.
    let grown = address_space().saturating_sub(mapped);
    assert!(grown < 8 << 30, "{} MiB are still mapped", grown >> 20);
}

/// How many bytes of addresses this process uses.
fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages << 12
}

/// How many files, threads or file mappings this process has.
fn entries(kind: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{kind}"))
        .unwrap()
        .count()
}
