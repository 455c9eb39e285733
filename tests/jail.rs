//! The jail as seen from outside: what a jailed VM's process has of the host, how it ends, what is left of it,
//! and what someone else on the host can do about it.

mod common;
#[path = "jail/folder.rs"]
mod folder;
#[path = "jail/life.rs"]
mod life;
#[path = "jail/options.rs"]
mod options;
#[path = "jail/unprivileged.rs"]
mod unprivileged;
#[path = "jail/view.rs"]
mod view;

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, can_run, kvm};

/// Whom nothing belongs to.
const USER: u32 = 64_123;

/// Whether jails can be made here, and guests run in them.
fn can_jail() -> bool {
    // SAFETY: takes no pointer.
    let root = unsafe { libc::geteuid() } == 0;
    let obstacle = (!root).then(|| "only root becomes another user".to_owned());
    can_run("root", obstacle) && kvm().is_some()
}

/// A folder for jails, and a guest.
struct Place {
    folder: tempfile::TempDir,
    kernel: String,
}

impl Place {
    fn new(code: Code) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, code.kernel()).unwrap();
        let kernel = kernel.to_str().unwrap().to_owned();
        Place { folder, kernel }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("jails")
    }

    /// The folder of the VM "vm".
    fn vm(&self) -> PathBuf {
        self.root().join("vm")
    }

    fn command(&self, keys: &str, more: &[&str]) -> Command {
        let jail = format!("id=vm,uid={USER},root={}{keys}", self.root().display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command
            .args(["run", "--kernel", &self.kernel, "--jail", &jail])
            .args(more)
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end: exit status, and what was said.
    fn run(&self, keys: &str, more: &[&str]) -> (i32, String) {
        outcome(&mut self.command(keys, more))
    }

    /// Nothing is left but the folder for all.
    fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.root()).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn outcome(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    (status.code().unwrap_or(-1), said)
}

/// A guest that prints `ready` and goes on for ever.
fn endless() -> Code {
    Code::new().print("ready").spin()
}

/// A jailed VM that runs.
struct Running {
    supervisor: Child,
    /// The process in the jail.
    jailed: i32,
    /// Process 1 of its namespace.
    first: i32,
}

impl Running {
    /// Returns when the guest runs.
    fn start(mut command: Command) -> Self {
        let mut supervisor = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 5];
        let stdout = supervisor.stdout.as_mut().unwrap();
        stdout.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready");
        let children = format!("/proc/{0}/task/{0}/children", supervisor.id());
        let children = fs::read_to_string(children).unwrap();
        let children: Vec<i32> = children.split(' ').filter_map(|n| n.parse().ok()).collect();
        let &[first, jailed] = &children[..] else {
            panic!("{children:?}");
        };
        Running {
            supervisor,
            jailed,
            first,
        }
    }

    fn signal(&self, number: i32) {
        signal(self.supervisor.id() as i32, number);
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the supervisor's end", || {
            status = self.supervisor.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// A file of the jailed process's in /proc.
    fn proc(&self, name: &str) -> String {
        let file = fs::read(format!("/proc/{}/{name}", self.jailed)).unwrap();
        String::from_utf8_lossy(&file).into_owned()
    }

    /// What a line of its status says.
    fn status(&self, key: &str) -> String {
        let status = self.proc("status");
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let words: Vec<_> = line.unwrap().split_whitespace().collect();
        words.join(" ")
    }
}

impl Drop for Running {
    /// Where a test has failed, too.
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

fn signal(process: i32, number: i32) {
    // SAFETY: a process that this test started, and that hasn't been waited for.
    assert_eq!(unsafe { libc::kill(process, number) }, 0);
}

/// `R`, `S`, `T`, `Z`; `None` where there is no such process.
fn state(process: i32) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    status.rsplit(") ").next()?.chars().next()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process's open files, by number; those that it closes meanwhile aren't there.
fn open_files(process: impl Display) -> impl Iterator<Item = (OsString, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    entries.flatten().filter_map(|entry| {
        let file = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name(), file))
    })
}

fn link(path: impl AsRef<Path>) -> PathBuf {
    fs::read_link(path).unwrap()
}
