//! From `tap=NAME` or `fd=N` to open queues of a tap, or a message that says what to do.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;

use super::tap::{Tap, offload};
use crate::config::Net;

const TUN: &str = "/dev/net/tun";

/// Why a network device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host has no taps.
    #[error(
        "--net tap={name}: {TUN} is missing: load its module (modprobe tun), or give the container \
         that device"
    )]
    NoTun {
        /// The tap.
        name: String,
    },
    /// It can't be opened.
    #[error("--net tap={name}: opening {TUN}: {source}")]
    Open {
        /// The tap.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The user may not use it.
    #[error(
        "--net tap={name}: not permitted: making a tap, or using another user's, takes \
         CAP_NET_ADMIN. One of your own does without; as root: \
         ip tuntap add {name} mode tap user $USER{multi_queue}"
    )]
    NotPermitted {
        /// The tap.
        name: String,
        /// What such a tap needs besides.
        multi_queue: &'static str,
    },
    /// Another process has it.
    #[error(
        "--net tap={name}: it is in use by another process; end that, or give each VM a tap of its \
         own"
    )]
    Busy {
        /// The tap.
        name: String,
    },
    /// It's something else, or made otherwise.
    #[error(
        "--net tap={name}: there is an interface of that name which can't be used so: it is no tap, \
         or queues={queues} doesn't fit it. A tap for this: \
         ip tuntap add {name} mode tap{multi_queue}"
    )]
    NoFit {
        /// The tap.
        name: String,
        /// The queues asked for.
        queues: u16,
        /// What such a tap needs besides.
        multi_queue: &'static str,
    },
    /// No such descriptor.
    #[error(
        "--net fd={fd}: no such descriptor is open; the program that starts mote must leave it open \
         (no close-on-exec)"
    )]
    NoDescriptor {
        /// The number.
        fd: RawFd,
    },
    /// It's not a tap.
    #[error("--net fd={fd}: the descriptor is not an attached tap (IFF_TAP) or macvtap")]
    NotATap {
        /// The number.
        fd: RawFd,
    },
    /// The host has no vhost-net.
    #[error(
        "--net {net},vhost: /dev/vhost-net is missing: load its module (modprobe vhost_net), or leave \
         out vhost: then mote moves the packets itself"
    )]
    NoVhost {
        /// The device, as it was given.
        net: String,
    },
    /// vhost-net can't be opened.
    #[error(
        "--net {net},vhost: opening /dev/vhost-net: {source}; have an administrator give you access \
         to it, or leave out vhost: then mote moves the packets itself"
    )]
    VhostOpen {
        /// The device, as it was given.
        net: String,
        /// Why.
        source: io::Error,
    },
    /// The MTU can't be set.
    #[error(
        "--net mtu={mtu}: the interface {name} has an MTU of {now}, and setting it failed: {source}; \
         as root: ip link set {name} mtu {mtu}"
    )]
    Mtu {
        /// The interface.
        name: String,
        /// What was asked for.
        mtu: u16,
        /// What it is.
        now: u16,
        /// Why.
        source: io::Error,
    },
    /// The host's kernel refused something.
    #[error("--net {net}: {what}: {source}")]
    Refused {
        /// The device, as it was given.
        net: String,
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A rate that can't be.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
}

impl NetError {
    /// Whether the host lacks something, and the options are right.
    pub fn is_of_host(&self) -> bool {
        matches!(
            self,
            NetError::NoTun { .. }
                | NetError::Open { .. }
                | NetError::NoVhost { .. }
                | NetError::VhostOpen { .. }
                | NetError::Refused { .. }
        )
    }
}

/// The queues of a tap, and what is known of it.
#[derive(Debug)]
pub struct Opened {
    /// One for each queue pair, all attached.
    pub taps: Vec<Tap>,
    /// Its MTU, where that can be found out.
    pub mtu: Option<u16>,
    /// The offloads that the kernel knows ([`offload`]).
    pub offloads: u32,
}

/// Opens `queues` queues of the tap `name`. If there is none, it's made, brought up, and vanishes
/// with the last descriptor of it.
///
/// # Errors
///
/// See [`NetError`].
pub fn by_name(name: &str, queues: u16, mtu: Option<u16>) -> Result<Opened, NetError> {
    let socket = UnixDatagram::unbound().map_err(|source| refused(name, "a socket", source))?;
    let there = has_interface(name);
    let mut files = Vec::with_capacity(queues.into());
    // A tap that was made with multi_queue must be opened so, also for one queue.
    let mut multi = queues > 1;
    while files.len() < usize::from(queues) {
        let file = open_tun(name)?;
        match attach(&file, name, multi) {
            Ok(()) => files.push(file),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && there && !multi => multi = true,
            Err(e) => return Err(not_attached(e, name, queues)),
        }
    }
    let taps: Vec<_> = files.into_iter().map(|file| Tap::new(file, true)).collect();
    let mtu = set_mtu(&socket, name, mtu)?;
    if !there {
        bring_up(&socket, name).map_err(|source| refused(name, "bringing it up", source))?;
    } else if !is_up(&socket, name).unwrap_or(true) {
        log::warn!("{name} is down, so nothing passes: ip link set {name} up");
    }
    finish(taps, Some(mtu)).map_err(|(what, source)| refused(name, what, source))
}

/// Takes over a tap (or macvtap) whose queues are open as descriptors from `fd` on, which themselves
/// stay open.
///
/// # Errors
///
/// See [`NetError`].
pub fn by_descriptor(fd: RawFd, queues: u16) -> Result<Opened, NetError> {
    let fds = fd..fd.saturating_add(queues.into());
    let taps = fds.map(take_over).collect::<Result<_, _>>()?;
    finish(taps, None).map_err(|(what, source)| not_taken(fd, what, source))
}

/// Opens the tap of `net`, for another process to use it by the descriptors: those of its queues, and
/// the MTU that it has.
///
/// # Errors
///
/// See [`NetError`].
pub fn beforehand(name: &str, net: &Net) -> Result<(Vec<OwnedFd>, Option<u16>), NetError> {
    let opened = by_name(name, net.queues, net.mtu)?;
    let fds = opened.taps.into_iter().map(Tap::into_fd).collect();
    Ok((fds, opened.mtu))
}

fn not_taken(fd: RawFd, what: &'static str, source: io::Error) -> NetError {
    NetError::Refused {
        net: format!("fd={fd}"),
        what,
        source,
    }
}

fn take_over(fd: RawFd) -> Result<Tap, NetError> {
    // SAFETY: takes no pointer; any number will do.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(NetError::NoDescriptor { fd });
    }
    // SAFETY: a descriptor that was just made.
    let file = unsafe { File::from_raw_fd(copy) };
    let mut request = interface_request("");
    // SAFETY: an ifreq, which outlives the call.
    if unsafe { libc::ioctl(copy, libc::TUNGETIFF, &raw mut request) } < 0 {
        return Err(NetError::NotATap { fd });
    }
    // SAFETY: TUNGETIFF has set the flags, and any bits are a number.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & libc::IFF_TAP == 0 {
        return Err(NetError::NotATap { fd });
    }
    // SAFETY: takes no pointer.
    let set = unsafe {
        let flags = libc::fcntl(copy, libc::F_GETFL);
        libc::fcntl(copy, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if set < 0 {
        let source = io::Error::last_os_error();
        return Err(not_taken(fd, "making it non-blocking", source));
    }
    Ok(Tap::new(file, flags & libc::IFF_VNET_HDR != 0))
}

/// Sets the header's length and finds out what the kernel can do.
fn finish(taps: Vec<Tap>, mtu: Option<u16>) -> Result<Opened, (&'static str, io::Error)> {
    let mut offloads = 0;
    if let Some(tap) = taps.first().filter(|tap| tap.has_header()) {
        tap.set_header_length()
            .map_err(|e| ("setting its header's length", e))?;
        let base = offload::CSUM | offload::TSO4 | offload::TSO6 | offload::ECN;
        for more in [base, offload::UFO, offload::USO] {
            // A kernel that doesn't know a bit refuses it (TUN_F_USO: before 6.2).
            if tap.set_offload(offloads | more).is_ok() {
                offloads |= more;
            }
        }
        tap.set_offload(0)
            .map_err(|e| ("setting its offloads", e))?;
    }
    Ok(Opened {
        taps,
        mtu,
        offloads,
    })
}

fn open_tun(name: &str) -> Result<File, NetError> {
    let name = name.to_owned();
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => NetError::NoTun { name },
            _ => NetError::Open { name, source },
        })
}

fn attach(file: &File, name: &str, multi: bool) -> io::Result<()> {
    let multi = if multi { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: an ifreq, which outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn not_attached(error: io::Error, name: &str, queues: u16) -> NetError {
    let name = name.to_owned();
    let multi_queue = if queues > 1 { " multi_queue" } else { "" };
    match error.raw_os_error() {
        Some(libc::EPERM) => NetError::NotPermitted { name, multi_queue },
        Some(libc::EBUSY) => NetError::Busy { name },
        Some(libc::EINVAL | libc::E2BIG) => NetError::NoFit {
            name,
            queues,
            multi_queue,
        },
        _ => refused(&name, "attaching to it", error),
    }
}

fn refused(name: &str, what: &'static str, source: io::Error) -> NetError {
    let net = format!("tap={name}");
    NetError::Refused { net, what, source }
}

fn has_interface(name: &str) -> bool {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: a string with its NUL.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// The MTU that it has in the end.
fn set_mtu(socket: &UnixDatagram, name: &str, wanted: Option<u16>) -> Result<u16, NetError> {
    let mut request = interface_request(name);
    interface_ioctl(socket, libc::SIOCGIFMTU, &mut request)
        .map_err(|source| refused(name, "asking for its MTU", source))?;
    // SAFETY: SIOCGIFMTU has set it.
    let now = unsafe { request.ifr_ifru.ifru_mtu } as u16;
    let Some(mtu) = wanted.filter(|mtu| *mtu != now) else {
        return Ok(now);
    };
    request.ifr_ifru.ifru_mtu = mtu.into();
    match interface_ioctl(socket, libc::SIOCSIFMTU, &mut request) {
        Ok(()) => Ok(mtu),
        Err(source) => Err(NetError::Mtu {
            name: name.to_owned(),
            mtu,
            now,
            source,
        }),
    }
}

fn flags(socket: &UnixDatagram, name: &str) -> io::Result<libc::ifreq> {
    let mut request = interface_request(name);
    interface_ioctl(socket, libc::SIOCGIFFLAGS, &mut request)?;
    Ok(request)
}

fn is_up(socket: &UnixDatagram, name: &str) -> io::Result<bool> {
    let request = flags(socket, name)?;
    // SAFETY: SIOCGIFFLAGS has set them.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

fn bring_up(socket: &UnixDatagram, name: &str) -> io::Result<()> {
    let mut request = flags(socket, name)?;
    // SAFETY: SIOCGIFFLAGS has set them.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    interface_ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    let places = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (place, byte) in places.zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}

fn interface_ioctl(
    socket: &UnixDatagram,
    operation: libc::c_ulong,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: the operations above take an ifreq, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), operation as libc::Ioctl, request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
