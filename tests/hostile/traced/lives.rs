//! VMs that have each sort of device, and guests, peers and users that have it do all that it can.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use motevm::sandbox::ThreadKind;

use super::drives::{drives_by_rings, drives_by_threads, jailed, mapped_drives};
use super::peers::{back_end, back_ends_that_come, controlled, file_handed_over, network, sockets};
use super::trace::{self, Call};
use crate::common::PATIENCE;
use crate::driver::{self, *};
use crate::monitor::Monitor;
use crate::native::{self, BOOT_TIMER};
use crate::script::{Script, Width};

pub type Seen = Vec<(ThreadKind, Call)>;

/// All of them.
pub fn all() -> Seen {
    let lives: [fn(&Path) -> Seen; 13] = [
        crash,
        drives_by_threads,
        drives_by_rings,
        mapped_drives,
        small_devices,
        terminal,
        network,
        sockets,
        controlled,
        file_handed_over,
        back_end,
        back_ends_that_come,
        jailed,
    ];
    let live = |life: fn(&Path) -> Seen| {
        let folder = tempfile::tempdir().unwrap();
        life(folder.path())
    };
    // Beside each other, as most of the time is waiting; but strace waits 3 s at most for itself to begin.
    if native::ONE_OF > 1 {
        return lives.into_iter().flat_map(live).collect();
    }
    let threads = lives.map(|life| std::thread::spawn(move || live(life)));
    let seen = threads.into_iter().map(|thread| thread.join().unwrap());
    seen.flatten().collect()
}

/// What serves drives and networks.
pub fn seen(trace: JoinHandle<String>, serves: ThreadKind) -> Seen {
    let kind = |thread: &str| match thread.strip_prefix("mote-") {
        None => ThreadKind::Main,
        Some("starter") => ThreadKind::Starter,
        Some("setup") => ThreadKind::Setup,
        Some("console") => ThreadKind::Console,
        Some("api") => ThreadKind::Api,
        Some("metrics") => ThreadKind::Metrics,
        Some("balloon") => ThreadKind::Balloon,
        Some("vsock") => ThreadKind::Vsock,
        Some("time-limit") => ThreadKind::VhostUser,
        Some("rng" | "hvc") => ThreadKind::Worker,
        Some(name) if name.starts_with("vcpu") => ThreadKind::Vcpu,
        Some(name) if name.starts_with("pmem") => ThreadKind::Drive,
        Some(_) => serves,
    };
    trace::calls(&trace.join().unwrap(), kind)
}

/// Waits for what another thread notes.
pub fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A report of what the guest did wrong.
fn crash(folder: &Path) -> Seen {
    let mut script = Script::new();
    script.print("x").code(native::crash());
    let (monitor, trace) = trace::under_strace(Monitor::of(folder, &script).with(&["--cpus", "2"]));
    monitor.run().has_status(5);
    seen(trace, ThreadKind::Drive)
}

/// Entropy, balloon, a virtio console, with the boot's times.
fn small_devices(folder: &Path) -> Seen {
    let (console, balloon, entropy) = (driver::device(0), driver::device(1), driver::device(2));
    let mut script = Script::new();
    script.write(Width::One, BOOT_TIMER, 123);
    script.bring_up(balloon, VERSION_1 | 1 << 1 | 1 << 5, 4);
    script.bring_up(console, VERSION_1, 2);
    script.prove_entropy(entropy).end();
    let log = format!("hvc,file={}", folder.join("log").display());
    let monitor = Monitor::of(folder, &script)
        .with(&["--balloon", "4M,stats=1", "--console", &log, "--timings"])
        .with(&["--notify-fd", "2"]);
    let (monitor, trace) = trace::under_strace(monitor);
    monitor.run().has_status(0);
    seen(trace, ThreadKind::Drive)
}

/// A terminal that is typed at, whose guest has no room for it at once, and that gets another size.
fn terminal(folder: &Path) -> Seen {
    let mut script = Script::new();
    let console = driver::device(0);
    script.bring_up(console, VERSION_1 | 1, 2);
    let ring = Ring::number(1);
    script.write32(BUFFER, u32::from_le_bytes(*b"here"));
    script.descriptor(ring.descriptors, 0, (BUFFER, 4, 0, 0));
    script
        .offer(ring, &[0], 1)
        .notify(console, 1)
        .code(native::spin_for_ever());
    let (mut main, mut other) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: room for two descriptors, which then belong to the files.
    let (mut terminal, other) = unsafe {
        assert_eq!(
            libc::openpty(
                &raw mut main,
                &raw mut other,
                none,
                std::ptr::null(),
                std::ptr::null()
            ),
            0
        );
        libc::fcntl(main, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(main), File::from_raw_fd(other))
    };
    let monitor = Monitor::of(folder, &script).with(&["--console", "hvc", "--log", "off"]);
    let monitor = monitor.change(|command| {
        command
            .stdin(other.try_clone().unwrap())
            .stdout(other.try_clone().unwrap())
            .stderr(other);
    });
    let in_front = || {
        // SAFETY: calls with no pointers.
        unsafe {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
    };
    let (monitor, trace) = trace::under_strace(monitor.before(in_front));
    let running = monitor.start_as_it_is();
    let mut heard = Vec::new();
    while !heard.ends_with(b"here") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        heard.push(byte[0]);
    }
    terminal.write_all(b"abc").unwrap();
    let size = libc::winsize {
        ws_row: 10,
        ws_col: 10,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: a size that lives.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    // Stopped, and set going again.
    for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGWINCH] {
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(100));
    }
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
    seen(trace, ThreadKind::Drive)
}
