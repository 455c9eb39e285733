//! Unix sockets that have a name in the file system.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::handed;

/// Why a socket can't be listened at.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something other than a socket has that name.
    #[error("there is a file of that name which is no socket; name another")]
    NoSocket,
    /// Another program serves that socket.
    #[error("another program listens there; name another socket for each VM")]
    InUse,
    /// The host refused.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// Makes a socket that listens and never waits, or takes over the one that `path` stands for
/// ([`handed`]). One that a program left behind which has ended is replaced. With a `mode`, only those
/// may connect whom it lets write.
pub fn listen(
    path: &Path,
    mode: Option<libc::mode_t>,
) -> Result<(UnixListener, Option<Made>), ListenError> {
    let (listener, made) = match handed::listener(path) {
        Some(handed) => (handed?, None),
        None => {
            let listener = match bind(path, mode) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => replace(path, mode)?,
                result => result?,
            };
            (listener, Some(Made::at(path)?))
        }
    };
    listener.set_nonblocking(true)?;
    Ok((listener, made))
}

fn replace(path: &Path, mode: Option<libc::mode_t>) -> Result<UnixListener, ListenError> {
    if !fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return Err(ListenError::NoSocket);
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // Somebody listens, who may be too busy to take this.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(ListenError::InUse),
        Ok(_) => return Err(ListenError::InUse),
        Err(error) => return Err(error.into()),
    }
    fs::remove_file(path)?;
    Ok(bind(path, mode)?)
}

fn bind(path: &Path, mode: Option<libc::mode_t>) -> io::Result<UnixListener> {
    let Some(mode) = mode else {
        return UnixListener::bind(path);
    };
    let (address, socket) = (address(path)?, socket(0)?);
    // Before it has a name: the file is made with the mode of the socket (net/unix/af_unix.c,
    // unix_bind_bsd), so nobody finds it open to more.
    // SAFETY: a socket of this function's.
    if unsafe { libc::fchmod(socket.as_raw_fd(), mode) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address with its size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    // SAFETY: takes no pointer.
    if bound < 0 || unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

/// Peers that wait to be accepted, as of the library's own.
const BACKLOG: i32 = 128;

/// The name of a socket that this process has made, removed at the end. What somebody else has put there
/// meanwhile stays.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl Made {
    /// To be called right after the socket was bound to `path`.
    pub fn at(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        Ok(Made {
            id: id(&path)?,
            path,
        })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::debug!("removing the socket {}: {error}", self.path.display());
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether a socket was left by a process that has ended.
pub fn is_stale(path: &Path) -> bool {
    let is_socket = path.symlink_metadata();
    is_socket.is_ok_and(|meta| meta.file_type().is_socket())
        && connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects at once or not at all. The library's own would wait for someone who listens but
/// doesn't accept.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = address(path)?;
    let socket = socket(libc::SOCK_NONBLOCK)?;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address with its size.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

fn socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_UNIX, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a socket that was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: a structure of integers, for which zeros are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        let limit = address.sun_path.len() - 1;
        let what = format!("a socket's path has at most {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_socket_is_so_from_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, made) = listen(&path, Some(0o600)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(
            listen(&path, Some(0o600)),
            Err(ListenError::InUse)
        ));
        // What has ended, and has not tidied up, is replaced.
        drop(listener);
        std::mem::forget(made);
        let (_listener, made) = listen(&path, Some(0o600)).unwrap();
        connect(&path).unwrap();
        drop(made);
        assert!(!path.exists());
    }
}
