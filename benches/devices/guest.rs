//! A Linux guest under some monitor that does what it is told by its serial console, line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a guest may take for one thing: emulated hardware is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// For the kernel's command line: the default guest's init runs a shell that reads commands. `eval`
/// splits them at spaces, so quotes keep no two spaces together.
pub const OBEY: &str = "mote.run=\"stty -echo; echo READY; \
    while read -r c; do eval $c; echo END; done\"";

/// A running guest. Dropping it kills its monitor.
pub struct Guest {
    monitor: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Guest {
    /// Starts a monitor whose standard input and output are the guest's console, and waits until
    /// the guest obeys.
    pub fn start(mut command: Command) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut monitor = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        let (input, output) = (monitor.stdin.take(), monitor.stdout.take());
        let output = BufReader::new(output.expect("a pipe"));
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = send.send(line.trim_end().to_owned());
            }
        });
        let mut guest = Self {
            monitor,
            input: input.expect("a pipe"),
            output: receive,
        };
        let said = guest.until("READY");
        said.map_err(|said| format!("{program}: the guest did not come up: {said}"))?;
        Ok(guest)
    }

    /// The monitor's process.
    pub fn pid(&self) -> u32 {
        self.monitor.id()
    }

    /// Runs a shell command; what it printed, and how long it took.
    pub fn run(&mut self, command: &str) -> (String, Duration) {
        let start = Instant::now();
        writeln!(self.input, "{command}").expect("writing to the console");
        let said = self.until("END");
        let said = said.unwrap_or_else(|said| panic!("the guest hangs at `{command}`: {said}"));
        (said, start.elapsed())
    }

    /// What is printed before a line; as an error if that line doesn't come.
    fn until(&mut self, end: &str) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) if line == end => return Ok(said),
                Ok(line) => said += &(line + "\n"),
                Err(_) => return Err(said),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}
