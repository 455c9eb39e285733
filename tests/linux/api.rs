//! A Linux that is described, booted, paused, resumed, changed and stopped over the API.

use serde_json::json;

use super::*;
use crate::client::Mote;

#[test]
fn linux_is_booted_paused_resumed_and_stopped_over_the_api() {
    let Some(guests) = guests() else { return };
    let mut vm = Mote::serve(&["--id", "linux"]);
    let disk = |name: &str, size: usize| {
        let path = vm.path(name);
        fs::write(&path, vec![b'0'; size]).unwrap();
        path
    };
    let (first, second) = (disk("first", 1 << 20), disk("second", 2 << 20));
    // Counts, and shows the size of its second drive.
    let script =
        "i=0; while :; do i=$((i+1)); echo =$i:$(cat /sys/block/vdb/size)=; sleep 0.1; done";
    let args = format!("console=ttyS0 reboot=t panic=-1 quiet mote.run=\"{script}\"");
    vm.put(
        "/machine-config",
        json!({ "vcpu_count": 2, "mem_size_mib": 128 }),
    );
    vm.put(
        "/boot-source",
        json!({ "kernel_image_path": guests.kernel, "boot_args": args }),
    );
    let drive = |id: &str, path: &Path, root: bool| json!({ "drive_id": id, "path_on_host": path, "is_root_device": root, "is_read_only": true });
    vm.put("/drives/data", drive("data", &first, false));
    vm.put("/drives/root", drive("root", &guests.rootfs, true));
    vm.put(
        "/balloon",
        json!({ "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1 }),
    );
    vm.put("/entropy", json!({}));
    vm.put("/actions", json!({ "action_type": "InstanceStart" }));
    vm.wait_for("=1:2048=");
    let state = vm.get("/mote/v1/state");
    assert!(state["boot"]["init_us"].as_u64().unwrap() > 0, "{state}");

    vm.patch("/vm", json!({ "state": "Paused" }));
    assert_eq!(vm.state(), "Paused");
    // What was on its way to the console may still come; then nothing.
    let exits = |vm: &Mote| {
        let text = String::from_utf8(vm.ask("GET", "/mote/v1/metrics", None).body).unwrap();
        let of = text
            .lines()
            .filter(|line| line.starts_with("mote_vm_exits_total"));
        of.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let before = exits(&vm);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(exits(&vm), before, "a paused guest runs");
    vm.patch("/vm", json!({ "state": "Resumed" }));
    assert_eq!(vm.state(), "Running");

    vm.patch(
        "/drives/data",
        json!({ "drive_id": "data", "path_on_host": second }),
    );
    vm.wait_for(":4096=");
    vm.patch("/balloon", json!({ "amount_mib": 16 }));
    until("the balloon", || {
        vm.get("/balloon/statistics")["actual_mib"] == 16
    });
    until("the guest's figures", || {
        vm.get("/balloon/statistics")["total_memory"].is_u64()
    });
    let (code, said) = {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_mote"));
        let output = ctl
            .arg("ctl")
            .arg(vm.socket())
            .args(["stop", "--timeout", "1s"])
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(vm.wait().code(), Some(143));
}
