//! resources/api/openapi.yaml against what mote says and takes: each request here, with its answer, is checked by
//! tests/clients/openapi.py with validators that nobody here wrote.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::Mote;
use crate::common::{Code, can_run, kvm};

/// The Python of resources/api-clients.sh; `None` (said aloud) where there is none.
pub fn python() -> Option<PathBuf> {
    let folder = clients()?.join("python/bin/python");
    can_run(
        "clients",
        (!folder.exists())
            .then(|| format!("{} is missing: resources/api-clients.sh", folder.display())),
    )
    .then_some(folder)
}

/// Where resources/api-clients.sh puts what it makes.
pub fn clients() -> Option<PathBuf> {
    let cache = std::env::var_os("MOTE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(motevm::boot::user_cache_folder)?;
    Some(
        cache
            .join("peers")
            .join(std::env::consts::ARCH)
            .join("api-clients"),
    )
}

#[test]
fn requests_and_answers_are_as_it_says() {
    let (Some(python), Some(_)) = (python(), kvm()) else {
        return;
    };
    let mut mote = Mote::serve(&["--id", "checked"]);
    let kernel = mote.set_kernel(Code::new().print("up").spin());
    let disk = mote.path("disk");
    fs::write(&disk, [0; 8192]).unwrap();
    let mut said: Vec<Value> = Vec::new();
    let mut ask = |mote: &Mote, method: &str, path: &str, body: Value| {
        let body = (!body.is_null()).then_some(body);
        let answer = mote.ask(method, path, body.clone());
        let text = match answer.head.contains("application/json") {
            true => answer.json(),
            false => json!(String::from_utf8_lossy(&answer.body)),
        };
        said.push(
            json!({ "method": method, "path": path, "body": body, "status": answer.status,
            "answer": if answer.status == 204 { Value::Null } else { text } }),
        );
        answer.status
    };
    let limiter = json!({ "ops": { "size": 10, "refill_time": 100, "one_time_burst": 0 } });
    let before = [
        ("GET", "/", Value::Null),
        ("GET", "/version", Value::Null),
        ("GET", "/machine-config", Value::Null),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 128, "smt": false, "huge_pages": "None" }),
        ),
        ("PATCH", "/machine-config", json!({ "mem_size_mib": 64 })),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": kernel, "boot_args": "quiet" }),
        ),
        (
            "PUT",
            "/drives/a",
            json!({ "drive_id": "a", "is_root_device": true, "is_read_only": true,
            "path_on_host": disk, "rate_limiter": limiter, "cache_type": "Writeback", "io_engine": "Sync" }),
        ),
        (
            "PUT",
            "/pmem/p",
            json!({ "id": "p", "path_on_host": disk, "read_only": true }),
        ),
        (
            "PUT",
            "/network-interfaces/n",
            json!({ "iface_id": "n", "host_dev_name": "mote-none", "mtu": 1500,
            "guest_mac": "02:00:00:00:00:01", "rx_rate_limiter": limiter }),
        ),
        (
            "PUT",
            "/balloon",
            json!({ "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1 }),
        ),
        ("PATCH", "/balloon", json!({ "amount_mib": 1 })),
        (
            "PATCH",
            "/balloon/statistics",
            json!({ "stats_polling_interval_s": 2 }),
        ),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 3, "uds_path": mote.path("v") }),
        ),
        ("PUT", "/entropy", json!({})),
        ("PUT", "/serial", json!({})),
        ("PUT", "/logger", json!({ "level": "Warning" })),
        ("PUT", "/metrics", json!({ "metrics_path": mote.path("m") })),
        ("GET", "/vm/config", Value::Null),
        ("GET", "/mote/v1/state", Value::Null),
        ("GET", "/mote/v1/config", Value::Null),
    ];
    for (method, path, body) in before {
        let status = ask(&mote, method, path, body);
        assert!(status < 300, "{method} {path}: {status}");
    }
    // What mote refuses, the description must not promise; and the other way round.
    for (method, path, body) in [
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 65, "mem_size_mib": 128 }),
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 23 }),
        ),
        ("PUT", "/machine-config", json!({ "vcpu_count": 1 })),
        ("PATCH", "/machine-config", json!({})),
        ("PATCH", "/machine-config", json!({ "smt": true })),
        ("PATCH", "/machine-config", json!({ "huge_pages": "1G" })),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": kernel, "colour": 1 }),
        ),
        (
            "PUT",
            "/drives/a",
            json!({ "drive_id": "a", "is_root_device": false }),
        ),
        (
            "PUT",
            "/drives/a",
            json!({ "drive_id": "a", "is_root_device": false, "socket": "s", "io_engine": "Sync" }),
        ),
        (
            "PUT",
            "/pmem/p",
            json!({ "id": "p", "path_on_host": disk, "rate_limiter": {} }),
        ),
        (
            "PUT",
            "/network-interfaces/n",
            json!({ "iface_id": "n", "host_dev_name": "t", "guest_mac": "x" }),
        ),
        (
            "PUT",
            "/network-interfaces/n",
            json!({ "iface_id": "n", "host_dev_name": "t", "mtu": 67 }),
        ),
        (
            "PUT",
            "/balloon",
            json!({ "amount_mib": -1, "deflate_on_oom": true }),
        ),
        (
            "PUT",
            "/balloon",
            json!({ "amount_mib": 1, "deflate_on_oom": true, "free_page_hinting": true }),
        ),
        ("PUT", "/vsock", json!({ "guest_cid": 2, "uds_path": "v" })),
        ("PUT", "/entropy", json!({ "rate_limiter": limiter })),
        ("PUT", "/serial", json!({ "rate_limiter": {} })),
        ("PUT", "/logger", json!({ "level": "Loud" })),
        ("PUT", "/logger", json!({ "show_log_origin": true })),
        ("PUT", "/metrics", json!({})),
        ("PUT", "/actions", json!({ "action_type": "Dance" })),
        ("PATCH", "/vm", json!({ "state": "Running" })),
    ] {
        assert_eq!(
            ask(&mote, method, path, body.clone()),
            400,
            "{method} {path} {body}"
        );
    }
    drop(mote);
    // A VM of the same parts that starts anywhere.
    mote = Mote::serve(&["--id", "checked"]);
    let kernel = mote.set_kernel(Code::new().print("up").spin());
    let disk = mote.path("disk");
    fs::write(&disk, [0; 8192]).unwrap();
    for (method, path, body) in [
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": kernel }),
        ),
        (
            "PUT",
            "/drives/a",
            json!({ "drive_id": "a", "is_root_device": false, "path_on_host": disk }),
        ),
        (
            "PUT",
            "/balloon",
            json!({ "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1 }),
        ),
        ("PUT", "/metrics", json!({ "metrics_path": mote.path("m") })),
        ("PUT", "/actions", json!({ "action_type": "InstanceStart" })),
    ] {
        assert_eq!(ask(&mote, method, path, body), 204, "{path}");
    }
    mote.wait_for("up");
    for (method, path, body, status) in [
        ("GET", "/", Value::Null, 200),
        ("PATCH", "/vm", json!({ "state": "Paused" }), 204),
        ("GET", "/mote/v1/state", Value::Null, 200),
        ("PATCH", "/vm", json!({ "state": "Resumed" }), 204),
        (
            "PATCH",
            "/drives/a",
            json!({ "drive_id": "a", "rate_limiter": limiter }),
            204,
        ),
        ("PATCH", "/balloon", json!({ "amount_mib": 8 }), 204),
        ("GET", "/balloon", Value::Null, 200),
        ("GET", "/balloon/statistics", Value::Null, 200),
        ("GET", "/vm/config", Value::Null, 200),
        ("GET", "/mote/v1/config", Value::Null, 200),
        ("GET", "/mote/v1/metrics", Value::Null, 200),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "FlushMetrics" }),
            204,
        ),
        (
            "PATCH",
            "/network-interfaces/n",
            json!({ "iface_id": "n" }),
            400,
        ),
        ("PATCH", "/mote/v1/links/n", json!({ "up": true }), 400),
        ("PUT", "/mote/v1/power-button", Value::Null, 400),
        ("PUT", "/mote/v1/stop", Value::Null, 204),
    ] {
        assert_eq!(ask(&mote, method, path, body), status, "{method} {path}");
    }
    mote.wait();
    said.push(
        json!({ "method": "GET", "path": "/mote/v1/ended", "body": null, "status": 200,
        "answer": { "how": "stopped" } }),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), Value::from(said).to_string()).unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(python)
        .arg(format!("{root}/tests/clients/openapi.py"))
        .arg(format!("{root}/resources/api/openapi.yaml"))
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
