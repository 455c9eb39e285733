//! Files that whoever starts mote has opened already, given in place of a path: `fd=N`, or `fd=N:NAME`
//! with a name for messages.
//!
//! They need no rights of this process, so that a supervisor can open them with its own. A file whose
//! name is like that is `./fd=3`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read.
    Read,
    /// To be written.
    Write,
    /// Both.
    Both,
}

/// The descriptor that `path` stands for, if it is of the form `fd=N` or `fd=N:NAME`.
pub fn number(path: &Path) -> Option<RawFd> {
    let rest = path.as_os_str().as_bytes().strip_prefix(b"fd=")?;
    let digits = rest.split(|byte| *byte == b':').next()?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A number beyond all descriptors is none that is open either.
    let text = std::str::from_utf8(digits).ok()?;
    Some(text.parse().unwrap_or(RawFd::MAX))
}

/// Opens `path` as `options` say. Of a descriptor it is a copy, which shares offset and flags with the
/// one that was handed over, if that is open for `access`.
///
/// # Errors
///
/// Those of open(2), and what is wrong with the descriptor.
pub fn open(path: &Path, access: Access, options: &OpenOptions) -> io::Result<File> {
    let Some(fd) = number(path) else {
        return options.open(path);
    };
    let copy = copy(fd)?;
    // SAFETY: takes no pointer.
    let flags = unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_GETFL) };
    let mode = flags & libc::O_ACCMODE;
    let wrong = match access {
        _ if flags & libc::O_PATH != 0 => "is not open for reading or writing (O_PATH)",
        Access::Read | Access::Both if mode == libc::O_WRONLY => "is open for writing only",
        Access::Write | Access::Both if mode == libc::O_RDONLY => "is open for reading only",
        _ => return Ok(copy.into()),
    };
    let text = format!("descriptor {fd} {wrong}");
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

/// Takes over the connected Unix socket that `path` stands for; `None` where it stands for none.
pub fn stream(path: &Path) -> Option<io::Result<UnixStream>> {
    let what = "a connected Unix socket";
    Some(socket(number(path)?, false, what).map(UnixStream::from))
}

/// Takes over the listening Unix socket that `path` stands for; `None` where it stands for none.
pub fn listener(path: &Path) -> Option<io::Result<UnixListener>> {
    let what = "a listening Unix socket";
    Some(socket(number(path)?, true, what).map(UnixListener::from))
}

/// Checks that `fd` is open: to be asked before this process opens anything of its own.
///
/// # Errors
///
/// It isn't.
pub fn check(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer; any number will do.
    match unsafe { libc::fcntl(fd, libc::F_GETFD) } {
        0.. => Ok(()),
        _ => Err(not_open(fd)),
    }
}

fn copy(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer; any number will do.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    match io::Error::last_os_error() {
        // SAFETY: a descriptor that was just made.
        _ if copy >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
        error if error.raw_os_error() == Some(libc::EBADF) => Err(not_open(fd)),
        error => Err(error),
    }
}

fn not_open(fd: RawFd) -> io::Error {
    let text = format!("descriptor {fd} is not open; whoever starts mote leaves it open for that");
    io::Error::new(ErrorKind::InvalidInput, text)
}

/// The descriptor itself goes, so that the other end sees the connection end with the device.
fn socket(fd: RawFd, listening: bool, what: &str) -> io::Result<OwnedFd> {
    let copy = copy(fd)?;
    let is = |option, value| socket_option(&copy, option) == Some(value);
    let right = is(libc::SO_DOMAIN, libc::AF_UNIX)
        && is(libc::SO_TYPE, libc::SOCK_STREAM)
        && is(libc::SO_ACCEPTCONN, listening.into());
    if !right {
        let text = format!("descriptor {fd} is not {what}");
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    if fd > libc::STDERR_FILENO {
        // SAFETY: it was given to mote for this use, and nothing else has it.
        unsafe { libc::close(fd) };
    }
    Ok(copy)
}

fn socket_option(socket: &OwnedFd, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: an int and its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    (result == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;

    fn path(fd: &impl AsRawFd) -> std::path::PathBuf {
        format!("fd={}:a name", fd.as_raw_fd()).into()
    }

    #[test]
    fn only_the_form_is_a_descriptor() {
        for (path, fd) in [("fd=0", 0), ("fd=17", 17), ("fd=5:/a/b.img", 5)] {
            assert_eq!(number(Path::new(path)), Some(fd), "{path}");
        }
        assert_eq!(number(Path::new("fd=99999999999")), Some(RawFd::MAX));
        for path in [
            "./fd=3", "fd", "fd=", "fd=x", "fd=-1", "fd=3x", "fd=:x", "/fd=3", "xfd=3",
        ] {
            assert_eq!(number(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_file_is_what_it_was_opened_for() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("file");
        std::fs::write(&name, "text").unwrap();
        let options = OpenOptions::new();
        let mut text = String::new();
        let reader = File::open(&name).unwrap();
        let mut copy = open(&path(&reader), Access::Read, &options).unwrap();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        // SAFETY: takes no pointer.
        let flags = unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        let writer = OpenOptions::new().write(true).open(&name).unwrap();
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&name)
            .unwrap();
        let refused = |file: &File, access| {
            let error = open(&path(file), access, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            error.to_string()
        };
        assert!(refused(&reader, Access::Write).contains("for reading only"));
        assert!(refused(&reader, Access::Both).contains("for reading only"));
        assert!(refused(&writer, Access::Read).contains("for writing only"));
        for access in [Access::Read, Access::Write, Access::Both] {
            assert!(open(&path(&both), access, &options).is_ok());
        }
        let error = open(Path::new("fd=1000000"), Access::Read, &options).unwrap_err();
        assert!(error.to_string().contains("1000000 is not open"), "{error}");
        assert!(check(1_000_000).is_err() && check(reader.as_raw_fd()).is_ok());
        // What has no such form is a path.
        let file = open(&name, Access::Read, OpenOptions::new().read(true));
        assert!(file.is_ok());
    }

    #[test]
    fn a_socket_is_taken_over_if_it_is_of_that_sort() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        assert!(listener(&path(&theirs)).unwrap().is_err());
        let mut taken = stream(&path(&theirs)).unwrap().unwrap();
        let _ = theirs.into_raw_fd(); // closed by now
        taken.write_all(b"x").unwrap();
        drop(taken);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap(); // to its end: nobody else has the other one
        assert_eq!(text, "x");
        let bound = UnixListener::bind(folder.path().join("s")).unwrap();
        let error = stream(&path(&bound)).unwrap().unwrap_err().to_string();
        assert!(error.contains("not a connected Unix socket"), "{error}");
        assert!(listener(&path(&bound)).unwrap().is_ok());
        let _ = bound.into_raw_fd();
        let file = File::open("/dev/null").unwrap();
        assert!(stream(&path(&file)).unwrap().is_err());
        assert!(stream(Path::new("s")).is_none());
    }
}
