//! How a back-end is reached: by connecting to its socket, or by waiting for it at one of mote's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::passt::Passt;
use super::wait;

/// Where the back-end of a device is.
#[derive(Debug)]
pub enum Peer {
    /// It listens at this path.
    Client(PathBuf),
    /// mote listens, and it connects.
    Server(Listener),
    /// mote starts it.
    Passt(Passt),
}

/// A socket of mote's, removed when it isn't needed any more.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    socket: UnixListener,
}

impl Peer {
    /// The peer at `path`, which listens or, with `server`, is listened for.
    ///
    /// # Errors
    ///
    /// mote can't listen there.
    pub fn new(path: &Path, server: bool) -> io::Result<Self> {
        Ok(match server {
            false => Peer::Client(path.to_owned()),
            true => Peer::Server(Listener::new(path)?),
        })
    }

    /// Its socket.
    pub fn path(&self) -> &Path {
        match self {
            Peer::Client(path) => path,
            Peer::Server(listener) => &listener.path,
            Peer::Passt(passt) => passt.path(),
        }
    }

    /// A connection, the first time: to one who should be there already, or who is waited for.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub fn connect(&mut self) -> io::Result<UnixStream> {
        match self {
            Peer::Client(path) => connect(path),
            Peer::Server(listener) => listener.accept(),
            Peer::Passt(passt) => passt.connect(),
        }
    }

    /// A connection after one was lost: waits until the back-end is there, and at least for
    /// `delay`. `None` if it isn't there yet, or if `stop` became readable.
    pub fn reconnect(&mut self, stop: &EventFd, delay: Duration) -> Option<UnixStream> {
        let [stopped] = wait::readable([stop.as_raw_fd()], Some(delay)).unwrap_or([true]);
        if stopped {
            return None;
        }
        let connected = match self {
            Peer::Client(path) => connect(path),
            Peer::Server(listener) => {
                let fds = [stop.as_raw_fd(), listener.socket.as_raw_fd()];
                match wait::readable(fds, None) {
                    Ok([false, true]) => listener.accept(),
                    _ => return None,
                }
            }
            Peer::Passt(passt) => passt.connect(),
        };
        connected
            .inspect_err(|error| log::trace!("{}: {error}", self.path().display()))
            .ok()
    }
}

impl Listener {
    fn new(path: &Path) -> io::Result<Self> {
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            result => result?,
        };
        let path = path.to_owned();
        Ok(Listener { path, socket })
    }

    fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.accept()?.0)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // someone else was quicker
    }
}

/// Whether a socket was left by a process that has ended.
fn is_stale(path: &Path) -> bool {
    let is_socket = path.symlink_metadata();
    is_socket.is_ok_and(|meta| meta.file_type().is_socket())
        && connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects at once or not at all. The library's own would wait for someone who listens but
/// doesn't accept.
fn connect(path: &Path) -> io::Result<UnixStream> {
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
