//! What a hostile local user does to files: other things at the paths where mote makes its own.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::kvm;
use crate::monitor::{Ended, Monitor, Running};
use crate::native;
use crate::script::Script;

/// A guest that says that it is up, and spins.
pub fn spinning(folder: &Path) -> Monitor {
    let mut script = Script::new();
    script.print("up").code(native::spin_for_ever());
    Monitor::of(folder, &script).unread()
}

pub fn up(monitor: Monitor) -> Running {
    let mut running = monitor.start();
    running.hear(b"up");
    running
}

pub fn terminated(running: Running) -> Ended {
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
        .set_read_timeout(Some(Duration::from_secs(100)))
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
