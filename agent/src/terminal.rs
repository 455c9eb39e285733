//! A pseudo-terminal of a container, made in it, and its other end handed out to the agent.

use std::fs::OpenOptions;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use mote_agent_protocol::container::Window;

use crate::error::{Error, Result};
use crate::sys;

/// The two ends: that of who reads what is shown, and the terminal.
pub fn open() -> Result<(OwnedFd, OwnedFd)> {
    let open = |path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC);
        options.open(path)
    };
    let host = open("/dev/pts/ptmx").or_else(|_| open("/dev/ptmx"));
    let host = OwnedFd::from(host.map_err(Error::of("/dev/pts/ptmx"))?);
    // SAFETY: it takes an int.
    unsafe { sys::ioctl(&host, libc::TIOCSPTLCK, &mut 0i32) }
        .map_err(Error::of("unlocking a terminal"))?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: it takes flags, and gives a new descriptor.
    let terminal = unsafe {
        match libc::ioctl(host.as_raw_fd(), libc::TIOCGPTPEER as _, flags) {
            -1 => return Err(Error::last("opening a terminal")),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    Ok((host, terminal))
}

/// Makes it the terminal of this session, whose leader this process is.
pub fn control(terminal: &OwnedFd) -> Result<()> {
    // SAFETY: it takes a number.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } {
        -1 => Err(Error::last("taking the terminal")),
        _ => Ok(()),
    }
}

pub fn resize(terminal: &OwnedFd, window: Window) -> Result<()> {
    let mut size = libc::winsize {
        ws_row: window.rows,
        ws_col: window.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: it takes a winsize.
    unsafe { sys::ioctl(terminal, libc::TIOCSWINSZ, &mut size) }
        .map_err(Error::of("the terminal's size"))?;
    Ok(())
}

/// Room for one descriptor in a message, aligned as its header is.
#[repr(C, align(8))]
struct Room([u8; 64]);

/// Sends a byte, with a descriptor along if there is one.
pub fn send(socket: &impl AsRawFd, byte: u8, fd: Option<&OwnedFd>) -> io::Result<()> {
    let mut byte = [byte];
    let mut piece = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut room = Room([0; 64]);
    // SAFETY: numbers and pointers, for which zeros are good; the pieces live through the call, and the room
    // is enough for a header and an int.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        if let Some(fd) = fd {
            message.msg_control = room.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<i32>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<i32>() as u32) as _;
            libc::CMSG_DATA(header)
                .cast::<i32>()
                .write_unaligned(fd.as_raw_fd());
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    match sent {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next byte, if there is one, and the descriptor that came along.
pub fn receive(socket: &impl AsRawFd) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    let mut byte = [0];
    let mut piece = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut room = Room([0; 64]);
    // SAFETY: as above; a descriptor that came is new.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = room.0.as_mut_ptr().cast();
        message.msg_controllen = room.0.len() as _;
        match libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) {
            0 => return Ok(None),
            1 => {}
            _ => return Err(io::Error::last_os_error()),
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let fd = (!header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS).then(|| {
            let fd = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
            OwnedFd::from_raw_fd(fd)
        });
        Ok(Some((byte[0], fd)))
    }
}
