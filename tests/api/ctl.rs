//! `mote ctl`, as people type it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use crate::client::Mote;
use crate::common::{Code, kvm};

fn ctl(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    let Output {
        status,
        stdout,
        stderr,
    } = command.arg("ctl").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[test]
fn a_vm_is_looked_at_paused_changed_and_stopped() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, [0; 8192]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, two) = (disk("one"), disk("two"));
    let options = [
        "--disk",
        &format!("{one},ro"),
        "--balloon",
        "0",
        "--id",
        "web",
    ];
    let mut mote = Mote::run(Code::new().print("up").spin(), &options);
    mote.wait_for("up");
    let socket = mote.socket();
    let socket = socket.to_str().unwrap();
    let done = |arguments: &[&str]| {
        let (status, out, err) = ctl(&[&[socket], arguments].concat());
        assert_eq!((status, err.as_str()), (0, ""), "{arguments:?}");
        out
    };
    let state = done(&["state"]);
    let expected = format!(
        "name      web\nstate     running\nprocess   {} ",
        mote.child.id()
    );
    assert!(state.starts_with(&expected), "{state}");
    assert!(
        state.ends_with("drives    vda\nnetworks  none\n"),
        "{state}"
    );
    done(&["pause"]);
    let state: serde_json::Value = serde_json::from_str(&done(&["state", "--json"])).unwrap();
    assert_eq!(state["state"], "paused");
    done(&["resume"]);
    done(&["balloon", "32M"]);
    done(&["drive", "vda", &two]);
    assert!(done(&["config"]).contains("id = \"web\"") || done(&["config"]).contains("[boot]"));
    assert!(done(&["metrics"]).contains("mote_vm_cpus 1\n"));
    for (arguments, code, words) in [
        (
            &["drive", "vdb", &two][..],
            10,
            "there is no drive vdb: the VM has vda",
        ),
        (&["drive", "vda", "/etc/passwd"], 10, "/etc/passwd"),
        (&["link", "net0", "down"], 10, "there is no network net0"),
        (&["balloon", "1G"], 10, "128M"),
        (&["balloon", "1K"], 2, "whole number of MiB"),
        (&["attach", "disk", "x"], 2, "virtio-mmio"),
        (&["detach", "vda"], 2, "virtio-mmio"),
        (&["stop", "--timeout", "soon"], 2, "must be a time"),
    ] {
        let (status, _, err) = ctl(&[&[socket], arguments].concat());
        assert_eq!(status, code, "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    // This guest hears no button, so it's stopped.
    let (status, _, err) = ctl(&[socket, "stop", "--timeout", "10ms"]);
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("it is stopped"), "{err}");
    assert_eq!(mote.wait().code(), Some(143));
    let (status, _, err) = ctl(&[socket, "state"]);
    assert!(
        status == 2 && err.contains("there is no such socket"),
        "{err}"
    );
}

#[test]
fn what_is_no_mote_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let name = path.to_str().unwrap();
    for (answer, words) in [
        ("SSH-2.0-x\r\n", "doesn't speak HTTP"),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "answered 404",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            "answered /mote/v1/state with",
        ),
    ] {
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let (status, _, err) = ctl(&[name, "state"]);
        peer.join().unwrap();
        assert_eq!(status, 2, "{err}");
        assert!(err.contains("no mote") && err.contains(words), "{err}");
        // Nobody listens there any more.
        let (status, _, err) = ctl(&[name, "state"]);
        assert!(status == 2 && err.contains("has ended"), "{err}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_vm_that_was_never_started_is_stopped_too() {
    let mut mote = Mote::serve(&[]);
    let socket = mote.socket();
    let socket = socket.to_str().unwrap();
    let (status, out, err) = ctl(&[socket, "state"]);
    assert!(status == 0 && out.contains("not-started"), "{out}{err}");
    let (status, _, err) = ctl(&[socket, "pause"]);
    assert!(
        status == 10 && err.contains("before the microVM has started"),
        "{err}"
    );
    let (status, _, err) = ctl(&[socket, "stop"]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(mote.wait().code(), Some(0));
}
