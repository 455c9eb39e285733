//! hvc0: a shell on a virtio console, at a terminal whose size changes.

use std::os::fd::AsRawFd;
use std::process::Child;

use super::*;
pub use crate::pty::size;

/// A terminal with `mote run` in front of it.
pub struct Session {
    pub terminal: File,
    pub mote: Child,
    seen: String,
}

impl Session {
    fn start(arguments: &[&str], window: libc::winsize) -> Self {
        Self::of(mote(arguments), window)
    }

    pub fn of(mut command: Command, window: libc::winsize) -> Self {
        let terminal = crate::pty::before(&mut command, window);
        Session {
            mote: command.spawn().unwrap(),
            terminal,
            seen: String::new(),
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the guest has printed this, after whatever was waited for before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let mut ready = libc::pollfd {
                fd: self.terminal.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            // SAFETY: one pollfd, which lives through the call.
            let count = unsafe { libc::poll(&raw mut ready, 1, left.as_millis() as i32) };
            let mut bytes = [0; 1024];
            let read = (count == 1).then(|| self.terminal.read(&mut bytes).unwrap_or(0));
            let count = read.unwrap_or(0);
            assert!(count > 0, "waited for {text:?}, and saw {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let window = size(columns, rows);
        // SAFETY: a valid winsize.
        let result = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, &window) };
        assert_eq!(result, 0);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.mote.kill();
        let _ = self.mote.wait();
    }
}

#[test]
fn a_shell_on_hvc0_echoes_and_learns_the_terminals_size() {
    let Some(_) = guests() else { return };
    let mut session = Session::start(&["--console", "hvc"], size(91, 37));
    session.expect("# ");
    session.type_in("stty size; tty\r");
    session.expect("37 91");
    session.expect("/dev/hvc0");
    session.expect("# ");
    session.resize(120, 50);
    // The guest's shell is told: SIGWINCH, once the driver has set the size.
    session.type_in("until stty size | grep '50 120'; do sleep 0.1; done\r");
    session.expect("\r\n50 120");
    session.expect("# ");
    session.type_in("\u{1}x");
    assert_eq!(session.mote.wait().unwrap().code(), Some(130));
}

#[test]
fn a_file_has_all_that_is_printed_on_hvc0_and_no_byte_is_an_exit() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (out, metrics) = (folder.path().join("out"), folder.path().join("metrics"));
    let console = format!("hvc,file={}", path(&out));
    let file = format!("file={}", path(&metrics));
    let more = ["--console", &console, "--metrics", &file];
    boot(&more, "seq 1 3000; cat /proc/cmdline").success();
    let text = fs::read_to_string(&out).unwrap().replace("\r\n", "\n");
    let expected: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    assert!(text.contains(&expected), "{text}");
    assert!(
        text.contains("console=hvc0") && !text.contains("ttyS0"),
        "{text}"
    );
    let samples = super::metrics::parse(&fs::read_to_string(&metrics).unwrap());
    let exits: f64 = ["read", "write"]
        .map(|op| {
            samples[&format!("mote_device_exits_total{{device=\"virtio-console\",op=\"{op}\"}}")]
        })
        .iter()
        .sum();
    let written = samples["mote_console_bytes_total{op=\"write\"}"];
    let _ = writeln!(std::io::stderr(), "{written} bytes, {exits} exits");
    assert!(
        written > 15_000.0 && exits < 50.0,
        "{written} bytes, {exits} exits"
    );
}

#[test]
fn what_is_piped_in_waits_until_the_guest_listens() {
    let Some(_) = guests() else { return };
    // The whole boot log is printed while the driver would still throw input away.
    let mut command = mote(&[
        "--console",
        "hvc",
        "--cmdline",
        "loglevel=7 mote.run=md5sum",
    ]);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hello\n\x04").unwrap();
    drop(input);
    let ended = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(out.contains("b1946ac92492d2347c6235b4d2611184"), "{out}");
}
