//! Real Linux guests, run by the `mote` command as a user runs it. They need a KVM with hardware
//! (or emulated hardware) behind it and the guest that `make guest` makes; `make test` sees to
//! both (resources/test.sh, docs/testing.md).

#[allow(dead_code)] // tests/api.rs uses all of it
#[path = "../api/client.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/pty.rs"]
mod pty;

mod api;
mod attack;
mod balloon;
mod bench;
mod boot;
mod console;
mod containers;
mod cpu_memory;
mod dax;
mod disk;
mod idle;
mod image;
mod jail;
mod life;
mod mem;
mod memory;
mod metrics;
#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
mod native;
mod net;
mod pause;
mod peers;
mod placement;
mod vhost_user;
mod vsock;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::can_run;

/// The files of the default guest and of the stock kernel.
struct Guests {
    kernel: PathBuf,
    rootfs: PathBuf,
    initrd: PathBuf,
    debian_kernel: PathBuf,
    debian_initrd: PathBuf,
}

/// Where the scripts in resources/ put what they make.
fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    folder("MOTE_CACHE").unwrap_or_else(|| {
        let home = || folder("HOME").unwrap_or_default().join(".cache");
        folder("XDG_CACHE_HOME").unwrap_or_else(home).join("mote")
    })
}

/// What is in such a folder of the cache for guests of this host's architecture.
fn made_for_this(folder: &str) -> PathBuf {
    cache().join(folder).join(std::env::consts::ARCH)
}

/// The guests, or `None` (said aloud) where these tests can't run.
fn guests() -> Option<Guests> {
    let (guest, debian) = (made_for_this("guest"), made_for_this("debian"));
    let guests = Guests {
        kernel: guest.join(native::KERNEL),
        rootfs: guest.join("rootfs.ext4"),
        initrd: guest.join("initrd.cpio.gz"),
        debian_kernel: debian.join("vmlinuz"),
        debian_initrd: debian.join("initrd.cpio.gz"),
    };
    let unbuilt = !guests.kernel.exists() || !guests.debian_kernel.exists();
    let unbuilt = unbuilt.then_some(
        "the guests aren't built: resources/guest.sh and resources/debian-kernel.sh do that",
    );
    let obstacle = native::no_hardware().or(unbuilt);
    can_run("linux", obstacle.map(str::to_owned)).then_some(guests)
}

/// How long a guest may take: emulated hardware is slow, and several run at once.
const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until `what` holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The options that boot the stock kernel, with memory enough for it.
fn stock(guests: &Guests) -> [&str; 6] {
    let (kernel, initrd) = (path(&guests.debian_kernel), path(&guests.debian_initrd));
    ["--kernel", kernel, "--initrd", initrd, "--memory", "512M"]
}

/// What the command starts is killed by SIGALRM once it has taken too long, whatever it replaces itself with:
/// a test that waits for it ends, too.
fn on_a_leash(command: &mut Command) -> &mut Command {
    let start = || {
        // SAFETY: a system call without pointers.
        unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
        Ok(())
    };
    // SAFETY: the closure makes one system call and touches no memory.
    unsafe { command.pre_exec(start) }
}

/// `mote run` with these arguments.
fn mote(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    on_a_leash(command.arg("run").args(arguments).stdin(Stdio::null()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run left.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }
}

/// Runs to the end; a guest that doesn't come to one is a failure, not a hang.
fn finish(mut command: Command) -> Ended {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |stream: &mut dyn Read| -> String {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        // Said by Linux whatever its log level: "[    1.2] reboot: Restarting system".
        let of_the_guest = |line: &&str| !line.contains("] reboot: ");
        text.split_inclusive('\n').filter(of_the_guest).collect()
    };
    let (out, err) = std::thread::scope(|scope| {
        let (out, err) = (
            scope.spawn(move || read(&mut out)),
            scope.spawn(move || read(&mut err)),
        );
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (out.join().unwrap(), err.join().unwrap())
    });
    Ended {
        code: child.wait().unwrap().code(),
        out,
        err,
    }
}

/// Runs a shell command in the default guest, on its root file system; what it printed.
#[track_caller]
fn in_guest(more: &[&str], script: &str) -> String {
    boot(more, script).success()
}

fn boot(more: &[&str], script: &str) -> Ended {
    assert!(
        !script.contains('"'),
        "the kernel's command line has no way to quote a quote"
    );
    let cmdline = format!("mote.run=\"{script}\"");
    finish(mote(&[&["--cmdline", &cmdline], more].concat()))
}

/// Boots with no console; what `--timings` told of it when the guest had ended.
#[track_caller]
fn timings(more: &[&str], script: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("timings");
    let timings = format!("json={}", path(&json));
    let silent = ["--console", "none", "--timings", &timings];
    boot(&[more, &silent].concat(), script).success();
    serde_json::from_slice(&fs::read(&json).unwrap()).unwrap()
}

/// Whether someone listens at this Unix socket: its file is there a moment before.
fn listens(socket: &Path) -> bool {
    const LISTENS: &str = "00010000"; // __SO_ACCEPTCON
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let mut sockets = sockets.lines().map(|line| line.split_whitespace());
    sockets.any(|mut words| words.nth(3) == Some(LISTENS) && words.last() == Some(path(socket)))
}

/// Whether someone listens at this TCP port in the network namespace of a process.
fn listens_at(process: u32, port: u16) -> bool {
    let at = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|family| {
        let sockets = fs::read_to_string(format!("/proc/{process}/net/{family}"));
        let sockets = sockets.unwrap_or_default();
        let mut sockets = sockets.lines().map(|line| line.split_whitespace());
        sockets.any(|mut words| {
            let here = words.nth(1).is_some_and(|address| address.ends_with(&at));
            here && words.nth(1) == Some("0A") // TCP_LISTEN
        })
    })
}

/// Takes a file system away again; the kernel may still be closing what a process had open there.
#[track_caller]
fn unmount(folder: &Path) {
    until("a file system that nobody uses", || {
        let status = Command::new("umount").arg(folder).status();
        status.unwrap().success()
    });
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An empty disk image.
fn image(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Bytes that don't repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}
