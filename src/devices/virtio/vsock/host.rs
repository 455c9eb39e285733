//! The host's side: Unix sockets, in the convention of Firecracker and Cloud Hypervisor.
//!
//! - A program on the host connects to the socket PATH and says `CONNECT port`; once the guest has
//!   accepted it is answered `OK host_port`, and from then on it is a stream like any other.
//! - Where the guest connects to port P of the host, the socket PATH_P is connected to.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::VsockError;
use crate::handed;

/// A port of the host that this process itself serves, with no socket in between.
#[derive(Clone)]
pub struct OwnPort {
    /// Its number.
    pub port: u32,
    /// Gets the host's end of each connection that the guest makes; on the device's thread, which must not be kept
    /// waiting.
    pub on_connect: Arc<dyn Fn(UnixStream) + Send + Sync>,
}

impl fmt::Debug for OwnPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnPort").field(&self.port).finish()
    }
}

/// The longest line that is taken for a CONNECT, with its end.
pub const LINE_LEN: usize = 32;

/// The socket that programs on the host connect to, if there is one. Its file goes when this is dropped.
#[derive(Debug, Default)]
pub struct SocketFile {
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode: what is removed at the end must be what was made. A socket that was handed
    /// over has none, and no name that is ours.
    id: Option<(u64, u64)>,
    /// The port that leads to no program.
    pub own: Option<OwnPort>,
}

impl SocketFile {
    /// Makes the socket. One that nobody listens on any more is replaced.
    ///
    /// # Errors
    ///
    /// Someone listens there, there is something else, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, VsockError> {
        let failed = |source| VsockError::Bind {
            path: path.to_owned(),
            source,
        };
        let handed = handed::listener(path).transpose().map_err(failed)?;
        let (listener, is_ours) = match handed {
            Some(listener) => (listener, false),
            None => match UnixListener::bind(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    (Self::replace(path)?, true)
                }
                result => (result.map_err(failed)?, true),
            },
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let id = is_ours.then(|| id(path)).transpose().map_err(failed)?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            id,
            own: None,
        })
    }

    fn replace(path: &Path) -> Result<UnixListener, VsockError> {
        let failed = |source| VsockError::Bind {
            path: path.to_owned(),
            source,
        };
        // One at a time from here to the new socket: two that find the same stale one must not
        // remove each other's.
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        folder.lock().map_err(failed)?;
        let is_socket = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type().is_socket(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return UnixListener::bind(path).map_err(failed);
            }
            Err(error) => return Err(failed(error)),
        };
        if !is_socket {
            return Err(VsockError::NotASocket(path.to_owned()));
        }
        match connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err(VsockError::InUse(path.to_owned())),
        }
        fs::remove_file(path).map_err(failed)?;
        UnixListener::bind(path).map_err(failed)
    }

    /// The next program that connects.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let listener = self.listener.as_ref();
        let (socket, _) = listener.ok_or(io::ErrorKind::WouldBlock)?.accept()?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Connects to the program that serves the host's port `port`. With a socket that was handed over
    /// there is no folder in which such programs are.
    pub fn connect_port(&self, port: u32) -> io::Result<UnixStream> {
        if let Some(own) = self.own.as_ref().filter(|own| own.port == port) {
            let (device, host) = UnixStream::pair()?;
            device.set_nonblocking(true)?;
            (own.on_connect)(host);
            return Ok(device);
        }
        if self.id.is_none() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        connect(Path::new(&path))
    }
}

impl SocketFile {
    /// Where programs arrive.
    pub fn listener(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some()
            && id(&self.path).ok() == self.id
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("removing the socket {}: {error}", self.path.display());
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Connects without waiting: where the listener's backlog is full, that is `WouldBlock`.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address and its length.
    let result = unsafe { libc::connect(fd, (&raw const address).cast(), len) };
    match result {
        0 => Ok(UnixStream::from(socket)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes to a socket, without SIGPIPE.
///
/// # Safety
///
/// The pieces must be memory that stays mapped and may be read. Others may change it meanwhile.
pub unsafe fn send(socket: &impl AsFd, pieces: &[libc::iovec]) -> io::Result<usize> {
    let message = message(pieces);
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `message` has only `pieces`, good by this function's own condition.
    let done = unsafe { libc::sendmsg(fd, &message, flags) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Reads from a socket; 0 at the end of the stream.
///
/// # Safety
///
/// The pieces must be memory that stays mapped, may be written, and has no Rust reference to it.
pub unsafe fn receive(socket: &impl AsFd, pieces: &[libc::iovec]) -> io::Result<usize> {
    let mut message = message(pieces);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: as above. Descriptors that a program sends along are dropped by the kernel, as there is
    // no room for them.
    let done = unsafe { libc::recvmsg(fd, &mut message, libc::MSG_DONTWAIT) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

fn message(pieces: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: numbers and pointers, for which zeros are good.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len() as _;
    message
}

/// What a program that has connected has said so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It wants the guest's port.
    Connect(u32),
    /// Not a whole line yet.
    Partial,
    /// Something else, or nothing: it's to be closed.
    Wrong,
}

/// Reads the line that a program begins with, and nothing of what comes behind it.
pub fn read_greeting(socket: &UnixStream) -> Greeting {
    let mut line = [0; LINE_LEN];
    let there = match peek(socket, &mut line, libc::MSG_PEEK) {
        Ok(0) => return Greeting::Wrong,
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Greeting::Partial,
        Err(_) => return Greeting::Wrong,
    };
    let Some(end) = line[..there].iter().position(|byte| *byte == b'\n') else {
        return match there < LINE_LEN {
            true => Greeting::Partial,
            false => Greeting::Wrong,
        };
    };
    match (peek(socket, &mut line[..=end], 0), parse(&line[..end])) {
        (Ok(count), Some(port)) if count == end + 1 => Greeting::Connect(port),
        _ => Greeting::Wrong,
    }
}

/// `CONNECT port`, as Firecracker takes it: in capitals or not.
fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let connect = words.next()?.eq_ignore_ascii_case("connect");
    let port = words.next()?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    (connect && digits && words.next().is_none())
        .then(|| port.parse().ok())
        .flatten()
}

fn peek(socket: &UnixStream, bytes: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    let pointer = bytes.as_mut_ptr().cast();
    // SAFETY: the bytes and their number.
    let done = unsafe { libc::recv(socket.as_raw_fd(), pointer, bytes.len(), flags) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_greeting_takes_its_own_line_only() {
        for (text, expected, rest) in [
            ("CONNECT 52\n", Greeting::Connect(52), ""),
            (
                "connect 4294967295\r\nhello\n",
                Greeting::Connect(u32::MAX),
                "hello\n",
            ),
            ("CONNECT 52", Greeting::Partial, "CONNECT 52"),
            ("CONNECT 4294967296\n", Greeting::Wrong, ""),
            ("CONNECT -1\n", Greeting::Wrong, ""),
            ("CONNECT +1\n", Greeting::Wrong, ""),
            ("CONNECT\n", Greeting::Wrong, ""),
            ("CONNECT 1 2\n", Greeting::Wrong, ""),
            ("GET / HTTP/1.1\r\n", Greeting::Wrong, ""),
            ("\n", Greeting::Wrong, ""),
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            assert_eq!(read_greeting(&theirs), expected, "{text:?}");
            drop(ours);
            let mut left = String::new();
            let mut theirs = theirs;
            theirs.read_to_string(&mut left).unwrap();
            assert_eq!(left, rest, "{text:?}");
        }
    }

    #[test]
    fn a_line_that_never_ends_and_silence_are_refused() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(read_greeting(&theirs), Greeting::Partial);
        ours.write_all(&[b' '; LINE_LEN]).unwrap();
        assert_eq!(read_greeting(&theirs), Greeting::Wrong);
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert_eq!(read_greeting(&theirs), Greeting::Wrong);
    }

    #[test]
    fn a_socket_replaces_a_stale_one_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        // A listener that goes without removing its file, as after SIGKILL.
        crate::devices::virtio::testing::leave_socket(&path);
        let first = SocketFile::bind(&path).unwrap();
        let error = SocketFile::bind(&path).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::bind(&path).unwrap_err().to_string();
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        // What someone else has put there meanwhile stays.
        let socket = SocketFile::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn a_socket_that_was_handed_over_is_listened_at_and_left_there() {
        use std::os::fd::IntoRawFd;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let handed = PathBuf::from(format!("fd={}", listener.into_raw_fd()));
        let socket = SocketFile::bind(&handed).unwrap();
        let _program = connect(&path).unwrap();
        assert!(socket.accept().is_ok());
        let none = socket.connect_port(1).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::ConnectionRefused);
        drop(socket);
        assert!(path.exists());
        let error = SocketFile::bind(Path::new("fd=1000000")).unwrap_err();
        assert!(error.to_string().starts_with("--vsock socket=fd=1000000: "));
    }
}
