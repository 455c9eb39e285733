//! Packets from one device straight to another: what comes in here goes out there, by filters of traffic
//! control (tc-mirred(8)), and the host's own network stack sees none of it.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::device::{self, Device};
use super::netlink::Netlink;
use super::{Error, Result};

/// By this number the filter is known as ours. Others' filters with lower ones see the packets first.
const PRIORITY: u16 = 28020;

/// The number of the qdisc that holds the filters of what comes in.
const QDISC: u16 = 0xffff;

/// Has all that comes in by `from` go out by `to`. Does nothing where it is so already.
pub fn set(netlink: &Netlink, from: &Device, to: &Device) -> Result<()> {
    let failed = |what| Error::of(&from.name, what);
    let order = RouteNetlinkMessage::NewQueueDiscipline(qdisc(from));
    match netlink.order(order, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        made => made.map_err(failed("adding the ingress qdisc"))?,
    }
    match ours(netlink, from)? {
        Some(target) if target == to.index => return Ok(()),
        Some(_) => remove_filter(netlink, from)?,
        None => {}
    }
    let order = RouteNetlinkMessage::NewTrafficFilter(filter(from, to));
    netlink
        .order(order, NLM_F_CREATE | NLM_F_EXCL)
        .map_err(failed(
            "adding the filter that redirects packets (tc's u32 and mirred)",
        ))
}

/// Ends what [`set`] began on any device of the namespace.
pub fn remove(netlink: &Netlink) -> Result<()> {
    for device in device::all(netlink)? {
        if ours(netlink, &device)?.is_none() {
            continue;
        }
        remove_filter(netlink, &device)?;
        if filters(netlink, &device)?.is_empty() {
            let order = RouteNetlinkMessage::DelQueueDiscipline(qdisc(&device));
            match netlink.order(order, 0) {
                // It is of another kind (clsact), so it wasn't made here.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                removed => unless_gone(removed)
                    .map_err(Error::of(&device.name, "removing the ingress qdisc"))?,
            }
        }
    }
    Ok(())
}

fn remove_filter(netlink: &Netlink, device: &Device) -> Result<()> {
    let mut message = at(device);
    message.header.info = info();
    unless_gone(netlink.order(RouteNetlinkMessage::DelTrafficFilter(message), 0))
        .map_err(Error::of(&device.name, "removing the redirecting filter"))
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        done => done,
    }
}

/// The filters on what comes in by a device.
fn filters(netlink: &Netlink, device: &Device) -> Result<Vec<TcMessage>> {
    let answers = match netlink.list(RouteNetlinkMessage::GetTrafficFilter(at(device))) {
        // There's no qdisc that could hold them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
        answers => answers.map_err(Error::of(&device.name, "reading filters"))?,
    };
    let filters = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
        _ => None,
    });
    Ok(filters.collect())
}

/// Where our filter on the device leads, if it is there; 0 if that device has gone.
fn ours(netlink: &Netlink, device: &Device) -> Result<Option<u32>> {
    let mut found = None;
    for filter in filters(netlink, device)? {
        if filter.header.info >> 16 == u32::from(PRIORITY) {
            // A filter comes with its tables, which lead nowhere.
            let target = filter.attributes.iter().find_map(target);
            found = found.max(Some(target.unwrap_or(0)));
        }
    }
    Ok(found)
}

fn target(attribute: &TcAttribute) -> Option<u32> {
    let TcAttribute::Options(options) = attribute else {
        return None;
    };
    let actions = options.iter().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let options = actions
        .flatten()
        .flat_map(|action| &action.attributes)
        .filter_map(|attribute| match attribute {
            TcActionAttribute::Options(options) => Some(options),
            _ => None,
        });
    options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
        _ => None,
    })
}

fn info() -> u32 {
    let all_protocols = (libc::ETH_P_ALL as u16).to_be();
    u32::from(PRIORITY) << 16 | u32::from(all_protocols)
}

/// A message about the filters on what comes in by the device.
fn at(device: &Device) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = device.index.cast_signed();
    message.header.parent = TcHandle {
        major: QDISC,
        minor: TcHandle::MIN_INGRESS,
    };
    message
}

fn qdisc(device: &Device) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = device.index.cast_signed();
    message.header.parent = TcHandle::INGRESS;
    message.header.handle.major = QDISC;
    message.attributes = vec![TcAttribute::Kind("ingress".into())];
    message
}

fn filter(from: &Device, to: &Device) -> TcMessage {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to.index;
    let mut redirect = TcAction::default();
    redirect.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    // All packets: one key, of which no bit counts.
    let mut all = TcU32Selector::default();
    all.flags = TcU32SelectorFlags::Terminal;
    all.nkeys = 1;
    all.keys = vec![TcU32Key::default()];
    let mut message = at(from);
    message.header.info = info();
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(all)),
            TcOption::U32(TcFilterU32Option::Action(vec![redirect])),
        ]),
    ];
    message
}
