//! Network devices of the guest: up, addresses, routes, by the oldest ioctls that do it (netdevice(7)).

use std::io;
use std::os::fd::OwnedFd;

use mote_agent_protocol::setup::{Link, Route};

use crate::error::{Error, Result};
use crate::paths::Root;
use crate::{dhcp, sys};

mod v6;

/// What a device gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub address: [u8; 4],
    pub prefix: u8,
    pub gateway: Option<[u8; 4]>,
    pub servers: Vec<[u8; 4]>,
    pub domain: Option<String>,
    pub mtu: Option<u32>,
}

fn socket() -> Result<OwnedFd> {
    sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(Error::of("a network socket"))
}

fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        let message = format!("network {name}: the name is too long");
        return Err(Error::new(message, libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn internet(address: [u8; 4]) -> libc::sockaddr {
    let inner = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes, of numbers only.
    unsafe { std::mem::transmute(inner) }
}

/// Has the device send and receive.
pub fn up(name: &str) -> Result<()> {
    let socket = socket()?;
    let mut request = request(name)?;
    let failed = |what| move |error| Error::of(format_args!("network {name}: {what}"))(error);
    // SAFETY: both take an ifreq, of which the second member is the flags.
    unsafe {
        sys::ioctl(&socket, libc::SIOCGIFFLAGS, &mut request).map_err(failed("flags"))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        sys::ioctl(&socket, libc::SIOCSIFFLAGS, &mut request).map_err(failed("up"))?;
    }
    Ok(())
}

/// Sets a device up as it is asked for.
pub fn set_up(link: &Link) -> Result<()> {
    if let Some(mtu) = link.mtu {
        set_mtu(&link.name, mtu)?;
    }
    if let Some(mac) = link.mac {
        set_mac(&link.name, mac)?;
    }
    if !link.addresses6.is_empty() {
        v6::trust(&link.name);
    }
    up(&link.name)?;
    for (index, (address, prefix)) in link.addresses.iter().enumerate() {
        // Further addresses have names of their own in this old way.
        let label = match index {
            0 => link.name.clone(),
            more => format!("{}:{more}", link.name),
        };
        set_address(&label, *address, *prefix)?;
    }
    // A gateway can be one that only another route leads to, as 169.254.1.1 is with Calico.
    let (direct, others): (Vec<_>, Vec<_>) = link
        .routes
        .iter()
        .partition(|route| route.gateway.is_none());
    for route in direct.into_iter().chain(others) {
        add_route(Some(&link.name), route)?;
    }
    if let Some(gateway) = link.gateway {
        add_default(gateway)?;
    }
    v6::set_up(link)?;
    if link.dhcp {
        let lease = dhcp::ask(&link.name)?;
        set_address(&link.name, lease.address, lease.prefix)?;
        if let Some(mtu) = lease.mtu.filter(|_| link.mtu.is_none()) {
            set_mtu(&link.name, mtu)?;
        }
        if let Some(gateway) = lease.gateway {
            add_default(gateway)?;
        }
        if let Some((root, path)) = &link.resolv {
            Root::open(root)?.write(path, resolv(&lease).as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

fn resolv(lease: &Lease) -> String {
    let mut text = String::new();
    if let Some(domain) = &lease.domain {
        text = format!("search {domain}\n");
    }
    for [a, b, c, d] in &lease.servers {
        text += &format!("nameserver {a}.{b}.{c}.{d}\n");
    }
    text
}

fn set_mtu(name: &str, mtu: u32) -> Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = mtu.try_into().unwrap_or(i32::MAX);
    // SAFETY: it takes an ifreq.
    unsafe { sys::ioctl(&socket()?, libc::SIOCSIFMTU, &mut request) }
        .map_err(Error::of(format_args!("network {name}: mtu {mtu}")))?;
    Ok(())
}

/// Sets the hardware's address, which the device has to be down for.
fn set_mac(name: &str, mac: [u8; 6]) -> Result<()> {
    let mut request = request(name)?;
    let mut address = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: it takes an ifreq.
    unsafe { sys::ioctl(&socket()?, libc::SIOCSIFHWADDR, &mut request) }
        .map_err(Error::of(format_args!("network {name}: MAC {mac:02x?}")))?;
    Ok(())
}

fn set_address(name: &str, address: [u8; 4], prefix: u8) -> Result<()> {
    let socket = socket()?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_addr = internet(address);
    let [a, b, c, d] = address;
    let what = format!("network {name}: {a}.{b}.{c}.{d}/{prefix}");
    // SAFETY: both take an ifreq.
    unsafe {
        sys::ioctl(&socket, libc::SIOCSIFADDR, &mut request).map_err(Error::of(&what))?;
        request.ifr_ifru.ifru_netmask = internet(mask(prefix));
        sys::ioctl(&socket, libc::SIOCSIFNETMASK, &mut request).map_err(Error::of(&what))?;
    }
    Ok(())
}

fn mask(prefix: u8) -> [u8; 4] {
    let bits = u32::from(prefix.min(32));
    u32::MAX.checked_shl(32 - bits).unwrap_or(0).to_be_bytes()
}

fn add_default(gateway: [u8; 4]) -> Result<()> {
    let route = Route {
        gateway: Some(gateway),
        ..Route::default()
    };
    add_route(None, &route)
}

/// Adds a route, by `device` or the one that the gateway's own route names.
fn add_route(device: Option<&str>, route: &Route) -> Result<()> {
    let [a, b, c, d] = route.destination;
    let mut what = format!("route to {a}.{b}.{c}.{d}/{}", route.prefix);
    // SAFETY: numbers and a pointer to a name, which may be none.
    let mut request: libc::rtentry = unsafe { std::mem::zeroed() };
    request.rt_dst = internet(route.destination);
    request.rt_genmask = internet(mask(route.prefix));
    request.rt_flags = libc::RTF_UP;
    if let Some(gateway) = route.gateway {
        let [a, b, c, d] = gateway;
        what += &format!(" by {a}.{b}.{c}.{d}");
        request.rt_gateway = internet(gateway);
        request.rt_flags |= libc::RTF_GATEWAY;
    }
    let device = device.map(sys::c);
    if let Some(device) = &device {
        request.rt_dev = device.as_ptr().cast_mut();
    }
    // SAFETY: it takes an rtentry, and only reads the name, which lives through the call.
    let added = unsafe { sys::ioctl(&socket()?, libc::SIOCADDRT, &mut request) };
    unless_there(added).map_err(Error::of(what))
}

/// What is there already is as good as added.
fn unless_there(added: io::Result<libc::c_int>) -> io::Result<()> {
    match added {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        added => added.map(drop),
    }
}

#[cfg(test)]
mod tests;
