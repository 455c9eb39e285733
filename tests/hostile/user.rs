//! What a hostile local user does: other things at the paths where mote makes its own, signals at any moment,
//! descriptors that are closed, limits that are tiny.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::devices::drive;
use crate::kvm;
use crate::monitor::{Ended, Monitor, Running};
use crate::native;
use crate::script::Script;

/// A guest that says that it is up, and spins.
fn spinning(folder: &Path) -> Monitor {
    let mut script = Script::new();
    script.print("up").code(native::spin_for_ever());
    Monitor::of(folder, &script).unread()
}

fn up(monitor: Monitor) -> Running {
    let mut running = monitor.start();
    running.hear(b"up");
    running
}

fn terminated(running: Running) -> Ended {
    running.signal(libc::SIGTERM);
    running.end()
}

/// The options that make a socket at this path.
fn sockets(path: &str) -> [[String; 2]; 3] {
    [
        ["--vsock".to_owned(), format!("cid=3,socket={path}")],
        ["--metrics".to_owned(), format!("unix={path}")],
        ["--disk".to_owned(), format!("vhost-user={path},server")],
    ]
}

#[test]
fn what_is_at_a_sockets_path_is_not_destroyed() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let precious = at("precious");
    fs::write(&precious, "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink(&precious, at("link")).unwrap();
    symlink("round", at("round")).unwrap();
    // Somebody else's, who listens.
    let _listener = UnixListener::bind(at("theirs")).unwrap();
    symlink(at("theirs"), at("link-to-theirs")).unwrap();
    for name in [
        "precious",
        "folder",
        "link",
        "round",
        "theirs",
        "link-to-theirs",
    ] {
        for words in sockets(at(name).to_str().unwrap()) {
            let mut script = Script::new();
            let monitor = Monitor::of(folder.path(), script.end()).with(&words);
            monitor.run().refused(&[name]);
        }
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(at("folder").is_dir() && at("round").is_symlink());
    assert!(fs::metadata(at("theirs")).unwrap().file_type().is_socket());
    UnixStream::connect(at("link-to-theirs")).unwrap();
}

#[test]
fn a_socket_left_behind_is_taken_over_and_a_changed_one_is_left_alone() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // The third kind waits for a back-end: see `peers`.
    for words in &sockets(path.to_str().unwrap())[..2] {
        drop(UnixListener::bind(&path).unwrap());
        let running = up(spinning(folder.path()).with(words));
        UnixStream::connect(&path).unwrap();
        // Somebody puts a file of their own there.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        terminated(running).has_status(143);
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_mote_makes_is_its_users_alone() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let vsock = folder.path().join("vsock");
    let metrics = folder.path().join("metrics");
    let monitor = spinning(folder.path())
        .with(&sockets(vsock.to_str().unwrap())[0])
        .with(&sockets(metrics.to_str().unwrap())[1]);
    let running = up(monitor);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode();
    let modes = [&vsock, &metrics].map(|path| mode(path) & 0o022);
    terminated(running).has_status(143);
    assert_eq!(modes, [0, 0], "nobody else may connect");
}

#[test]
fn metrics_clients_that_send_rubbish_or_never_read() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let running = up(spinning(folder.path()).with(&sockets(path.to_str().unwrap())[1]));
    let mut kept = Vec::new();
    for n in 0..300 {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let words: &[u8] = match n % 5 {
            0 => b"",
            1 => &[0xff; 4096],
            2 => b"GET /metrics HTTP/1.1\r\n\r\n",
            3 => b"GET",
            _ => &[b'\n'; 100_000],
        };
        let _ = stream.write_all(words);
        kept.push(stream);
        if kept.len() > 100 {
            kept.remove(n % 100);
        }
    }
    drop(kept);
    // One that behaves is still told.
    let mut told = String::new();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.read_to_string(&mut told).unwrap();
    terminated(running).has_status(143);
    assert!(told.contains("mote_"), "{told}");
}

#[test]
fn a_console_file_that_is_a_link() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let console = folder.path().join("console");
    symlink("console", &console).unwrap();
    let option = format!("file={}", console.display());
    let mut script = Script::new();
    let run = |script: &Script| {
        Monitor::of(folder.path(), script)
            .with(&["--console", &option])
            .run()
    };
    run(script.end()).refused(&["console"]);
    // To nowhere and to elsewhere: a link of the user's own is followed, as by every program that writes a log.
    fs::remove_file(&console).unwrap();
    symlink(folder.path().join("log"), &console).unwrap();
    run(&script).has_status(0);
    assert_eq!(fs::read(folder.path().join("log")).unwrap(), b"alive");
}

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
        use std::os::fd::AsRawFd;
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
    }
    while writer.write(&[b'.'; 4096]).is_ok() {}
    // SAFETY: as above.
    unsafe {
        use std::os::fd::AsRawFd;
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

#[test]
fn a_folder_that_is_taken_away_while_it_works() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    File::create(inner.join("disk"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let at = |name: &str| inner.join(name).display().to_string();
    let words = [
        ("--disk", at("disk")),
        ("--vsock", format!("cid=3,socket={}", at("v"))),
        ("--metrics", format!("unix={},file={}", at("m"), at("f"))),
        ("--console", format!("file={}", at("console"))),
    ];
    let mut monitor = spinning(folder.path()).change(|command| {
        command.current_dir(&inner);
    });
    for (option, value) in &words {
        monitor = monitor.with(&[*option, value]);
    }
    let running = monitor.start();
    let begun = Instant::now();
    while fs::read(inner.join("console")).unwrap_or_default() != b"up" {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the guest isn't up"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_dir_all(&inner).unwrap();
    terminated(running).has_status(143);
}
