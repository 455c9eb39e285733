//! How a back-end is reached: by connecting to its socket, or by waiting for it at one of mote's.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::passt::Passt;
use super::wait;
use crate::handed;
use crate::sockets::{Made, connect, is_stale};

/// Where the back-end of a device is.
#[derive(Debug)]
pub enum Peer {
    /// It was connected when mote was started (`fd=N`), and can't be connected to again.
    Handed(PathBuf, Option<UnixStream>),
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
    /// `None` of one that was handed over: it has no name that is mote's to remove.
    _made: Option<Made>,
    socket: UnixListener,
}

impl Peer {
    /// The peer at `path`, which listens or, with `server`, is listened for.
    ///
    /// # Errors
    ///
    /// mote can't listen there.
    pub fn new(path: &Path, server: bool) -> io::Result<Self> {
        let path = path.to_owned();
        Ok(match (server, handed::number(&path)) {
            (true, _) => Peer::Server(Listener::new(&path)?),
            (false, None) => Peer::Client(path),
            (false, Some(_)) => {
                let socket = handed::stream(&path).transpose()?;
                Peer::Handed(path, socket)
            }
        })
    }

    /// Its socket.
    pub fn path(&self) -> &Path {
        match self {
            Peer::Client(path) | Peer::Handed(path, _) => path,
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
            Peer::Handed(_, socket) => socket.take().ok_or(ErrorKind::NotConnected.into()),
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
            Peer::Handed(path, _) => {
                log::warn!(
                    "{}: its back-end is gone for good: a socket that was handed over connected can't be \
                     connected again",
                    path.display()
                );
                let _ = wait::readable([stop.as_raw_fd()], None);
                return None;
            }
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
        if let Some(socket) = handed::listener(path) {
            return Ok(Listener {
                path: path.to_owned(),
                _made: None,
                socket: socket?,
            });
        }
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            result => result?,
        };
        Ok(Listener {
            path: path.to_owned(),
            _made: Some(Made::at(path)?),
            socket,
        })
    }

    fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.accept()?.0)
    }
}
