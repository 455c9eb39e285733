//! The tap that a VM's network device is on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::device::{self, Device};
use super::netlink::Netlink;
use super::{Error, Result};

/// Its name. There's one VM in a namespace, and CNI plugins name no device so.
pub const NAME: &str = "mote0";

const TUN: &str = "/dev/net/tun";

/// Makes the tap unless it is there, and has it up.
pub fn make(netlink: &Netlink) -> Result<Device> {
    if device::find(netlink, NAME)?.is_none() {
        create().map_err(Error::of(NAME, "making it a tap by /dev/net/tun"))?;
        // The host's own IPv6 would say hello to the guest there. Where there's none, or no right to
        // change it, that harms nobody.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1");
    }
    let gone = || io::Error::from_raw_os_error(libc::ENODEV);
    let found = device::find(netlink, NAME)?;
    let tap = found.ok_or_else(|| Error::of(NAME, "finding the tap")(gone()))?;
    if !tap.is_tap {
        let other = io::Error::from_raw_os_error(libc::EEXIST);
        return Err(Error::of(
            NAME,
            "a tap of this name is needed, and it is something else",
        )(other));
    }
    if tap.is_up {
        return Ok(tap);
    }
    let mut up = of(&tap);
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    netlink
        .order(RouteNetlinkMessage::SetLink(up), 0)
        .map_err(Error::of(NAME, "up"))?;
    Ok(tap)
}

/// Gives the tap the largest packet that the other device takes.
pub fn set_mtu(netlink: &Netlink, tap: &Device, mtu: u32) -> Result<()> {
    let mut message = of(tap);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    netlink
        .order(RouteNetlinkMessage::SetLink(message), 0)
        .map_err(Error::of(NAME, "setting its MTU"))
}

/// Takes the tap away, with all that is on it.
pub fn remove(netlink: &Netlink) -> Result<()> {
    let Some(tap) = device::find(netlink, NAME)?.filter(|device| device.is_tap) else {
        return Ok(());
    };
    match netlink.order(RouteNetlinkMessage::DelLink(of(&tap)), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        removed => removed.map_err(Error::of(NAME, "removing the tap")),
    }
}

fn of(tap: &Device) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = tap.index;
    message
}

/// Makes a tap that outlives its descriptor, is root's, and has mote's headers before packets.
fn create() -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(TUN)?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    let request = (&raw mut request).addr() as libc::c_ulong;
    for (order, argument) in [
        (libc::TUNSETIFF, request),
        (libc::TUNSETOWNER, 0),
        (libc::TUNSETPERSIST, 1),
    ] {
        // SAFETY: the first takes an ifreq, which lives until the function's end, the others numbers.
        if unsafe { libc::ioctl(file.as_raw_fd(), order, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
