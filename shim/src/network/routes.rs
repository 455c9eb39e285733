//! The pod's device as what the guest's is to be: addresses and routes.

use std::net::{IpAddr, Ipv4Addr};

use mote_agent_protocol::setup::{Link, Route};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::device::{Address, Device};
use super::netlink::Netlink;
use super::{Error, Result};

/// A way that leads over the device.
#[derive(Debug)]
struct Way {
    destination: Option<IpAddr>,
    prefix: u8,
    gateway: Option<IpAddr>,
    /// The gateway counts as being on the link, whatever the addresses say.
    on_link: bool,
    is_ipv6: bool,
    metric: u32,
}

/// What the guest's device is to be, to stand for `device`.
pub fn link(netlink: &Netlink, device: &Device, addresses: &[Address]) -> Result<Link> {
    let mut link = Link {
        name: "eth0".into(),
        mac: device.mac,
        mtu: device.mtu,
        ..Link::default()
    };
    for address in addresses {
        match address.address {
            IpAddr::V4(it) => link.addresses.push((it.octets(), address.prefix)),
            IpAddr::V6(it) => link.addresses6.push((it.octets(), address.prefix)),
        }
    }
    let answers = netlink
        .list(RouteNetlinkMessage::GetRoute(RouteMessage::default()))
        .map_err(Error::reading("routes"))?;
    let mut ways: Vec<Way> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => way(device.index, message),
            _ => None,
        })
        .collect();
    // Of several ways to one place the guest gets the best.
    ways.sort_by_key(|way| way.metric);
    for way in &ways {
        add(&mut link, way);
    }
    Ok(link)
}

fn add(link: &mut Link, way: &Way) {
    if way.is_ipv6 {
        match way.gateway {
            Some(IpAddr::V6(gateway)) if way.prefix == 0 && link.gateway6.is_none() => {
                link.gateway6 = Some(gateway.octets());
            }
            _ => {}
        }
        return;
    }
    let gateway = match way.gateway {
        None => None,
        Some(IpAddr::V4(gateway)) => Some(gateway.octets()),
        Some(IpAddr::V6(gateway)) => {
            log::warn!("the pod's route by {gateway} is left out: the guest has no such routes");
            return;
        }
    };
    let destination = match way.destination {
        Some(IpAddr::V4(destination)) => destination,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let mut push = |route: Route| {
        let place = (route.destination, route.prefix);
        let mut others = link.routes.iter();
        if others.all(|other| (other.destination, other.prefix) != place) {
            link.routes.push(route);
        }
    };
    if let Some(gateway) = gateway.filter(|_| way.on_link) {
        push(Route {
            destination: gateway,
            prefix: 32,
            gateway: None,
        });
    }
    match gateway {
        Some(gateway) if way.prefix == 0 => link.gateway = link.gateway.or(Some(gateway)),
        gateway => push(Route {
            destination: destination.octets(),
            prefix: way.prefix,
            gateway,
        }),
    }
}

/// A route of the main table over the device, unless it is one that the kernel makes of addresses.
fn way(device: u32, message: RouteMessage) -> Option<Way> {
    let header = message.header;
    if header.kind != RouteType::Unicast
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.protocol == RouteProtocol::Kernel
    {
        return None;
    }
    let mut way = Way {
        destination: None,
        prefix: header.destination_prefix_length,
        gateway: None,
        on_link: header.flags.contains(RouteFlags::Onlink),
        is_ipv6: header.address_family == AddressFamily::Inet6,
        metric: 0,
    };
    let mut over = None;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => way.destination = address(&to),
            RouteAttribute::Gateway(by) => way.gateway = address(&by),
            RouteAttribute::Via(via) => way.gateway = by_other_family(&via),
            RouteAttribute::Oif(index) => over = Some(index),
            RouteAttribute::Priority(metric) => way.metric = metric,
            RouteAttribute::MultiPath(hops) => {
                // One of the ways at once is enough: the guest has one device.
                let hop = hops.into_iter().find(|hop| hop.interface_index == device)?;
                over = Some(device);
                way.on_link |= hop.flags.contains(RouteNextHopFlags::Onlink);
                for attribute in hop.attributes {
                    match attribute {
                        RouteAttribute::Gateway(by) => way.gateway = address(&by),
                        RouteAttribute::Via(via) => way.gateway = by_other_family(&via),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (over == Some(device)).then_some(way)
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The gateway of a route whose destination is of the other family.
fn by_other_family(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some(IpAddr::V4(*address)),
        RouteVia::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
