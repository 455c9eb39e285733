//! What a hostile local user does to the process: signals at any moment, descriptors that are closed, limits that
//! are tiny.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::devices::drive;
use crate::kvm;
use crate::monitor::Monitor;
use crate::native;
use crate::script::Script;
use crate::user::{spinning, terminated, up};

#[test]
fn a_storm_of_signals_that_mean_nothing_to_it() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let running = up(spinning(folder.path()));
    for n in 0..2000 {
        running.signal(
            [
                libc::SIGWINCH,
                libc::SIGPIPE,
                libc::SIGCONT,
                libc::SIGCHLD,
                libc::SIGURG,
            ][n % 5],
        );
        // What it stops its own vCPUs by.
        if n % 7 == 0 {
            running.signal(libc::SIGRTMIN());
        }
    }
    for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGTSTP, libc::SIGCONT] {
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(20));
    }
    terminated(running).has_status(143);
}

#[test]
fn signals_that_end_a_process_end_it_as_they_always_do() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGKILL] {
        let running = up(spinning(folder.path()));
        running.signal(signal);
        assert_eq!(running.end().status.signal(), Some(signal));
    }
}

#[test]
fn an_ending_signal_at_any_moment_of_the_start() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    drop(terminated(up(spinning(folder.path()))));
    let whole = began.elapsed().as_micros() as u64;
    for n in 0..40 {
        let running = spinning(folder.path()).start();
        std::thread::sleep(Duration::from_micros(whole * n / 30));
        let ended = terminated(running);
        // Before there is a VM, the signal's own action.
        let by_itself = ended.status.signal() == Some(libc::SIGTERM);
        assert!(
            by_itself || ended.status.code() == Some(143),
            "{}",
            ended.status
        );
    }
}

#[test]
fn standard_descriptors_that_are_closed_are_nothing_elses() {
    if !kvm() {
        return;
    }
    let closings: [fn(); 4] = [
        || close(&[0]),
        || close(&[1]),
        || close(&[2]),
        || close(&[0, 1, 2]),
    ];
    for closing in closings {
        let folder = tempfile::tempdir().unwrap();
        let disk = drive(folder.path(), "disk", 4096, "");
        let mut script = Script::new();
        // It crashes: what is said of that must not be in the image.
        script.print("up").code(native::crash());
        let monitor = Monitor::of(folder.path(), &script).with(&["--disk", &disk]);
        monitor.before(closing).run().has_status(5);
        let image = fs::read(folder.path().join("disk")).unwrap();
        assert_eq!(image, [0; 4096], "the drive was written to");
    }
}

fn close(descriptors: &[i32]) {
    for descriptor in descriptors {
        // SAFETY: a number; the new process has nothing of its own there yet.
        unsafe { libc::close(*descriptor) };
    }
}

#[test]
fn nobody_reads_what_it_says() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A pipe that is full.
    let (reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: a descriptor that lives, and a number.
    unsafe {
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
    }
    while writer.write(&[b'.'; 4096]).is_ok() {}
    // SAFETY: as above.
    unsafe {
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0);
    }
    let mut script = Script::new();
    script.print("up").code(native::crash());
    let monitor = Monitor::of(folder.path(), &script).change(|command| {
        command.stdout(Stdio::null()).stderr(writer);
    });
    // It says that its guest has crashed, and waits as any program would; a signal ends it.
    let running = monitor.start_as_it_is();
    std::thread::sleep(Duration::from_millis(500));
    let status = terminated(running).status;
    assert!(
        status.signal() == Some(libc::SIGTERM) || status.code() == Some(143),
        "{status}"
    );
    drop(reader);
}

/// Limits one of the process's resources.
pub fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: a value that lives for the call.
    unsafe { libc::setrlimit(resource, &raw const limit) };
}

#[test]
fn limits_that_are_tiny() {
    if !kvm() {
        return;
    }
    let limits: [(&str, fn()); 12] = [
        ("4 files", || limit(libc::RLIMIT_NOFILE, 4)),
        ("6 files", || limit(libc::RLIMIT_NOFILE, 6)),
        ("9 files", || limit(libc::RLIMIT_NOFILE, 9)),
        ("12 files", || limit(libc::RLIMIT_NOFILE, 12)),
        ("16 files", || limit(libc::RLIMIT_NOFILE, 16)),
        ("24 files", || limit(libc::RLIMIT_NOFILE, 24)),
        ("no thread", || limit(libc::RLIMIT_NPROC, 0)),
        ("32 MiB of addresses", || limit(libc::RLIMIT_AS, 32 << 20)),
        ("48 MiB of addresses", || limit(libc::RLIMIT_AS, 48 << 20)),
        ("files of no size", || limit(libc::RLIMIT_FSIZE, 0)),
        ("a small stack", || limit(libc::RLIMIT_STACK, 1 << 20)),
        ("no locked memory", || limit(libc::RLIMIT_MEMLOCK, 0)),
    ];
    for (what, set) in limits {
        let folder = tempfile::tempdir().unwrap();
        let vsock = format!("cid=3,socket={}", folder.path().join("v").display());
        let disk = drive(folder.path(), "disk", 1 << 20, ",queues=2,engine=io_uring");
        let monitor = Monitor::of(folder.path(), Script::new().end());
        let monitor = monitor.with(&["--vsock", &vsock, "--disk", &disk, "--cpus", "2"]);
        let ended = monitor.before(set).run();
        // The VM, or a line that says what there isn't enough of.
        let status = ended.status.code();
        assert!(
            matches!(status, Some(0 | 2 | 3)),
            "{what}: {}: {}",
            ended.status,
            ended.err
        );
        assert!(
            status == Some(0) || ended.err.starts_with("mote: "),
            "{what}: {}",
            ended.err
        );
    }
}
