//! The way to the host: vsock, or in tests a Unix socket.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use mote_agent_protocol::{Opening, PORT};

use crate::sys;

/// Between attempts to call the host, and how many there are: 5 s in all.
const BETWEEN_CALLS: Duration = Duration::from_millis(5);
const CALLS: u32 = 1000;

fn nobody_listens(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | NotFound)
}

/// Where connections go.
#[derive(Debug)]
pub enum Host {
    /// The host of this guest.
    Vsock,
    /// A socket that a test listens on.
    Unix(PathBuf),
}

impl Host {
    /// Makes the control connection. Whoever starts a jailed VM can listen only once it runs, and may come a little late: it
    /// is tried again for a while.
    pub fn call(&self) -> io::Result<OwnedFd> {
        for _ in 0..CALLS {
            match self.connect(Opening::Control) {
                Err(error) if nobody_listens(&error) => std::thread::sleep(BETWEEN_CALLS),
                connected => return connected,
            }
        }
        self.connect(Opening::Control)
    }

    /// Makes a connection, and says which it is. The host accepts at once or not at all.
    pub fn connect(&self, opening: Opening) -> io::Result<OwnedFd> {
        let socket = match self {
            Host::Vsock => {
                let socket = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
                let address = address(libc::VMADDR_CID_HOST);
                let size = size_of_val(&address) as libc::socklen_t;
                // SAFETY: an address and its size.
                let result =
                    unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
                match result {
                    0 => socket,
                    _ => return Err(io::Error::last_os_error()),
                }
            }
            Host::Unix(path) => UnixStream::connect(path)?.into(),
        };
        let mut file = std::fs::File::from(socket);
        opening.write(&mut file)?;
        let socket = OwnedFd::from(file);
        sys::set_nonblocking(&socket)?;
        Ok(socket)
    }

    /// Where the host may connect to, for a control connection after the first; tests have none.
    pub fn listen(&self) -> io::Result<Option<OwnedFd>> {
        let Host::Vsock = self else {
            return Ok(None);
        };
        let socket = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
        let address = address(libc::VMADDR_CID_ANY);
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: an address and its size; the second call takes no pointer.
        let failed = unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) != 0
                || libc::listen(socket.as_raw_fd(), 4) != 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        sys::set_nonblocking(&socket)?;
        Ok(Some(socket))
    }
}

/// The next connection, which must be the host's: a container's program could call here, too.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let mut from = address(libc::VMADDR_CID_ANY);
    let mut size = size_of_val(&from) as libc::socklen_t;
    let (place, size) = ((&raw mut from).cast(), &raw mut size);
    // SAFETY: a place for an address, and its size.
    let fd = match unsafe { libc::accept4(listener.as_raw_fd(), place, size, flags) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new.
        fd => unsafe { OwnedFd::from_raw_fd(fd) },
    };
    match is_hosts(&from) {
        true => Ok(fd),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn is_hosts(from: &libc::sockaddr_vm) -> bool {
    from.svm_family == libc::AF_VSOCK as libc::sa_family_t && from.svm_cid == libc::VMADDR_CID_HOST
}

fn address(cid: u32) -> libc::sockaddr_vm {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = PORT;
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_the_host() {
        assert!(is_hosts(&address(libc::VMADDR_CID_HOST)));
        // The guest itself, by either of its numbers, and what the kernel didn't fill in.
        for cid in [libc::VMADDR_CID_LOCAL, 3, 0, libc::VMADDR_CID_ANY] {
            assert!(!is_hosts(&address(cid)), "{cid}");
        }
    }
}
