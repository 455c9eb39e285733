//! A device's IPv6: addresses and the default route, where the guest's kernel has it.

use std::fs;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use mote_agent_protocol::setup::Link;

use super::{request, unless_there};
use crate::error::{Error, Result};
use crate::sys;

/// The kernel's `in6_rtmsg`, of which the crate libc keeps the members to itself.
#[derive(Default)]
#[repr(C)]
struct RouteMessage {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    destination_length: u16,
    source_length: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

/// Has the device use its addresses at once, not after a second of asking whether others have them: whoever
/// gave them has seen to that. Where /proc isn't, the guest waits.
pub fn trust(name: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
}

/// Gives a device that is up what is asked for in IPv6.
pub fn set_up(link: &Link) -> Result<()> {
    if link.addresses6.is_empty() && link.gateway6.is_none() {
        return Ok(());
    }
    let socket = match sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(()),
        Err(error) => return Err(Error::of("an IPv6 socket")(error)),
    };
    let index = index(&socket, &link.name)?;
    for (address, prefix) in &link.addresses6 {
        add_address(&socket, index, *address, *prefix).map_err(Error::of(format_args!(
            "network {}: {}/{prefix}",
            link.name,
            Ipv6Addr::from(*address)
        )))?;
    }
    if let Some(gateway) = link.gateway6 {
        add_default(&socket, index, gateway).map_err(Error::of(format_args!(
            "network {}: route by {}",
            link.name,
            Ipv6Addr::from(gateway)
        )))?;
    }
    Ok(())
}

fn index(socket: &OwnedFd, name: &str) -> Result<libc::c_int> {
    let mut request = request(name)?;
    // SAFETY: it takes an ifreq, whose second member is the index then.
    unsafe {
        sys::ioctl(socket, libc::SIOCGIFINDEX, &mut request)
            .map_err(Error::of(format_args!("network {name}: index")))?;
        Ok(request.ifr_ifru.ifru_ifindex)
    }
}

fn add_address(
    socket: &OwnedFd,
    index: libc::c_int,
    address: [u8; 16],
    prefix: u8,
) -> std::io::Result<()> {
    let mut request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: address },
        ifr6_prefixlen: prefix.into(),
        ifr6_ifindex: index,
    };
    // SAFETY: of an IPv6 socket it takes an in6_ifreq.
    unless_there(unsafe { sys::ioctl(socket, libc::SIOCSIFADDR, &mut request) })
}

fn add_default(socket: &OwnedFd, index: libc::c_int, gateway: [u8; 16]) -> std::io::Result<()> {
    let mut request = RouteMessage {
        gateway,
        flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
        metric: 1024, // as that of other programs' routes
        index,
        ..RouteMessage::default()
    };
    // SAFETY: of an IPv6 socket it takes an in6_rtmsg.
    unless_there(unsafe { sys::ioctl(socket, libc::SIOCADDRT, &mut request) })
}
