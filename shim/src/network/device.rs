//! The devices of a namespace, and which one CNI plugins have made for the pod.

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

use super::netlink::Netlink;
use super::{Error, Result, tap};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// One device.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub index: u32,
    pub mac: Option<[u8; 6]>,
    pub mtu: Option<u32>,
    /// Whether it's a tap, or a tun.
    pub is_tap: bool,
    pub is_up: bool,
    /// Whether it takes Ethernet's packets, which the loopback doesn't.
    is_ethernet: bool,
}

impl Device {
    fn new(message: LinkMessage) -> Self {
        let header = message.header;
        let mut device = Self {
            name: String::new(),
            index: header.index,
            mac: None,
            mtu: None,
            is_tap: false,
            is_up: header.flags.contains(LinkFlags::Up),
            is_ethernet: header.link_layer_type == LinkLayerType::Ether,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Address(mac) => device.mac = mac.try_into().ok(),
                LinkAttribute::Mtu(mtu) => device.mtu = Some(mtu),
                LinkAttribute::LinkInfo(infos) => {
                    device.is_tap = infos.contains(&LinkInfo::Kind(InfoKind::Tun));
                }
                _ => {}
            }
        }
        device
    }
}

/// All devices.
pub fn all(netlink: &Netlink) -> Result<Vec<Device>> {
    let answers = netlink
        .list(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .map_err(Error::reading("devices"))?;
    let devices = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Device::new(message)),
        _ => None,
    });
    Ok(devices.collect())
}

/// The one of this name.
pub fn find(netlink: &Netlink, name: &str) -> Result<Option<Device>> {
    Ok(all(netlink)?.into_iter().find(|device| device.name == name))
}

/// An address of a device, with the length of its prefix.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    device: u32,
    pub address: IpAddr,
    pub prefix: u8,
}

/// The device that is the pod's, with its addresses: eth0, or the first that has any.
pub fn pods(netlink: &Netlink) -> Result<Option<(Device, Vec<Address>)>> {
    let addresses = addresses(netlink)?;
    let mut devices = all(netlink)?;
    devices.retain(|device| {
        let has_address = addresses.iter().any(|one| one.device == device.index);
        device.is_up && device.is_ethernet && has_address && device.name != tap::NAME
    });
    devices.sort_by_key(|device| (device.name != "eth0", device.index));
    Ok(devices.into_iter().next().map(|device| {
        let own = addresses.into_iter();
        let own = own.filter(|one| one.device == device.index).collect();
        (device, own)
    }))
}

/// All addresses but those that hold on one link only: a guest makes those by itself.
fn addresses(netlink: &Netlink) -> Result<Vec<Address>> {
    let answers = netlink
        .list(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
        .map_err(Error::reading("addresses"))?;
    let mut addresses = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        let is_link_local = message.header.scope == AddressScope::Link
            && message.header.family == AddressFamily::Inet6;
        if is_link_local || message.header.scope == AddressScope::Host {
            continue;
        }
        // Where both are told, the other one is that of the link's other end.
        let mut address = None;
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(local) => address = Some(local),
                AddressAttribute::Address(it) if address.is_none() => address = Some(it),
                _ => {}
            }
        }
        addresses.extend(address.map(|address| Address {
            device: message.header.index,
            address,
            prefix: message.header.prefix_len,
        }));
    }
    Ok(addresses)
}
