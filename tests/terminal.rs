//! The user's terminal: raw while the guest has it, and what it was before, however it ends.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, kvm};

/// An exit status, or the signal that killed the process.
type End = (Option<i32>, Option<i32>);

/// A terminal with `mote` in front of it.
struct Session {
    terminal: File,
    /// The terminal's modes before mote was started: it may have changed them once `start` returns.
    before: [u32; 4],
    mote: Child,
    _folder: tempfile::TempDir,
}

fn modes(terminal: &impl AsRawFd) -> [u32; 4] {
    // SAFETY: an all-zero termios is a valid value, filled in by the call.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: a valid termios.
    let result = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes) };
    assert_eq!(result, 0);
    [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag]
}

impl Session {
    fn start(code: Code) -> Self {
        Self::start_by("exec \"$@\"", code)
    }

    /// A session of a shell that runs a script, in which `"$@"` is mote.
    fn start_by(script: &str, code: Code) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, code.kernel()).unwrap();
        let (mut main, mut other) = (-1, -1);
        let none = std::ptr::null_mut();
        // SAFETY: room for two descriptors, which then belong to the OwnedFds.
        let (main, other) = unsafe {
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
            (OwnedFd::from_raw_fd(main), OwnedFd::from_raw_fd(other))
        };
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .arg("sh")
            .arg(env!("CARGO_BIN_EXE_mote"))
            .arg("run")
            .arg("--kernel")
            .arg(kernel)
            .arg("--log")
            .arg("off");
        command.stdin(Stdio::from(other.try_clone().unwrap()));
        command.stdout(Stdio::from(other.try_clone().unwrap()));
        command.stderr(Stdio::from(other));
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Whoever runs the tests in the background may have these ignored, which is inherited.
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let before = modes(&main);
        let mote = command.spawn().unwrap();
        Session {
            terminal: File::from(main),
            before,
            mote,
            _folder: folder,
        }
    }

    fn modes(&self) -> [u32; 4] {
        modes(&self.terminal)
    }

    /// Waits until the guest has printed this.
    fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            self.terminal.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }

    /// How mote ended; it must, soon.
    fn end(&mut self) -> End {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.mote.try_wait().unwrap() {
                return (status.code(), status.signal());
            }
            if Instant::now() > deadline {
                self.mote.kill().unwrap();
                panic!("mote did not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a process that this test started and has not waited for.
        unsafe { libc::kill(self.mote.id() as i32, signal) };
    }
}

/// Prints a word once it runs, and echoes until a `q`.
fn guest() -> Code {
    Code::new().print("ready").echo_until_q().reset()
}

#[test]
fn keys_reach_the_guest_unchanged_and_the_terminal_comes_back() {
    if kvm().is_none() {
        return;
    }
    let mut session = Session::start(guest());
    let before = session.before;
    session.expect("ready");
    let raw = session.modes();
    let [echo, canonical, signals] = [libc::ECHO, libc::ICANON, libc::ISIG];
    assert_eq!(raw[3] & (echo | canonical | signals), 0);
    assert_eq!(raw[1], before[1], "output modes are left alone");
    session.terminal.write_all(b"ab\x03c\x01\x01d").unwrap();
    session.expect("ab\x03c\x01d"); // Ctrl-C is the guest's; Ctrl-A twice is one Ctrl-A
    session.terminal.write_all(b"q").unwrap();
    assert_eq!(session.end(), (Some(0), None));
    assert_eq!(session.modes(), before);
}

#[test]
fn every_other_end_gives_the_terminal_back_too() {
    if kvm().is_none() {
        return;
    }
    let ends: [(&str, i32, End); 7] = [
        ("\x01x", 0, (Some(130), None)),
        ("", libc::SIGINT, (Some(130), None)),
        ("", libc::SIGTERM, (Some(143), None)),
        ("", libc::SIGHUP, (Some(129), None)),
        ("", libc::SIGQUIT, (Some(131), None)),
        ("", libc::SIGSEGV, (None, Some(libc::SIGSEGV))),
        ("", libc::SIGABRT, (None, Some(libc::SIGABRT))),
    ];
    for (keys, signal, expected) in ends {
        let mut session = Session::start(guest());
        let before = session.before;
        session.expect("ready");
        assert_ne!(session.modes(), before);
        session.terminal.write_all(keys.as_bytes()).unwrap();
        if signal != 0 {
            session.signal(signal);
        }
        assert_eq!(session.end(), expected, "signal {signal}");
        assert_eq!(session.modes(), before, "signal {signal}");
    }
}

#[test]
fn the_escape_works_also_where_the_guest_never_reads() {
    if kvm().is_none() {
        return;
    }
    let mut session = Session::start(Code::new().print("ready").spin());
    session.expect("ready");
    session.terminal.write_all(&[b'a'; 3000]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    session.terminal.write_all(b"\x01x").unwrap();
    assert_eq!(session.end(), (Some(130), None));
}

#[test]
fn a_stopped_mote_lends_the_terminal_to_the_shell() {
    if kvm().is_none() {
        return;
    }
    let mut session = Session::start(guest());
    let before = session.before;
    session.expect("ready");
    let raw = session.modes();
    let until = |session: &Session, modes| {
        let deadline = Instant::now() + PATIENCE;
        while session.modes() != modes {
            assert!(
                Instant::now() < deadline,
                "the terminal's modes did not change"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    session.signal(libc::SIGTSTP);
    until(&session, before);
    session.signal(libc::SIGCONT);
    until(&session, raw);
    session.terminal.write_all(b"q").unwrap();
    assert_eq!(session.end(), (Some(0), None));
}

#[test]
fn a_mote_in_the_background_leaves_the_terminal_alone_and_ends() {
    if kvm().is_none() {
        return;
    }
    // The first stop gives the shell its job; the second would be the kernel's, for changing the
    // terminal's modes from the background.
    let script = "set -m; \"$@\"; bg >&2; sleep 0.3; jobs >&2; stty -echo; kill -TERM %1; wait %1; \
                  echo status $? >&2; stty -a | grep -o -- '-echo ' >&2; exit 0";
    let mut session = Session::start_by(script, Code::new().print("ready").spin());
    session.expect("ready");
    let mote = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", session.mote.id()));
    let mote: i32 = mote.unwrap().trim().parse().unwrap();
    // SAFETY: a child of the shell that this test started, which has not waited for it.
    assert_eq!(unsafe { libc::kill(mote, libc::SIGTSTP) }, 0);
    session.expect("status 143");
    session.expect("-echo");
    assert_eq!(session.end(), (Some(0), None));
}

/// The same, of a VM in a jail: what has the terminal is in another process group then.
#[test]
fn a_jailed_mote_has_the_terminal_and_gives_it_back() {
    // SAFETY: takes no pointer.
    let root = unsafe { libc::geteuid() } == 0;
    let obstacle = (!root).then(|| "only root becomes another user".to_owned());
    if kvm().is_none() || !common::can_run("root", obstacle) {
        return;
    }
    let jails = tempfile::tempdir().unwrap();
    let jail = |id| {
        format!(
            "--jail id={id},uid=64123,root={}/jails",
            jails.path().display()
        )
    };
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let ends = [
        ("ab\x03cq", 0, (Some(0), None)),
        ("\x01x", 0, (Some(130), None)),
        ("", libc::SIGTERM, (Some(143), None)),
        ("", libc::SIGHUP, (Some(129), None)),
        ("", libc::SIGSEGV, (Some(139), None)),
    ];
    for (keys, signal, expected) in ends {
        let script = format!("exec \"$@\" {}", jail("a"));
        let mut session = Session::start_by(&script, guest());
        let before = session.before;
        session.expect("ready");
        until("raw mode", &|| session.modes() != before);
        session.terminal.write_all(keys.as_bytes()).unwrap();
        if signal != 0 {
            session.signal(signal);
        }
        assert_eq!(session.end(), expected, "{keys:?}, signal {signal}");
        assert_eq!(session.modes(), before, "{keys:?}, signal {signal}");
    }
    // Stopped from outside, and by a shell; in the foreground again it's the guest's again.
    let script = format!(
        "set -m; \"$@\" {}; echo stopped >&2; fg; echo status $? >&2",
        jail("b")
    );
    let mut session = Session::start_by(&script, guest());
    let before = session.before;
    session.expect("ready");
    until("raw mode", &|| session.modes() != before);
    let raw = session.modes();
    let mote = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", session.mote.id()));
    let mote: i32 = mote.unwrap().trim().parse().unwrap();
    // SAFETY: a child of the shell that this test started, which has not waited for it.
    assert_eq!(unsafe { libc::kill(mote, libc::SIGTSTP) }, 0);
    session.expect("stopped");
    until("raw mode again", &|| session.modes() == raw);
    session.terminal.write_all(b"q").unwrap();
    session.expect("status 0");
    session.end();
}
