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
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    // What came through exec isn't closed by the next one; what mote itself has opened is.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(refused(io::Error::from_raw_os_error(libc::EBADF)));
    }
    // SAFETY: as above.
    let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if mode & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(CliError::usage(format!(
            "--notify-fd {fd}: it is open for reading only; give the end that is written to"
        )));
    }
    // SAFETY: as above.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    if fd > libc::STDERR_FILENO {
        // SAFETY: it was given to mote for this, and isn't one of mote's own (see above).
        unsafe { libc::close(fd) };
    }
    // SAFETY: a descriptor that was just made.
    Ok(Notify::new(unsafe { File::from_raw_fd(own) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_what_was_inherited_and_can_be_written_is_taken() {
        let (reader, writer) = io::pipe().unwrap();
        // As mote's own are: closed at exec.
        let error = take(writer.as_raw_fd()).unwrap_err().to_string();
        assert!(error.contains("Bad file descriptor"), "{error}");
        let inherit = |fd: RawFd| {
            // SAFETY: takes no pointer.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
            fd
        };
        let error = take(inherit(reader.as_raw_fd())).unwrap_err().to_string();
        assert!(error.contains("for reading only"), "{error}");
        assert!(take(inherit(writer.into_raw_fd())).is_ok());
        let error = take(1_000_000).unwrap_err().to_string();
        assert!(error.contains("--notify-fd 1000000"), "{error}");
    }
}
