//! `ctr run -t` at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};

use crate::ctr::{PATIENCE, on_a_leash};
use crate::pty::{self, size};
use crate::world::World;

/// A terminal with a command in front of it.
struct Session {
    terminal: File,
    child: Child,
    seen: String,
}

impl Session {
    fn of(mut command: Command, window: libc::winsize) -> Self {
        let terminal = pty::before(&mut command, window);
        on_a_leash(&mut command, PATIENCE);
        let child = command.spawn().unwrap();
        Session {
            terminal,
            child,
            seen: String::new(),
        }
    }

    /// Waits until this has been printed, after whatever was waited for before. The leash ends the command, and with
    /// it the terminal.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let mut bytes = [0; 4096];
            let length = self.terminal.read(&mut bytes).unwrap_or(0);
            assert!(
                length > 0,
                "waited for {text:?}, and then the terminal was closed: {:?}",
                self.seen
            );
            self.seen
                .push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }

    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    fn resize(&mut self, size: &libc::winsize) {
        // SAFETY: a terminal, and a valid winsize. The kernel sends SIGWINCH.
        let result = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, size) };
        assert_eq!(result, 0);
    }
}

pub fn a_terminal_has_the_users_size_and_keys(world: &World) {
    // The size comes a moment after the start.
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo a terminal; echo $TERM; \
                  until [ \"$(stty size 2>/dev/null)\" = '33 101' ]; do sleep 0.1; done; echo the first; \
                  until [ \"$(stty size 2>/dev/null)\" = '50 120' ]; do sleep 0.1; done; echo the second; \
                  read word; echo \"<$word>\"; trap 'echo interrupted; exit 9' INT; echo waits; while :; do sleep 0.1; done";
    let command = world.command(&["--rm", "--tty"], "terminal", &["sh", "-c", script]);
    let mut session = Session::of(command, size(101, 33));
    // ctr leaves its terminal's own translation of line ends on.
    session.expect("a terminal\r");
    session.expect("xterm");
    session.expect("the first");
    session.resize(&size(120, 50));
    session.expect("the second");
    session.type_in("words\r");
    session.expect("words");
    session.expect("<words>");
    session.expect("waits");
    session.type_in("\x03");
    session.expect("interrupted");
    assert_eq!(session.child.wait().unwrap().code(), Some(9));
    // A program beside another one, at a terminal of its own.
    let mut first = world.session(&[], "beside", "echo ready; exec sleep 1000");
    first.expect("ready");
    let exec = [
        "task",
        "exec",
        "--tty",
        "--exec-id",
        "e",
        "beside",
        "sh",
        "-c",
        "tty >/dev/null && echo its own; exit 6",
    ];
    let mut session = Session::of(world.ctr(&exec), size(80, 24));
    session.expect("its own");
    assert_eq!(session.child.wait().unwrap().code(), Some(6));
    world.says(&["task", "kill", "--signal", "SIGKILL", "beside"]);
    assert_eq!(first.end().code, Some(137));
}
