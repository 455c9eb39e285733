//! `mote bench boot` with a real Linux: its exits are few and the same each time, and another monitor
//! boots the same guest in turn.

use super::*;

/// As much as any guest here may take.
const LIMIT: &str = "240s";

fn bench(more: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.args(["bench", "boot", "--warmup", "0", "--time-limit", LIMIT]);
    command.args(more).stdin(Stdio::null());
    finish({
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    })
}

#[test]
fn a_boot_keeps_to_its_budget_of_exits_each_time() {
    if guests().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("boot.json");
    let more = [
        "--console",
        "none",
        "--runs",
        "2",
        "--budget",
        "exits=59",
        "--json",
        path(&json),
    ];
    let out = bench(&more).success();
    assert!(out.contains("ok    --budget exits=59"), "{out}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let images = report["guest"]["images"].as_array().unwrap();
    let roles: Vec<_> = images
        .iter()
        .map(|image| image["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["kernel", "rootfs"]);
    let init = report["phases"].as_array().unwrap().iter();
    let init = init.filter(|series| series["name"] == "first-run-to-init");
    assert_eq!(
        init.map(|series| series["values"].as_array().unwrap().len())
            .sum::<usize>(),
        2
    );
}

#[test]
fn another_monitor_boots_the_same_guest_in_turn() {
    let Some(guests) = guests() else { return };
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let obstacle = qemu.err().map(|e| format!("qemu-system-x86_64: {e}"));
    if !can_run("peers", obstacle) {
        return;
    }
    let (kernel, rootfs) = (path(&guests.vmlinux), path(&guests.rootfs));
    let qemu = format!(
        "qemu-system-x86_64 -M microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on -accel kvm -cpu host \
         -m 128 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
         -global virtio-mmio.force-legacy=false -kernel {kernel} \
         -append 'quiet console=ttyS0 reboot=t root=/dev/vda ro no_timer_check' \
         -drive file={rootfs},format=raw,if=none,id=root,readonly=on -device virtio-blk-device,drive=root"
    );
    let mote_rootfs = format!("{rootfs},ro");
    // The greeting of the default guest ends both.
    let more = [
        "--kernel",
        kernel,
        "--rootfs",
        &mote_rootfs,
        "--runs",
        "1",
        "--vs",
        &qemu,
    ];
    let out = bench(&more).success();
    assert!(out.contains("times as long as qemu-system-x86_64"), "{out}");
    assert!(
        out.contains("init-to-marker") && out.contains("spawn-to-marker"),
        "{out}"
    );
}
