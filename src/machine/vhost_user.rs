//! Makes the devices that other processes serve.

use std::path::Path;
use std::sync::Arc;

use super::devices::drive_name;
use super::ending::Endings;
use super::error::BuildError;
use crate::config::{Disk, Fs, Net, OnDisconnect};
use crate::devices::vhost_user::kind::{Blk, Fs as FsKind, Net as NetKind};
use crate::devices::vhost_user::passt::Passt;
use crate::devices::vhost_user::{OnLost, Place, VhostUserDevice};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::net::random_mac;

type Device = Box<dyn VirtioDevice>;

/// The drive of this index, if another process serves it.
pub fn drive(
    index: usize,
    disk: &Disk,
    endings: &Arc<Endings>,
) -> Result<Option<Device>, BuildError> {
    let Some(socket) = &disk.vhost_user else {
        return Ok(None);
    };
    let place = place("--disk vhost-user", socket, disk.server);
    let kind = Blk::new(disk.queues.0, disk.read_only);
    let device = VhostUserDevice::connect(&drive_name(index), kind, place)?;
    let on_lost = on_lost(disk.on_disconnect, endings);
    Ok(Some(Box::new(device.on_lost(on_lost))))
}

/// The network interface of this index, if another process serves it.
pub fn interface(
    index: usize,
    net: &Net,
    endings: &Arc<Endings>,
) -> Result<Option<Device>, BuildError> {
    let name = format!("net{index}");
    let mac = net.mac.map_or_else(random_mac, |mac| mac.0);
    let kind = NetKind::new(mac, net.mtu);
    let device = if let Some(socket) = &net.vhost_user {
        let place = place("--net vhost-user", socket, net.server);
        VhostUserDevice::connect(&name, kind, place)?
    } else if net.user {
        let passt = Passt::find(net.passt.as_deref(), net.mtu)?;
        VhostUserDevice::start(&name, kind, passt)?
    } else {
        return Ok(None);
    };
    let on_lost = on_lost(net.on_disconnect, endings);
    Ok(Some(Box::new(device.on_lost(on_lost))))
}

/// A shared folder.
pub fn folder(index: usize, fs: &Fs, endings: &Arc<Endings>) -> Result<Device, BuildError> {
    let place = place("--fs socket", &fs.socket, fs.server);
    let kind = FsKind::new(&fs.tag, fs.queues.unwrap_or(1));
    let device = VhostUserDevice::connect(&format!("fs{index}"), kind, place)?;
    let on_lost = on_lost(fs.on_disconnect, endings);
    Ok(Box::new(device.on_lost(on_lost)))
}

fn place<'a>(option: &'static str, path: &'a Path, server: bool) -> Place<'a> {
    Place {
        option,
        path,
        server,
    }
}

fn on_lost(wish: OnDisconnect, endings: &Arc<Endings>) -> Option<OnLost> {
    let endings = endings.clone();
    (wish == OnDisconnect::Exit).then(|| Arc::new(move || endings.disconnected()) as OnLost)
}
