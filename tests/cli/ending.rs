//! How the command ends where something outside stands in its way: outputs that can't be written,
//! signals, a host that hangs, limits.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::*;

/// A file to which nothing can be written.
fn full() -> fs::File {
    fs::File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn nobody_to_tell_changes_no_exit_status() {
    let code = |command: &mut Command| command.status().unwrap().code();
    let dump = ["run", "--kernel", "k", "--dump-config"];
    assert_eq!(code(mote(&dump).stdout(full()).stderr(full())), Some(1));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(code(mote(&dump).stdout(writer)), Some(0));
    let nothing = ["run", "--config", "/nonexistent.toml"];
    assert_eq!(code(mote(&nothing).stderr(full())), Some(2));
    if kvm().is_none() {
        return;
    }
    let (_folder, kernel) = guest(Code::new().print("x").crash());
    let crash = ["run", "--kernel", &kernel, "--timings"];
    assert_eq!(code(mote(&crash).stdout(full()).stderr(full())), Some(5));
}

/// Starts a guest that goes on for ever; returns when it runs.
fn running(mut command: Command) -> Child {
    let mut mote = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 5];
    mote.stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready");
    mote
}

fn signal(mote: &Child, signal: i32) {
    // SAFETY: a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(mote.id() as i32, signal) }, 0);
}

/// How it ended, if it did within this time.
fn ended(mote: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        let status = mote.try_wait().unwrap();
        if status.is_some() || Instant::now() > deadline {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether it has a handler for the signal.
fn hears(mote: &Child, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", mote.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught >> (signal - 1) & 1 == 1
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_so() {
    if kvm().is_none() {
        return;
    }
    let (_folder, kernel) = guest(Code::new().print("ready").spin());
    // As nohup does, and shell scripts with what they start in the background.
    let ignored = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
    let mut command = mote(&["run", "--kernel", &kernel]);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for signal in ignored {
                libc::signal(signal, libc::SIG_IGN);
            }
            Ok(())
        });
    }
    let mut mote = running(command);
    for number in ignored {
        signal(&mote, number);
    }
    assert_eq!(ended(&mut mote, Duration::from_millis(300)), None);
    signal(&mote, libc::SIGTERM);
    let status = ended(&mut mote, PATIENCE).unwrap();
    assert_eq!(status.code(), Some(143));
}

#[test]
fn a_host_that_hangs_does_not_keep_mote_from_ending() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = guest(Code::new().print("ready").reset());
    // Writing the report waits for somebody to read this: it is full.
    let fifo = folder.path().join("fifo");
    let path = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: the path has a terminator.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let mut options = fs::File::options();
    let options = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let mut pipe = options.open(&fifo).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    let report = format!("json={}", fifo.display());
    let mut mote = running(mote(&["run", "--kernel", &kernel, "--timings", &report]));
    // It hears signals as long as there is a VM to end.
    let deadline = Instant::now() + PATIENCE;
    while hears(&mote, libc::SIGTERM) {
        assert!(Instant::now() < deadline, "the VM does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ended(&mut mote, Duration::from_millis(300)), None);
    signal(&mote, libc::SIGTERM);
    let status = ended(&mut mote, PATIENCE);
    let _ = mote.kill();
    // The VM has ended, so the signal does what it always does.
    assert_eq!(status.expect("it ends").signal(), Some(libc::SIGTERM));
}

#[test]
fn a_file_size_limit_costs_the_kernel_cache_not_the_vm() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = guest(Code::new());
    fs::write(&kernel, Code::new().reset().compressed_kernel(1 << 20)).unwrap();
    let mut command = mote(&["run", "--console", "none", "--kernel", &kernel]);
    command.env("XDG_CACHE_HOME", folder.path());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 4096,
                rlim_max: 4096,
            };
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            Ok(())
        });
    }
    assert_eq!(command.status().unwrap().code(), Some(0));
    let kept = fs::read_dir(folder.path().join("mote/kernels")).unwrap();
    assert_eq!(kept.count(), 0);
}
