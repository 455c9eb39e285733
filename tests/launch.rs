//! `mote bench launch` and `--notify-fd`, with tiny guests: what is measured, what is said when a VM fails,
//! and that no VM is left behind. They need a KVM, but not one that can run Linux.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{BOOT_TIMER, Code, kvm};

const MOTE: &str = env!("CARGO_BIN_EXE_mote");

/// Files of a test, in a folder by which its processes are known.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// With a guest as "kernel"; `None` (said aloud) where there is no KVM.
    fn with(code: Code) -> Option<Self> {
        kvm()?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), code.kernel()).unwrap();
        Some(Place { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mote(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MOTE);
        command
            .args(arguments)
            .args(["--memory", "32M", "--kernel", "kernel"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn launch(&self, arguments: &[&str]) -> Command {
        self.mote(&[&["bench", "launch"], arguments].concat())
    }

    /// How many processes of the test there are.
    fn processes(&self) -> usize {
        // A VM has wiped its environment: its folder tells.
        let marked = |proc: &Path| {
            let folder = std::fs::read_link(proc.join("cwd"));
            folder.is_ok_and(|folder| folder == self.folder.path())
        };
        let all = std::fs::read_dir("/proc").unwrap();
        all.filter(|entry| marked(&entry.as_ref().unwrap().path()))
            .count()
    }
}

impl Drop for Place {
    /// Whatever the test came to, its processes go.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.processes(), 0, "processes are left");
        }
    }
}

/// Asks until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn stays() -> Code {
    Code::new().write_byte(BOOT_TIMER, 123).halt()
}

#[test]
fn all_vms_are_up_at_once_and_measured() {
    let Some(place) = Place::with(stays()) else {
        return;
    };
    let arguments = [
        "--count",
        "5",
        "--parallel",
        "2",
        "--settle",
        "0s",
        "--json",
        "j",
        "--md",
        "m",
    ];
    let (code, out, err) = texts(place.launch(&arguments).output().unwrap());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("j")).unwrap()).unwrap();
    let number = |pointer: &str| {
        let value = json.pointer(pointer).and_then(|value| value.as_f64());
        value.unwrap_or_else(|| panic!("{pointer}: {json:#}"))
    };
    assert_eq!((number("/count"), number("/parallel")), (5.0, 2.0));
    for spread in ["exec_to_first_run_us", "exec_to_init_us", "start_to_up_us"] {
        let [min, p50, max] = ["min", "p50", "max"].map(|of| number(&format!("/{spread}/{of}")));
        assert!(0.0 < min && min <= p50 && p50 <= max, "{json:#}");
    }
    assert!(number("/vms_per_second") > 0.0);
    // The guest's pages are told apart from what mote needs besides.
    assert!(number("/memory/private_guest_kib/min") >= 4.0, "{json:#}");
    let besides = number("/memory/private_besides_kib/mean");
    assert!(besides > 0.0 && besides < 8192.0, "{json:#}");
    let uses = json["memory"]["uses"].as_array().unwrap();
    let uses: Vec<_> = uses.iter().map(|of| of["what"].as_str().unwrap()).collect();
    for what in ["guest-kernel-text", "code", "heap", "stack"] {
        assert!(uses.contains(&what), "{uses:?}");
    }
    assert_eq!(json["config"]["console"], "none");
    assert!(out.starts_with("5 VMs, 2 at a time, up in "), "{out}");
    assert!(
        out.contains("\nPrivate besides the guest's pages: "),
        "{out}"
    );
    let page = std::fs::read_to_string(place.path("m")).unwrap();
    assert!(page.contains("| exec to init | "), "{page}");
}

#[test]
fn without_keeping_only_starts_are_measured_and_each_vm_has_its_number() {
    let Some(place) = Place::with(Code::new().print("x").halt()) else {
        return;
    };
    let arguments = [
        "--count",
        "5",
        "--parallel",
        "5",
        "--no-keep",
        "--until",
        "run",
    ];
    let mut command = place.launch(&arguments);
    command.args(["--console", "file=out{}", "--json", "j"]);
    let (code, out, err) = texts(command.output().unwrap());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let json = std::fs::read_to_string(place.path("j")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["memory"].is_null() && json["exec_to_init_us"].is_null(),
        "{json:#}"
    );
    let outputs: Vec<_> = (1..=5).map(|n| place.path(&format!("out{n}"))).collect();
    assert!(outputs.iter().all(|path| path.exists()));
}

#[test]
fn a_vm_that_fails_is_told_in_its_own_words() {
    let Some(place) = Place::with(stays()) else {
        return;
    };
    std::fs::write(place.path("odd"), [0; 1000]).unwrap();
    let mut command = place.launch(&["--count", "3", "--disk", "odd,ro"]);
    let (code, out, err) = texts(command.output().unwrap());
    assert_eq!(
        (code, out.as_str(), err.lines().count()),
        (Some(2), "", 1),
        "{err}"
    );
    assert!(
        err.starts_with("mote: VM ") && err.contains(" of 3: drive odd"),
        "{err}"
    );
    assert!(err.contains("odd has 1000 bytes"), "{err}");
    let (code, _, err) = texts(place.launch(&["--cpus", "0"]).output().unwrap());
    assert_eq!((code, err.lines().count()), (Some(2), 1), "{err}");
    assert!(err.contains("--cpus 0"), "{err}");
    for wrong in [["--count", "0"], ["--settle", "soon"], ["--until", "lunch"]] {
        let (code, _, err) = texts(place.launch(&wrong).output().unwrap());
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{err}");
        assert!(err.contains(wrong[0]), "{err}");
    }
}

#[test]
fn a_guest_that_does_not_signal_or_does_not_stay_is_told_so() {
    let Some(place) = Place::with(Code::new().halt()) else {
        return;
    };
    let mut command = place.launch(&["--count", "2", "--time-limit", "500ms"]);
    let (code, _, err) = texts(command.output().unwrap());
    assert_eq!((code, err.lines().count()), (Some(1), 1), "{err}");
    assert!(
        err.contains("not up after 0.5 s") && err.contains("--until run"),
        "{err}"
    );

    let Some(place) = Place::with(Code::new().reset()) else {
        return;
    };
    let (code, _, err) = texts(place.launch(&["--count", "2"]).output().unwrap());
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("ended (exit status: 0) before its init"),
        "{err}"
    );

    let code = Code::new().write_byte(BOOT_TIMER, 123).reset();
    let Some(place) = Place::with(code) else {
        return;
    };
    let mut command = place.launch(&["--count", "2", "--settle", "50s"]);
    let (code, _, err) = texts(command.output().unwrap());
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("its guest has to stay") || err.contains("before its init"),
        "{err}"
    );
}

/// A launch whose VMs are all up and rest.
fn resting(place: &Place) -> Child {
    let mut command = place.launch(&["--count", "3", "--settle", "1000s"]);
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    until("three VMs and their parent", || place.processes() == 4);
    child
}

#[test]
fn no_vm_outlives_the_command_whatever_ends_it() {
    let Some(place) = Place::with(stays()) else {
        return;
    };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut child = resting(&place);
        // SAFETY: takes no pointer; the child was not waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        let status = child.wait().unwrap();
        if signal == libc::SIGKILL {
            assert_eq!(status.signal(), Some(signal));
            until("the VMs' end", || place.processes() == 0);
        } else {
            assert_eq!(status.code(), Some(128 + signal));
            assert_eq!(place.processes(), 0);
        }
    }
}

#[test]
fn a_descriptor_learns_when_the_guest_runs_and_when_init_has_signalled() {
    let Some(place) = Place::with(stays()) else {
        return;
    };
    let arguments = [
        "run",
        "--console",
        "none",
        "--cpus",
        "2",
        "--notify-fd",
        "1",
    ];
    let mut child = place
        .mote(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut time = |moment: &str| -> u64 {
        let line = lines.next().unwrap().unwrap();
        let (word, time) = line.split_once(' ').unwrap();
        assert_eq!(word, moment);
        time.parse().unwrap()
    };
    let (running, init) = (time("running"), time("init"));
    assert!(0 < running && running <= init);
    // SAFETY: takes no pointer; the child was not waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    child.wait().unwrap();
    assert!(lines.next().is_none(), "nothing is said twice");
    let mut command = place.mote(&["run", "--console", "none", "--notify-fd", "54321"]);
    let (code, _, err) = texts(command.output().unwrap());
    assert_eq!((code, err.lines().count()), (Some(2), 1), "{err}");
    assert!(
        err.contains("--notify-fd 54321: ") && err.contains("leaves it open"),
        "{err}"
    );
}
