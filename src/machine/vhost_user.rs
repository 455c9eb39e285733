//! Makes the devices that other processes serve.

use std::path::Path;

use super::devices::drive_name;
use super::error::BuildError;
use crate::config::{Disk, Fs, Net};
use crate::devices::vhost_user::kind::{Blk, Fs as FsKind, Net as NetKind, random_mac};
use crate::devices::vhost_user::passt::Passt;
use crate::devices::vhost_user::{Place, VhostUserDevice};
use crate::devices::virtio::VirtioDevice;

type Device = Box<dyn VirtioDevice>;

/// The drive of this index, if another process serves it.
pub fn drive(index: usize, disk: &Disk) -> Result<Option<Device>, BuildError> {
    let Some(socket) = &disk.vhost_user else {
        return Ok(None);
    };
    let place = place("--disk vhost-user", socket, disk.server);
    let kind = Blk::new(disk.queues.0);
    let device = VhostUserDevice::connect(&drive_name(index), kind, place)?;
    Ok(Some(Box::new(device)))
}

/// The network interface, if another process serves it.
pub fn interface(index: usize, net: &Net) -> Result<Option<Device>, BuildError> {
    let name = format!("net{index}");
    let mac = net.mac.map_or_else(random_mac, |mac| mac.0);
    let kind = NetKind::new(mac, net.mtu);
    if let Some(socket) = &net.vhost_user {
        let place = place("--net vhost-user", socket, net.server);
        return Ok(Some(Box::new(VhostUserDevice::connect(
            &name, kind, place,
        )?)));
    }
    if net.user {
        let passt = Passt::find(net.passt.as_deref(), net.mtu)?;
        return Ok(Some(Box::new(VhostUserDevice::start(&name, kind, passt)?)));
    }
    Ok(None)
}

/// A shared folder.
pub fn folder(index: usize, fs: &Fs) -> Result<Device, BuildError> {
    let place = place("--fs socket", &fs.socket, fs.server);
    let kind = FsKind::new(&fs.tag, fs.queues.unwrap_or(1));
    let device = VhostUserDevice::connect(&format!("fs{index}"), kind, place)?;
    Ok(Box::new(device))
}

fn place<'a>(option: &'static str, path: &'a Path, server: bool) -> Place<'a> {
    Place {
        option,
        path,
        server,
    }
}
