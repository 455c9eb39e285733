//! What confines a VM (docs/sandbox.md): the filters by themselves, by examples/filters.rs, and around a
//! running `mote run`, as someone sees them who looks from outside.

mod common;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{Code, kvm};
use motevm::sandbox::ThreadKind;

/// The example, which cargo has built for the tests.
fn filters(kind: ThreadKind, what: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let mut path = PathBuf::from(tests.parent().unwrap().parent().unwrap());
    path.push("examples/filters");
    assert!(
        path.exists(),
        "`cargo build --examples` makes {}",
        path.display()
    );
    let mut command = Command::new(path);
    command.args([&format!("{kind:?}"), what]);
    command
}

#[test]
fn each_kind_of_thread_may_do_what_its_list_says_and_nothing_else() {
    for kind in ThreadKind::ALL {
        for what in ["allowed", "forbidden"] {
            let output = filters(kind, what).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{kind:?} {what}: {text}{errors}");
            let number = text.split(' ').next().unwrap().parse::<u32>().unwrap();
            assert!(number > 15, "{kind:?} {what}: {text}");
        }
    }
}

#[test]
fn a_violation_names_the_call_and_the_thread_and_has_its_own_status() {
    let execve = libc::SYS_execve.to_string();
    let output = filters(ThreadKind::Vcpu, &execve).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{errors}");
    assert!(
        errors.contains(&format!(
            "thread main made a system call that its filter forbids: execve ({execve})"
        )),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

/// A VM whose guest goes on for ever, and what it was started with.
struct Running {
    mote: Child,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(options: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, Code::new().print("ready").spin().kernel()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command.args(["run", "--kernel"]).arg(&kernel).args(options);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        prepare(&mut command);
        let mut mote = command.spawn().unwrap();
        let mut ready = [0; 5];
        mote.stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        assert_eq!(&ready, b"ready");
        Running {
            mote,
            _folder: folder,
        }
    }

    fn file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.mote.id());
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    }

    /// The name and the status file of each thread.
    fn threads(&self) -> Vec<(String, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.mote.id())).unwrap();
        let of = |task: fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap();
            (read("comm").trim().to_owned(), read("status"))
        };
        tasks.map(|task| of(task.unwrap())).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.mote.kill();
        let _ = self.mote.wait();
    }
}

fn line<'a>(status: &'a str, key: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.trim()
}

#[test]
fn every_thread_is_filtered_and_has_no_capabilities() {
    if kvm().is_none() {
        return;
    }
    let vm = Running::start(&["--cpus", "2"], |_| ());
    // Main takes its filter last; it says `running` before that.
    let confined = |(_, status): &(String, String)| line(status, "Seccomp:") == "2";
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while !vm.threads().iter().all(confined) {
        assert!(std::time::Instant::now() < deadline, "{:?}", vm.threads());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let threads = vm.threads();
    let names: Vec<_> = threads.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["mote", "mote-vcpu0", "mote-vcpu1", "mote-starter"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for (name, status) in &threads {
        assert_eq!(line(status, "NoNewPrivs:"), "1", "{name}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(status, set), "0000000000000000", "{name} {set}");
        }
    }
}

#[test]
fn nothing_that_a_supervisor_had_is_left() {
    if kvm().is_none() {
        return;
    }
    let secret = fs::File::open("/etc/passwd").unwrap();
    let fd = {
        use std::os::fd::AsRawFd;
        secret.as_raw_fd()
    };
    let inherit = move |command: &mut Command| {
        use std::os::unix::process::CommandExt;
        command.env("TOKEN", "of-a-supervisor");
        // SAFETY: async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::dup2(fd, 77);
                Ok(())
            })
        };
    };
    let has_secret = |vm: &Running| {
        let links = fs::read_dir(format!("/proc/{}/fd", vm.mote.id())).unwrap();
        let mut targets = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
        targets.any(|target| target.as_os_str() == "/etc/passwd")
    };
    let vm = Running::start(&[], inherit);
    assert!(!has_secret(&vm));
    assert!(
        !vm.file("environ").contains("supervisor"),
        "{}",
        vm.file("environ")
    );
    let limits = vm.file("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");

    // And what is asked for is kept.
    let mut vm = Running::start(&["--no-sandbox", "--core-dump"], inherit);
    assert!(has_secret(&vm));
    assert!(vm.file("environ").contains("supervisor"));
    assert!(
        vm.threads()
            .iter()
            .all(|(_, status)| line(status, "Seccomp:") == "0")
    );
    vm.mote.kill().unwrap();
    let mut errors = String::new();
    vm.mote
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert!(errors.starts_with("mote: --no-sandbox: "), "{errors}");
}
