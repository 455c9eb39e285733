//! What changes of a VM's devices while it runs, over the API and confined as ever.

use std::fs;

use serde_json::json;

use crate::client::Mote;
use crate::common::{Code, kvm};

#[test]
fn another_medium_comes_from_where_it_may_and_from_nowhere_else() {
    if kvm().is_none() {
        return;
    }
    let (near, far, beyond) = [(); 3].map(|()| tempfile::tempdir().unwrap()).into();
    let image = |folder: &tempfile::TempDir, name: &str, size: usize| {
        let path = folder.path().join(name);
        fs::write(&path, vec![0; size]).unwrap();
        path
    };
    let first = image(&near, "first", 8192);
    let second = image(&near, "second", 16384);
    let allowed = image(&far, "allowed", 4096);
    let forbidden = image(&beyond, "forbidden", 4096);
    let odd = image(&near, "odd", 1000);
    let folder = far.path().to_str().unwrap();
    let mut mote = Mote::serve(&["--api-files", folder]);
    mote.put(
        "/drives/data",
        json!({ "drive_id": "data", "is_root_device": false, "is_read_only": true,
            "path_on_host": first }),
    );
    mote.boot(Code::new().print("up").halt());
    mote.wait_for("up");
    let change = |path: &std::path::Path| {
        let body = json!({ "drive_id": "data", "path_on_host": path });
        mote.ask("PATCH", "/drives/data", Some(body))
    };
    let present = || mote.get("/vm/config")["drives"][0]["path_on_host"].clone();
    for path in [&second, &allowed, &first] {
        let answer = change(path);
        assert_eq!(answer.status, 204, "{}: {answer}", path.display());
        assert_eq!(present(), json!(path));
    }
    for (path, words) in [
        (&forbidden, "forbidden"),
        (&odd, "512"),
        (&near.path().join("nowhere"), "nowhere"),
    ] {
        let fault = change(path).fault();
        assert!(fault.contains(words), "{fault}");
        assert_eq!(present(), json!(first));
    }
    // Limits: set, changed in part, and taken away.
    let limits = || mote.get("/vm/config")["drives"][0]["rate_limiter"].clone();
    let set = |limiter: serde_json::Value| {
        mote.patch(
            "/drives/data",
            json!({ "drive_id": "data", "rate_limiter": limiter }),
        );
    };
    let (ops, bytes) = (
        json!({ "size": 5, "refill_time": 100 }),
        json!({ "size": 1, "refill_time": 1 }),
    );
    set(json!({ "ops": ops }));
    set(json!({ "bandwidth": bytes }));
    assert_eq!(limits(), json!({ "ops": ops, "bandwidth": bytes }));
    set(json!({ "ops": { "size": 0, "refill_time": 0 } }));
    assert_eq!(limits()["ops"]["size"], 0);
    assert_eq!(mote.state(), "Running");
}

#[test]
fn a_paused_vm_stands_still_and_goes_on() {
    if kvm().is_none() {
        return;
    }
    let mut mote = Mote::serve(&[]);
    mote.boot(Code::new().print("up").spin());
    mote.wait_for("up");
    for _ in 0..3 {
        for state in ["Paused", "Paused", "Resumed", "Resumed"] {
            mote.patch("/vm", json!({ "state": state }));
            let expected = if state == "Paused" {
                "Paused"
            } else {
                "Running"
            };
            assert_eq!(mote.state(), expected);
        }
    }
    mote.patch("/vm", json!({ "state": "Paused" }));
    assert_eq!(mote.get("/mote/v1/state")["state"], "paused");
    // A paused VM can be looked at, and ended.
    assert_eq!(mote.ask("GET", "/mote/v1/metrics", None).status, 200);
    mote.put("/mote/v1/stop", json!({}));
    assert_eq!(mote.wait().code(), Some(143));
    assert_eq!(mote.errors(), "");
}
