//! `mote serve`: a VM described, started and ended over the API.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::client::Mote;
use crate::common::{Code, kvm};

#[test]
fn a_vm_is_described_started_and_ends_with_its_status() {
    if kvm().is_none() {
        return;
    }
    let mut mote = Mote::serve(&["--id", "vm-1"]);
    let mode = fs::metadata(mote.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let info = mote.get("/");
    assert_eq!(info["id"], "vm-1");
    assert_eq!(info["state"], "Not started");
    assert_eq!(info["vmm_version"], env!("CARGO_PKG_VERSION"));
    assert!(mote.get("/version")["firecracker_version"].is_string());
    assert_eq!(mote.get("/machine-config")["mem_size_mib"], 128);
    mote.put(
        "/machine-config",
        json!({ "vcpu_count": 2, "mem_size_mib": 64 }),
    );
    mote.patch("/machine-config", json!({ "vcpu_count": 1 }));
    assert_eq!(mote.get("/machine-config")["mem_size_mib"], 64);
    mote.put("/entropy", json!({}));
    mote.boot(Code::new().print("hello").halt());
    mote.wait_for("hello");
    assert_eq!(mote.state(), "Running");
    let state = mote.get("/mote/v1/state");
    assert_eq!(state["state"], "running");
    assert!(
        state["boot"]["first_run_us"].as_u64().unwrap() > 0,
        "{state}"
    );
    let text = String::from_utf8(mote.ask("GET", "/mote/v1/metrics", None).body).unwrap();
    assert!(text.contains("mote_vm_cpus 1\n"), "{text}");
    let config = mote.get("/mote/v1/config");
    assert_eq!(config["memory"], "64M", "{config}");
    mote.put("/mote/v1/stop", json!({}));
    // As one that was ended by SIGTERM, which is what it is.
    assert_eq!(mote.wait().code(), Some(143));
    assert!(!mote.socket().exists());
    assert_eq!(mote.errors(), "");
}

#[test]
fn a_guest_that_ends_by_itself_ends_the_process_as_with_run() {
    if kvm().is_none() {
        return;
    }
    for (code, how, status) in [
        (Code::new().reset(), "reset", 0),
        (Code::new().power_off(), "power-off", 0),
        (Code::new().panic(), "panic", 4),
    ] {
        let mut mote = Mote::serve(&[]);
        let socket = mote.socket();
        // Asked beforehand, and answered at the end.
        let ended = std::thread::spawn(move || {
            crate::client::ask(&socket, "GET", "/mote/v1/ended", None).json()
        });
        mote.boot(code);
        assert_eq!(ended.join().unwrap()["how"], how);
        assert_eq!(mote.wait().code(), Some(status));
    }
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let mote = Mote::serve(&[]);
    let here = mote.set_kernel(Code::new());
    let drive = |more: serde_json::Value| {
        let mut drive = json!({ "drive_id": "a", "is_root_device": false, "is_read_only": true,
            "path_on_host": here });
        drive
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        drive
    };
    for (method, path, body, words) in [
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 0, "mem_size_mib": 128 }),
            "1 to 64",
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1 }),
            "mem_size_mib",
        ),
        ("PATCH", "/machine-config", json!({}), "empty"),
        ("PATCH", "/machine-config", json!({ "smt": true }), "smt"),
        (
            "PATCH",
            "/machine-config",
            json!({ "cpu_template": "T2" }),
            "cpu_template",
        ),
        (
            "PATCH",
            "/machine-config",
            json!({ "track_dirty_pages": true }),
            "track_dirty_pages",
        ),
        ("PATCH", "/machine-config", json!({ "colour": 1 }), "colour"),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "/nonexistent" }),
            "/nonexistent",
        ),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "path_on_host": "/nonexistent" })),
            "/nonexistent",
        ),
        ("PUT", "/drives/b", drive(json!({})), "`b`"),
        ("PUT", "/drives/a", drive(json!({ "drive_id": "b" })), "`b`"),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "socket": "s" })),
            "path_on_host",
        ),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "partuuid": "x" })),
            "partuuid",
        ),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "rate_limiter": { "ops": { "size": 1, "refill_time": 5000 } } })),
            "refill_time",
        ),
        (
            "PUT",
            "/drives/a",
            drive(
                json!({ "rate_limiter": { "ops": { "size": 9, "refill_time": 1, "one_time_burst": 1 } } }),
            ),
            "one_time_burst",
        ),
        (
            "PUT",
            "/network-interfaces/n",
            json!({ "iface_id": "n", "host_dev_name": "a/b" }),
            "a/b",
        ),
        (
            "PUT",
            "/network-interfaces/n",
            json!({ "iface_id": "n", "host_dev_name": "t", "guest_mac": "x" }),
            "guest_mac",
        ),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 2, "uds_path": "v" }),
            "cid",
        ),
        (
            "PUT",
            "/entropy",
            json!({ "rate_limiter": {} }),
            "rate_limiter",
        ),
        (
            "PUT",
            "/pmem/p",
            json!({ "id": "p", "path_on_host": here, "rate_limiter": {} }),
            "rate_limiter",
        ),
        (
            "PUT",
            "/balloon",
            json!({ "amount_mib": 1, "deflate_on_oom": true, "free_page_hinting": true }),
            "free_page_hinting",
        ),
        (
            "PUT",
            "/serial",
            json!({ "rate_limiter": { "size": 1, "refill_time": 1 } }),
            "rate_limiter",
        ),
        ("PUT", "/logger", json!({ "level": "Loud" }), "Loud"),
        ("PUT", "/logger", json!({ "module": "api" }), "module"),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "InstanceStart" }),
            "--kernel",
        ),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "Dance" }),
            "Dance",
        ),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "SendCtrlAltDel" }),
            "before",
        ),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "FlushMetrics" }),
            "before",
        ),
        ("PATCH", "/vm", json!({ "state": "Paused" }), "before"),
        ("PATCH", "/drives/a", json!({ "drive_id": "a" }), "before"),
        (
            "PATCH",
            "/network-interfaces/n",
            json!({ "iface_id": "n" }),
            "before",
        ),
        ("PATCH", "/balloon", json!({ "amount_mib": 1 }), "balloon"),
        ("PUT", "/mmds", json!({}), "MMDS"),
        ("PUT", "/mmds/config", json!({}), "MMDS"),
        ("PUT", "/snapshot/create", json!({}), "snapshots"),
        ("PUT", "/snapshot/load", json!({}), "snapshots"),
        ("PUT", "/cpu-config", json!({}), "templates"),
        ("PUT", "/hotplug/memory", json!({}), "balloon"),
        ("PATCH", "/balloon/hinting/start", json!({}), "hinting"),
        ("DELETE", "/drives/a", json!({}), "no such request"),
        ("GET", "/nowhere", json!({}), "no such request"),
        ("PUT", "/mote/v1/nowhere", json!({}), "no such request"),
    ] {
        let fault = mote.fault(method, path, body.clone());
        assert!(fault.contains(words), "{method} {path} {body}: {fault}");
        assert!(!fault.contains('\n'), "{fault}");
    }
    let empty = mote.ask("PUT", "/boot-source", None).fault();
    assert!(empty.contains("empty"), "{empty}");
    let whole = mote.get("/vm/config");
    assert_eq!(whole["drives"], json!([]), "{whole}");
    assert_eq!(whole["machine-config"]["vcpu_count"], 1);
}

#[test]
fn the_same_name_changes_and_one_drive_is_the_root() {
    let mote = Mote::serve(&[]);
    let path = mote.set_kernel(Code::new());
    let drive = |id: &str, root: bool, read_only: bool| {
        json!({ "drive_id": id, "is_root_device": root, "is_read_only": read_only,
            "path_on_host": path })
    };
    mote.put("/drives/data", drive("data", false, false));
    mote.put("/drives/root", drive("root", true, false));
    mote.put("/drives/data", drive("data", false, true));
    let fault = mote.fault("PUT", "/drives/data", drive("data", true, true));
    assert!(fault.contains("is_root_device"), "{fault}");
    let pmem = json!({ "id": "p", "path_on_host": path, "root_device": true });
    let fault = mote.fault("PUT", "/pmem/p", pmem);
    assert!(fault.contains("is_root_device"), "{fault}");
    let drives = mote.get("/vm/config")["drives"].clone();
    let expected = |at: usize, id: &str, read_only: bool| {
        assert_eq!(drives[at]["drive_id"], id, "{drives}");
        assert_eq!(drives[at]["is_read_only"], read_only, "{drives}");
    };
    expected(0, "root", false);
    expected(1, "data", true);
    assert_eq!(drives.as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_start_is_described_anew() {
    if kvm().is_none() {
        return;
    }
    let mut mote = Mote::serve(&[]);
    let bad = mote.path("bad");
    fs::write(&bad, "no kernel").unwrap();
    mote.put("/boot-source", json!({ "kernel_image_path": bad }));
    let fault = mote.fault("PUT", "/actions", json!({ "action_type": "InstanceStart" }));
    assert!(fault.starts_with("starting the microVM: "), "{fault}");
    assert_eq!(mote.state(), "Not started");
    mote.boot(Code::new().print("now").halt());
    mote.wait_for("now");
    // No more changes, by the same sort of answer for all.
    for (method, path, body) in [
        ("PUT", "/actions", json!({ "action_type": "InstanceStart" })),
        ("PUT", "/boot-source", json!({ "kernel_image_path": bad })),
        ("PATCH", "/machine-config", json!({ "vcpu_count": 2 })),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 2, "mem_size_mib": 128 }),
        ),
        (
            "PUT",
            "/drives/a",
            json!({ "drive_id": "a", "is_root_device": false, "path_on_host": bad }),
        ),
        ("PUT", "/pmem/p", json!({ "id": "p", "path_on_host": bad })),
        (
            "PUT",
            "/network-interfaces/n",
            json!({ "iface_id": "n", "host_dev_name": "t" }),
        ),
        ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "v" })),
        (
            "PUT",
            "/balloon",
            json!({ "amount_mib": 1, "deflate_on_oom": false }),
        ),
        ("PUT", "/entropy", json!({})),
        ("PUT", "/serial", json!({})),
        ("PUT", "/metrics", json!({ "metrics_path": "m" })),
        ("PUT", "/logger", json!({ "level": "Info" })),
    ] {
        let fault = mote.fault(method, path, body);
        assert!(
            fault.contains("after the microVM has started"),
            "{path}: {fault}"
        );
    }
    let fault = mote.fault("PATCH", "/drives/a", json!({ "drive_id": "a" }));
    assert!(fault.contains("no drive `a`"), "{fault}");
}

#[test]
fn metrics_and_the_log_go_where_a_request_says() {
    if kvm().is_none() {
        return;
    }
    let mut mote = Mote::serve(&[]);
    let (metrics, log, serial) = (mote.path("metrics"), mote.path("log"), mote.path("serial"));
    mote.put("/metrics", json!({ "metrics_path": metrics }));
    mote.put(
        "/logger",
        json!({ "log_path": log, "level": "Debug", "show_level": true }),
    );
    mote.put("/serial", json!({ "serial_out_path": serial }));
    mote.boot(Code::new().print("to the file").halt());
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while fs::read_to_string(&serial).unwrap_or_default() != "to the file" {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    fs::write(&metrics, "").unwrap();
    mote.put("/actions", json!({ "action_type": "FlushMetrics" }));
    while !fs::read_to_string(&metrics)
        .unwrap_or_default()
        .contains("mote_vm_cpus")
    {
        assert!(std::time::Instant::now() < deadline, "not written");
        std::thread::yield_now();
    }
    mote.put("/mote/v1/stop", json!({}));
    mote.wait();
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("--api: PUT /serial"), "{log}");
    assert_eq!(mote.output(), "");
}

#[test]
fn a_vm_that_nobody_starts_ends_by_a_signal_or_a_request() {
    let mut mote = Mote::serve(&[]);
    // SAFETY: a process of this test's.
    unsafe { libc::kill(mote.child.id() as i32, libc::SIGTERM) };
    assert_eq!(mote.wait().code(), Some(143));
    assert!(!mote.socket().exists());
    let mut mote = Mote::serve(&[]);
    mote.put("/mote/v1/stop", json!({}));
    assert_eq!(mote.wait().code(), Some(0));
    assert!(!mote.socket().exists());
}
