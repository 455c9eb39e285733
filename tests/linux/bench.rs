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
    let budget = format!("exits={}", native::EXITS_TO_INIT - 1);
    let more = [
        "--console",
        "none",
        "--runs",
        "2",
        "--budget",
        &budget,
        "--json",
        path(&json),
    ];
    let out = bench(&more).success();
    assert!(out.contains(&format!("ok    --budget {budget}")), "{out}");
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
    let program = format!("qemu-system-{}", std::env::consts::ARCH);
    let qemu = Command::new(&program).arg("--version").output();
    let obstacle = qemu.err().map(|e| format!("{program}: {e}"));
    if !can_run("peers", obstacle) {
        return;
    }
    let (kernel, rootfs) = (path(&guests.kernel), path(&guests.rootfs));
    let qemu = format!(
        "{program} {} -accel kvm -cpu host -m 128 -nodefaults -no-user-config -display none -no-reboot \
         -global virtio-mmio.force-legacy=false -kernel {kernel} \
         -drive file={rootfs},format=raw,if=none,id=root,readonly=on -device virtio-blk-device,drive=root",
        native::OTHER_MONITOR
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
    // A figure, and no promise: times of a busy or an emulated host say little.
    let _ = writeln!(std::io::stderr(), "{out}");
    let ratio = format!("times as long as {program}");
    assert!(out.contains(&ratio), "{out}");
    assert!(
        out.contains("init-to-marker") && out.contains("spawn-to-marker"),
        "{out}"
    );
}
