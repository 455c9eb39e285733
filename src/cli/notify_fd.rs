//! `--notify-fd`: an inherited descriptor that learns how far the VM has come.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, RawFd};

use motevm::machine::Notify;

use super::CliError;

/// Takes the descriptor over, so that no program that mote starts has it. Standard streams stay where
/// they are.
pub fn take(fd: RawFd) -> Result<Notify, CliError> {
    let refused = |e: io::Error| {
        CliError::usage(format!(
            "--notify-fd {fd}: {e}; whoever starts mote leaves it open for that"
        ))
    };
    // SAFETY: takes no pointer; fails where there is no such descriptor.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    if fd > libc::STDERR_FILENO {
        // SAFETY: it was given to mote for this, and nothing else has been opened by its number.
        unsafe { libc::close(fd) };
    }
    // SAFETY: a descriptor that was just made.
    Ok(Notify::new(unsafe { File::from_raw_fd(own) }))
}
