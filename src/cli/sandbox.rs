//! What the process takes off by itself, for `mote run`: descriptors that are not its business, core dumps, its
//! environment. The rest is the library's ([`motevm::sandbox`]).

use std::os::fd::RawFd;

use clap::Args;
use motevm::VmConfig;
use motevm::sandbox::{Confine, violation};

use super::run_help::ISOLATION;
use super::{CliError, Status, say, terminal};

/// How far the process is confined.
#[derive(Args, Clone, Copy, Debug)]
pub struct SandboxArgs {
    /// Confine nothing: no system call filters, no Landlock, capabilities and environment kept
    #[arg(long, help_heading = ISOLATION)]
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
        close_others(kept);
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
            wipe_environment();
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

/// Closes all descriptors but the standard ones and these. Nothing of mote's own is open yet.
fn close_others(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    kept.dedup();
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3).map(|fd| fd as u32) {
        close_range(first, fd - 1);
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

/// A host before Linux 5.9 has no such call: then they stay open.
fn close_range(first: u32, last: u32) {
    if first <= last {
        // SAFETY: takes no pointer; nothing of this process's own is among them.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
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

fn wipe_environment() {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    // SAFETY: a list of strings of this process's own that ends with a null, as it was at exec: nobody
    // has changed it, and none of the threads that there are reads it.
    unsafe {
        let mut variable = environ;
        while !variable.is_null() && !(*variable).is_null() {
            let text = *variable;
            libc::explicit_bzero(text.cast(), libc::strlen(text));
            variable = variable.add(1);
        }
        libc::clearenv();
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
