//! `mote run --api`: a VM of arguments, controlled afterwards.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::client::{Mote, ask};
use crate::common::{Code, kvm};

#[test]
fn a_vm_of_arguments_is_shown_in_the_apis_words() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, [0; 8192]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (root, data, more) = (
        disk("root"),
        format!("{},ro,id=data,iops=50", disk("data")),
        disk("more"),
    );
    let options = [
        "--rootfs",
        &root,
        "--disk",
        &data,
        "--disk",
        &more,
        "--balloon",
        "16M",
        "--cpus",
        "2",
        "--id",
        "named",
    ];
    let mut mote = Mote::run(Code::new().print("up").halt(), &options);
    mote.wait_for("up");
    assert_eq!(mote.get("/")["id"], "named");
    let whole = mote.get("/vm/config");
    assert_eq!(whole["machine-config"]["vcpu_count"], 2, "{whole}");
    assert_eq!(whole["balloon"]["amount_mib"], 16);
    let ids: Vec<_> = whole["drives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["drive_id"].clone())
        .collect();
    assert_eq!(ids, ["rootfs", "data", "vdc"]);
    assert_eq!(
        whole["drives"][1]["rate_limiter"]["ops"],
        json!({ "size": 5, "refill_time": 100 })
    );
    let state = mote.get("/mote/v1/state");
    let named = |id: &str, device: &str| json!({ "id": id, "device": device });
    let expected = [
        named("rootfs", "vda"),
        named("data", "vdb"),
        named("vdc", "vdc"),
    ];
    assert_eq!(state["drives"], json!(expected));
    mote.patch("/balloon", json!({ "amount_mib": 32 }));
    assert_eq!(mote.get("/balloon")["amount_mib"], 32);
    let fault = mote.fault("PATCH", "/balloon", json!({ "amount_mib": 4096 }));
    assert!(fault.contains("128M"), "{fault}");
    let fault = mote.ask("GET", "/balloon/statistics", None).fault();
    assert!(fault.contains("stats_polling_interval_s"), "{fault}");
    mote.put("/mote/v1/stop", json!({}));
    assert_eq!(mote.wait().code(), Some(143));
}

#[test]
fn a_socket_that_listens_already_is_taken_over() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (kernel, socket) = (folder.path().join("kernel"), folder.path().join("socket"));
    fs::write(&kernel, Code::new().halt().kernel()).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let fd = listener.as_raw_fd();
    for command in ["run", "serve"] {
        let mut mote = Command::new(env!("CARGO_BIN_EXE_mote"));
        mote.args([command, "--api", "fd=200"]);
        if command == "run" {
            mote.arg("--kernel").arg(&kernel);
        }
        mote.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: async-signal-safe.
        unsafe {
            mote.pre_exec(move || {
                libc::dup2(fd, 200);
                Ok(())
            })
        };
        let mut child = mote.spawn().unwrap();
        // Nobody waits for the socket: it's there.
        assert_eq!(ask(&socket, "GET", "/", None).json()["app_name"], "mote");
        assert_eq!(
            ask(&socket, "PUT", "/mote/v1/stop", Some(json!({}))).status,
            204
        );
        child.wait().unwrap();
        assert!(socket.exists());
    }
    // One that isn't there is named.
    let mut mote = Command::new(env!("CARGO_BIN_EXE_mote"));
    let output = mote.args(["serve", "--api", "fd=77"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("mote: --api fd=77: descriptor 77 is not open"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn mistakes_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, Code::new().reset().kernel()).unwrap();
    let kernel = kernel.to_str().unwrap();
    let socket = folder.path().join("s");
    let socket = socket.to_str().unwrap();
    let run = ["run", "--console", "none", "--kernel", kernel];
    for (arguments, words) in [
        (&["--id", "x"][..], "--id x: goes with --api"),
        (
            &["--api-files", "/tmp"],
            "--api-files /tmp: goes with --api",
        ),
        (&["--api", kernel], "no socket"),
        (&["--api", "/nonexistent/s"], "--api /nonexistent/s: "),
        (&["--api", socket, "--id", "a b"], "--id a b: must be"),
        (
            &["--api", socket, "--api-files", "/nonexistent"],
            "--api-files /nonexistent: ",
        ),
    ] {
        let mut mote = Command::new(env!("CARGO_BIN_EXE_mote"));
        let output = mote.args(run).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        if kvm().is_none() {
            continue;
        }
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(output.status.code(), Some(2), "{text}");
    }
}

/// Whoever has neither an API nor a wish for one pays nothing.
#[test]
fn a_vm_with_no_api_has_no_thread_for_it() {
    if kvm().is_none() {
        return;
    }
    let threads = |api: bool| {
        let folder = tempfile::tempdir().unwrap();
        let (kernel, socket) = (folder.path().join("kernel"), folder.path().join("socket"));
        fs::write(&kernel, Code::new().print("up").halt().kernel()).unwrap();
        let mut mote = Command::new(env!("CARGO_BIN_EXE_mote"));
        mote.arg("run").arg("--kernel").arg(&kernel);
        if api {
            mote.arg("--api").arg(&socket);
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        mote.stdin(Stdio::null()).stdout(writer);
        let mut child = mote.spawn().unwrap();
        drop(mote);
        std::io::Read::read_exact(&mut reader, &mut [0; 2]).unwrap();
        if api {
            assert_eq!(ask(&socket, "GET", "/", None).json()["state"], "Running");
        }
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let names =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        let names: Vec<_> = names.collect();
        child.kill().unwrap();
        child.wait().unwrap();
        names.iter().any(|name| name.trim() == "mote-api")
    };
    assert!(threads(true));
    assert!(!threads(false));
}
