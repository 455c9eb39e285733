//! Commands that can't hang, and what they left.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

/// How many seconds a command may take: an emulated machine is slow, and some start twenty VMs at once.
pub const PATIENCE: u32 = 300;

/// What the command starts is killed by SIGALRM once it has taken too long: a test that waits for it ends, too.
pub fn on_a_leash(command: &mut Command, seconds: u32) -> &mut Command {
    let start = move || {
        // SAFETY: a system call without pointers.
        unsafe { libc::alarm(seconds) };
        Ok(())
    };
    // SAFETY: the closure makes one system call and touches no memory.
    unsafe { command.pre_exec(start) }
}

/// What a command left.
pub struct Ended {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let out = String::from_utf8_lossy(&self.out[..self.out.len().min(2000)]);
        write!(
            f,
            "status {:?}\n--- output ---\n{out}\n--- errors ---\n{}",
            self.code, self.err
        )
    }
}

impl Ended {
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.text()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Runs it to its end, with this as its input.
pub fn finish(mut command: Command, input: &[u8]) -> Ended {
    command.stdin(if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    });
    on_a_leash(
        command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        PATIENCE,
    );
    let mut child = command.spawn().unwrap();
    let writer = child.stdin.take();
    std::thread::scope(|scope| {
        if let Some(mut writer) = writer {
            scope.spawn(move || {
                // Whoever doesn't read all of it shows that by what it prints.
                let _ = writer.write_all(input);
            });
        }
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code(),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    })
}

/// A command that runs meanwhile, with what it prints line by line.
pub struct Session {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Session {
    pub fn of(mut command: Command) -> Self {
        on_a_leash(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
            PATIENCE,
        );
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Session { child, out }
    }

    /// The next line that it prints.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.out.read_line(&mut line).unwrap();
        if length == 0 {
            let mut err = String::new();
            let _ = self.child.stderr.take().unwrap().read_to_string(&mut err);
            panic!("it ended, {:?}: {err}", self.child.wait());
        }
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        assert_eq!(self.line(), text);
    }

    /// What has come and not been read, as far as it is there.
    pub fn out(&mut self) -> &mut BufReader<ChildStdout> {
        &mut self.out
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its end, and what it has printed until then.
    pub fn end(mut self) -> Ended {
        let (mut out, mut err) = (Vec::new(), String::new());
        self.out.read_to_end(&mut out).unwrap();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut err);
        let code = self.child.wait().unwrap().code();
        Ended { code, out, err }
    }
}
