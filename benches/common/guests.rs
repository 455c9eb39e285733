//! Linux guests of the default kernel that are up and wait for a line, and what memory they take.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use motevm::check::{Root, has_hardware};

/// Whether KVM can run Linux here; where it can't, says so and where to read on.
pub fn can_run(bench: &str) -> bool {
    let can = has_hardware(&Root::default());
    if !can {
        println!("NOT RUN: this host's KVM can't run Linux: see the head of benches/{bench}.rs");
    }
    can
}

/// The number behind `name` on the bench's command line.
pub fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    let given = arguments.nth(1);
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// On tmpfs where there is one, so that what the host itself caches doesn't change meanwhile.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a temporary folder")
}

/// A guest that has done what it was told and waits for a line.
pub struct Guest {
    child: Child,
    said: String,
}

impl Guest {
    /// Starts one by `mote run` with these arguments, and waits until it has run the script.
    pub fn start(arguments: &[&str], script: &str) -> Self {
        let cmdline = format!("mote.run=\"{script}; echo ready; head -n 1\"");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command
            .arg("run")
            .args(arguments)
            .args(["--cmdline", &cmdline]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("mote");
        let mut out = BufReader::new(child.stdout.as_mut().expect("its output"));
        let mut said = String::new();
        while !said.trim_end().ends_with("ready") {
            let read = out.read_line(&mut said).expect("reading its output");
            assert!(read > 0, "a guest has ended: {said}");
        }
        Guest { child, said }
    }

    /// Whether it has printed this.
    #[allow(dead_code)] // each bench uses its own part
    pub fn said(&self, text: &str) -> bool {
        self.said.contains(text)
    }

    /// A file of its process in /proc.
    pub fn proc(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.child.id().to_string());
        fs::read_to_string(path.join(file)).expect("a file in /proc")
    }

    /// A value of its smaps_rollup, in KiB.
    pub fn memory(&self, key: &str) -> u64 {
        value(&self.proc("smaps_rollup"), key)
    }

    /// Lets it end.
    pub fn end(mut self) {
        let mut input = self.child.stdin.take().expect("its input");
        input.write_all(b"\n").expect("writing to it");
        assert!(self.child.wait().expect("its end").success());
    }
}

/// Memory that the host can still give, in KiB.
pub fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    value(&text, "MemAvailable:")
}

fn value(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no {key}"))
}
