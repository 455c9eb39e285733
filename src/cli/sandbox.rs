//! What the process takes off by itself, for `mote run`: descriptors that are not its business, core dumps, its
//! environment. The rest is the library's ([`motevm::sandbox`]).

use std::os::fd::RawFd;

use clap::Args;
use motevm::VmConfig;
use motevm::sandbox::{Confine, leftovers, violation};

use super::run_help::ISOLATION;
use super::{CliError, Status, say, terminal};

/// How far the process is confined.
#[derive(Args, Clone, Copy, Debug)]
pub struct SandboxArgs {
    /// Confine nothing: no system call filters, no Landlock, capabilities and environment kept
    #[arg(long, alias = "no-seccomp", help_heading = ISOLATION)]
    no_sandbox: bool,
    /// Let a crash of mote leave a core dump, with the guest's memory in it
    #[arg(long, help_heading = ISOLATION)]
    core_dump: bool,
}

/// Whether the process is confined.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox(bool);

impl Sandbox {
    /// Takes off what is not needed from the very start. What was inherited stays open only where an
    /// option names it.
    pub fn enter(
        args: SandboxArgs,
        config: &VmConfig,
        notify_fd: Option<RawFd>,
    ) -> Result<Self, CliError> {
        if !args.core_dump {
            forbid_core_dumps();
        }
        if args.no_sandbox {
            say("--no-sandbox: a guest that breaks into mote has all that this user has");
            return Ok(Sandbox(false));
        }
        let mut kept: Vec<RawFd> = notify_fd.into_iter().collect();
        // A shell hands over pipes as /dev/fd/63: `--initrd <(pack)`.
        let given = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        for text in given.chain([format!("{config:?}")]) {
            kept.extend(descriptors_named(&text));
        }
        if let Err(error) = leftovers::close_all_but(kept) {
            log::debug!("closing what was inherited: {error}");
        }
        violation::end_process(terminal::restore, Status::Violation.code().into())
            .map_err(|e| CliError::new(Status::Internal, format_args!("handling SIGSYS: {e}")))?;
        Ok(Sandbox(true))
    }

    /// For the library.
    pub fn confine(self) -> Confine {
        match self.0 {
            true => Confine::Process,
            false => Confine::Nothing,
        }
    }

    /// Wipes the environment, once nobody asks for it any more: it may hold what a supervisor was
    /// given in confidence.
    pub fn forget_environment(self) {
        if self.0 {
            // SAFETY: none of the threads that there are reads it.
            unsafe { leftovers::forget_environment() };
        }
    }
}

/// The numbers behind what names an open descriptor.
fn descriptors_named(text: &str) -> impl Iterator<Item = RawFd> {
    const NAMES: [&str; 4] = ["fd=", "fd: Some(", "/dev/fd/", "/proc/self/fd/"];
    let numbers = |name| {
        text.split(name).skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().ok()
        })
    };
    NAMES.into_iter().flat_map(numbers)
}

/// One byte, not none: a limit of none is passed over where the host hands core dumps to a program, and one of
/// one isn't (kernel/coredump.c; core(5)).
fn forbid_core_dumps() {
    let limit = libc::rlimit {
        rlim_cur: 1,
        rlim_max: 1,
    };
    // SAFETY: a valid limit.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) } != 0 {
        let error = std::io::Error::last_os_error();
        log::debug!("forbidding core dumps: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_stays_open_where_something_names_it() {
        let named = |text: &str| descriptors_named(text).collect::<Vec<_>>();
        assert_eq!(named("--net fd=7,mac=x"), [7]);
        assert_eq!(named("/dev/fd/63"), [63]);
        assert_eq!(named("json=/proc/self/fd/5"), [5]);
        assert_eq!(named("Net { fd: Some(12), vhost: false } fd=3"), [3, 12]);
        assert!(named("fd=x /dev/fd/ fd=99999999999").is_empty());
    }
}
