//! Unix sockets that have a name in the file system.

use std::fs;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

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
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_UNIX, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a socket that was just made.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address with its size.
    if unsafe { libc::connect(fd, (&raw const address).cast(), size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    socket.set_nonblocking(false)?;
    Ok(socket)
}
