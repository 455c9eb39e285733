//! What a Linux guest's memory is used for, from outside; and several of them launched at once.

use std::io::BufRead;

use motevm::footprint::{Footprint, What};

use super::*;

/// A guest that stays, when its init has signalled.
struct Staying(std::process::Child);

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn staying(more: &[&str]) -> Staying {
    let mut command = mote(more);
    command.args(["--console", "none", "--notify-fd", "1"]);
    command.args([
        "--cmdline",
        "mote.run=\"cat /bin/busybox > /dev/null; sleep 100000\"",
    ]);
    command.stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let child = Staying(child);
    while lines.next().unwrap().unwrap().split(' ').next() != Some("init") {}
    child
}

#[test]
fn a_linux_guests_kernel_and_mapped_files_are_told_by_name() {
    let Some(guests) = guests() else { return };
    let rootfs = format!("{},dax,ro", path(&guests.rootfs));
    let vm = staying(&["--kernel", path(&guests.kernel), "--rootfs", &rootfs]);
    let deadline = Instant::now() + PATIENCE;
    // Until the guest has read a program from its root file system.
    let footprint = loop {
        let footprint = Footprint::of(vm.0.id()).unwrap();
        if footprint.of_use(What::MappedDrive).resident_kib > 0 {
            break footprint;
        }
        assert!(Instant::now() < deadline, "{footprint}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let resident = |what| footprint.of_use(what).resident_kib;
    // Linux's code and read-only data: some MiB, and less than the whole file where that tells them apart.
    let file = fs::metadata(&guests.kernel).unwrap().len();
    let text = resident(What::GuestKernelText);
    assert!(
        text > 1024 && text < native::least_beyond_text(file),
        "{footprint}"
    );
    assert!(resident(What::GuestMemory) > 1024, "{footprint}");
    assert!(resident(What::Registers) > 0, "{footprint}");
    let drives = footprint
        .rows
        .iter()
        .filter(|row| row.what == What::MappedDrive);
    let names: Vec<_> = drives.filter_map(|row| row.name.as_deref()).collect();
    let rootfs = fs::canonicalize(&guests.rootfs).unwrap();
    assert_eq!(names, [path(&rootfs)], "{footprint}");
    let stacks = footprint.rows.iter().filter(|row| row.what == What::Stack);
    assert!(stacks.count() >= 2, "{footprint}");
}

#[test]
fn the_timings_tell_the_memory_when_init_signalled() {
    let Some(_) = guests() else { return };
    let report = timings(&[], "true");
    let memory: Footprint = serde_json::from_value(report["memory"].clone()).unwrap();
    assert_eq!(memory.vms, 1);
    assert!(
        memory.of_use(What::GuestKernelText).resident_kib > 1024,
        "{memory}"
    );
    // The figure of docs/performance.md.
    let private = memory.private_besides_kib;
    let cache =
        memory.of_use(What::Code).private_kib() + memory.of_use(What::ReadOnlyData).private_kib();
    assert!(private - cache < 1 << 10, "{memory}");
}

#[test]
fn several_linux_guests_are_launched_and_measured() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("l.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command
        .args([
            "bench",
            "launch",
            "--count",
            "3",
            "--parallel",
            "2",
            "--settle",
            "0s",
        ])
        .args([
            "--time-limit",
            "600s",
            "--memory",
            "96M",
            "--json",
            path(&json),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let out = finish(command).success();
    assert!(out.contains("exec to init"), "{out}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let uses = report["memory"]["uses"].as_array().unwrap();
    let text = uses
        .iter()
        .find(|of| of["what"] == "guest-kernel-text")
        .unwrap();
    assert!(text["resident_kib"].as_u64().unwrap() > 1024, "{out}");
}
