//! Exit statuses: what a script can tell from them.

use std::process::ExitCode;

use motevm::machine::Fault;
use motevm::{BuildError, Exit};

/// The end of `mote run --help`.
pub const HELP: &str = "\
On a terminal every key goes to the guest; Ctrl-A x ends the VM, Ctrl-A Ctrl-A is one Ctrl-A.

In place of any PATH, FILE or SOCKET, fd=N is one that is open already as descriptor N (docs/jail.md).

Exit status:
  0    the guest shut down or rebooted, or came to where --until says
  1    mote itself failed
  2    a wrong option, configuration or file
  3    the host lacks something that mote needs (KVM, memory, a limit)
  4    the guest's kernel panicked
  5    the guest crashed (triple fault, or an instruction that KVM can't run)
  7    the process that serves a device went away (on-disconnect=exit)
  9    a thread of mote made a system call that its filter forbids
  with --image, the program's own, or
  126, 127
       it can't be run, it isn't there
  129, 130, 131, 143
       ended by SIGHUP, by SIGINT or Ctrl-A x, by SIGQUIT, by SIGTERM";

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The guest shut down or rebooted, or did what it was run for.
    Success,
    /// mote itself failed.
    Internal,
    /// A wrong option, configuration or file.
    Usage,
    /// The host lacks something.
    Host,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest crashed.
    GuestCrash,
    /// KVM is there, but has no hardware behind it (`mote check` only).
    Emulated,
    /// The process that serves a device went away.
    Disconnected,
    /// A figure is worse than was allowed (`mote bench` only).
    Gate,
    /// A thread made a system call that its filter forbids.
    Violation,
    /// A VM refused what it was told (`mote ctl` only).
    Refused,
    /// Another process of mote has ended so, and has said why.
    Passed(u8),
    /// A signal ended it, or the user did as if by one.
    Signal(i32),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status.code())
    }
}

impl Status {
    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Status::Success => 0,
            Status::Internal => 1,
            Status::Usage => 2,
            Status::Host => 3,
            Status::GuestPanic => 4,
            Status::GuestCrash => 5,
            Status::Emulated => 6,
            Status::Disconnected => 7,
            Status::Gate => 8,
            Status::Violation => 9,
            Status::Refused => 10,
            Status::Passed(code) => code,
            Status::Signal(number) => 128u8.saturating_add(u8::try_from(number).unwrap_or(127)),
        }
    }

    /// The status of a VM that ended; `signal` is the last one that the process received.
    pub fn of(exit: &Exit, signal: Option<i32>) -> Self {
        match exit {
            Exit::PowerOff | Exit::Reset | Exit::Reached => Status::Success,
            Exit::Panic => Status::GuestPanic,
            Exit::Crash(_) => Status::GuestCrash,
            Exit::Failed => Status::Internal,
            Exit::Stopped => Status::Signal(signal.unwrap_or(libc::SIGTERM)),
            Exit::Quit => Status::Signal(libc::SIGINT),
            Exit::Disconnected => Status::Disconnected,
        }
    }
}

impl From<BuildError> for super::CliError {
    fn from(error: BuildError) -> Self {
        let status = match error.fault() {
            Fault::Configuration => Status::Usage,
            Fault::Host => Status::Host,
            Fault::Mote => Status::Internal,
        };
        Self::new(status, error)
    }
}
