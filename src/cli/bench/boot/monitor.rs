//! The monitors that are run: mote itself, and another one.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use motevm::VmConfig;
use motevm::config::{Console, Endpoint};
use motevm::machine::Until;

use super::samples::{INIT, MARKER, SEEN, Sample};
use super::{interrupted, syscalls};
use crate::cli::bench::child::{self, ChildError, Ended, Wait};
use crate::cli::{CliError, Status, until};

/// This program, with a VM.
pub struct Mote {
    program: PathBuf,
    /// The VM's configuration, as TOML in memory: no file is left behind, whatever ends this.
    config: File,
    until: Until,
}

/// Another monitor.
pub struct Other {
    pub command: String,
    pub marker: String,
    words: Vec<String>,
}

/// The console must be where another process can read it.
pub fn check_console(console: &Console) -> Result<(), CliError> {
    match console {
        Console::Stdio | Console::Hvc(Endpoint::Stdio) => Ok(()),
        _ => Err(CliError::usage(
            "--vs: both guests' consoles must be on standard output: leave out --console, or give --console hvc",
        )),
    }
}

impl Mote {
    pub fn new(config: &VmConfig, until: Until) -> Result<Self, CliError> {
        let internal = |e: &dyn std::fmt::Display| CliError::new(Status::Internal, e);
        let text = toml::to_string(config).map_err(|e| internal(&e))?;
        let mut file = memory_file().map_err(|e| internal(&e))?;
        io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| internal(&e))?;
        Ok(Mote {
            program: std::env::current_exe().map_err(|e| internal(&e))?,
            config: file,
            until,
        })
    }

    /// `mote run`, with a file for its report.
    fn command(&self, report: &File) -> Command {
        let mut command = Command::new(&self.program);
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        command.arg("run").arg("--config").arg(path(&self.config));
        command.arg("--until").arg(until::written(&self.until));
        command
            .arg("--timings")
            .arg(format!("json={}", path(report)));
        let inherited = [self.config.as_raw_fd(), report.as_raw_fd()];
        // SAFETY: a system call that is async-signal-safe, between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for fd in inherited {
                    if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command
    }

    /// One boot.
    pub fn boot(&self, limit: Duration, stop: i32) -> Result<Sample, CliError> {
        let failed = |e: &dyn std::fmt::Display| CliError::new(Status::Internal, e);
        let mut report = memory_file().map_err(|e| failed(&e))?;
        let marker = match &self.until {
            Until::Printed(text) => Some(text.as_str()),
            _ => None,
        };
        let wait = Wait {
            marker,
            end_at_marker: false,
            limit,
            stop,
        };
        let ended = child::run(self.command(&report), wait).map_err(|e| match e {
            ChildError::Interrupted => interrupted(),
            ChildError::TimedOut { .. } => CliError::new(
                Status::GuestCrash,
                format_args!("{} {e}{}", self.goal(), self.advice()),
            ),
            e => failed(&format_args!("starting mote again: {e}")),
        })?;
        self.check(&ended)?;
        let mut json = Vec::new();
        report.read_to_end(&mut json).map_err(|e| failed(&e))?;
        let sample = Sample::read(&json);
        let mut sample = sample.map_err(|e| failed(&format_args!("the report of a run: {e}")))?;
        let reached = match self.until {
            Until::Printed(_) => MARKER,
            _ => INIT,
        };
        if sample.phase(reached).is_none() {
            return Err(CliError::new(
                Status::GuestCrash,
                format_args!(
                    "the guest ended before that: {} did not come{}{}",
                    self.goal(),
                    ended.last_words(),
                    self.advice()
                ),
            ));
        }
        if let Some(seen) = ended.marker {
            sample
                .phases
                .push((SEEN.to_owned(), seen.as_micros() as u64));
        }
        Ok(sample)
    }

    /// A run that failed is told in mote's own words.
    fn check(&self, ended: &Ended) -> Result<(), CliError> {
        if ended.status.success() {
            return Ok(());
        }
        let status = match ended.status.code() {
            Some(2) => Status::Usage,
            Some(3) => Status::Host,
            Some(4) => Status::GuestPanic,
            Some(5) => Status::GuestCrash,
            Some(7) => Status::Disconnected,
            _ => Status::Internal,
        };
        let said = String::from_utf8_lossy(&ended.err);
        let mut lines = said.lines().filter_map(|line| line.strip_prefix("mote: "));
        let message = lines.next().map_or_else(
            || format!("a run ended with {}{}", ended.status, ended.last_words()),
            str::to_owned,
        );
        Err(CliError::new(status, message))
    }

    /// What a run waits for.
    fn goal(&self) -> String {
        match &self.until {
            Until::Printed(text) => format!("{text:?} on the console"),
            _ => "init's signal".to_owned(),
        }
    }

    fn advice(&self) -> &'static str {
        match self.until {
            Until::Printed(_) => "",
            _ => {
                "; a guest without that signal can be measured by --until serial:TEXT (docs/boot.md)"
            }
        }
    }

    /// Counts the system calls of one start.
    pub fn count_system_calls(
        &self,
        limit: Duration,
        stop: i32,
    ) -> Result<u64, syscalls::CountError> {
        let report = memory_file().map_err(syscalls::CountError::Start)?;
        syscalls::count(self.command(&report), limit, stop)
    }
}

impl Other {
    /// Its command line, in words as a shell makes them of quotes and spaces; no shell runs it, whose
    /// own start would be counted too.
    pub fn new(command: &str, marker: &Until) -> Result<Self, CliError> {
        let Until::Printed(marker) = marker else {
            return Err(CliError::usage(
                "--vs-until init: what another monitor's guest signals can't be seen; give serial:TEXT",
            ));
        };
        let words = shlex::split(command).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| {
            CliError::usage(format!(
                "--vs {command:?}: must be a program and its arguments, quotes in pairs"
            ))
        })?;
        Ok(Other {
            command: command.to_owned(),
            marker: marker.clone(),
            words,
        })
    }

    /// One boot: from start to marker, in microseconds.
    pub fn boot(&self, limit: Duration, stop: i32) -> Result<u64, CliError> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        let wait = Wait {
            marker: Some(&self.marker),
            end_at_marker: true,
            limit,
            stop,
        };
        let named =
            |e: &dyn std::fmt::Display| CliError::usage(format!("--vs {}: {e}", self.words[0]));
        let missing = format!("{:?} on its standard output", self.marker);
        let ended = child::run(command, wait).map_err(|e| match e {
            ChildError::Interrupted => interrupted(),
            ChildError::TimedOut { .. } => named(&format_args!(
                "{missing} {e}; --vs-until names another text"
            )),
            e => named(&e),
        })?;
        let seen = ended.marker.ok_or_else(|| {
            let (status, said) = (ended.status, ended.last_words());
            named(&format_args!("it ended ({status}) without {missing}{said}"))
        })?;
        Ok(seen.as_micros() as u64)
    }
}

/// A file in memory, which has no name.
fn memory_file() -> io::Result<File> {
    let name = CString::new("mote-bench")?;
    // SAFETY: a name with its terminator.
    match unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) } {
        fd @ 0.. => {
            // SAFETY: a descriptor that was opened a moment ago and that nobody else has.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The last part of a program's path.
pub fn short_name(command: &str) -> String {
    let words = shlex::split(command).unwrap_or_default();
    let program = words.first().map_or("", String::as_str);
    let name = std::path::Path::new(program).file_name();
    name.and_then(OsStr::to_str)
        .unwrap_or("the other")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_monitor_is_a_program_and_a_text() {
        let text = Until::Printed("up".to_owned());
        let other = Other::new("qemu -append 'quiet root=/dev/vda' -m 1", &text).unwrap();
        assert_eq!(other.words[2], "quiet root=/dev/vda");
        for (command, until) in [("", &text), ("qemu 'a", &text), ("qemu", &Until::Init)] {
            assert!(Other::new(command, until).is_err(), "{command}");
        }
        assert_eq!(
            short_name("/usr/bin/qemu-system-x86_64 -M microvm"),
            "qemu-system-x86_64"
        );
    }

    #[test]
    fn its_console_must_be_seen() {
        assert!(check_console(&Console::Stdio).is_ok());
        assert!(check_console(&Console::File("x".into())).is_err());
    }
}
