//! The virtio devices of a configuration, in the order in which the guest finds them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::console::{ConsoleEnd, ConsoleResizer};
use super::dax::DaxDrives;
use super::ending::Endings;
use super::error::BuildError;
use super::vhost_user;
use super::virtio::VirtioPlacer;
use crate::config::{self, ConfigError, Disk, Rng, Size, VmConfig, Vsock};
use crate::devices::console::{Console, EscapeFilter, Output};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::{Balloon, BalloonConfig, BalloonDevice};
use crate::devices::virtio::blk::{BlkConfig, BlkDevice, Drive};
use crate::devices::virtio::console::ConsoleDevice;
use crate::devices::virtio::net::{Limits, Link, NetDevice};
use crate::devices::virtio::rng::RngDevice;
use crate::devices::virtio::vsock::{KernelVsock, OwnPort, VsockDevice, VsockError};

/// The host's end of a network device: its cable, and its limits where it knows any.
pub type NetEnd = (Link, Option<Limits>);

/// The host's ends of those devices that have one.
pub struct Placed {
    /// Of the virtio console.
    pub console: Option<ConsoleEnd>,
    /// Each drive's name, and what changes it; `None` where the guest maps it, or another process serves it.
    pub drives: Vec<(String, Option<Drive>)>,
    /// Each network device's name, its cable and its limits; `None` where another process serves it.
    pub nets: Vec<(String, Option<NetEnd>)>,
    pub balloon: Option<Balloon>,
}

/// Opens and places all virtio devices: first the drives, the root file system's before all, and
/// last the entropy device. `hvc` is the console's other end, if it is a virtio console.
pub fn place_devices(
    placer: &mut VirtioPlacer,
    config: &VmConfig,
    dax: &DaxDrives,
    hvc: Option<Console>,
    own_port: Option<OwnPort>,
    endings: &Arc<Endings>,
) -> Result<Placed, BuildError> {
    let (mut mapped, mut blocks) = (dax.devices().into_iter(), 0..);
    let mut drives = Vec::new();
    for drive in config.drives() {
        if let Some(device) = drive.dax.then(|| mapped.next()).flatten() {
            drives.push((device.name().to_owned(), None));
            placer.place(Box::new(device))?;
            continue;
        }
        let index = blocks.next().unwrap_or_default();
        let (name, mut handle) = (drive_name(index), None);
        placer.place(match vhost_user::drive(index, drive, endings)? {
            Some(device) => device,
            None => {
                let device = BlkDevice::open(&blk_config(index, drive)?)?;
                handle = Some(device.drive());
                Box::new(device)
            }
        })?;
        drives.push((name, handle));
    }
    for (index, fs) in config.fs.iter().enumerate() {
        placer.place(vhost_user::folder(index, fs, endings)?)?;
    }
    let mut nets = Vec::with_capacity(config.nets.len());
    for (index, net) in config.nets.iter().enumerate() {
        let name = format!("net{index}");
        if let Some(device) = vhost_user::interface(index, net, endings)? {
            placer.place(device)?;
            nets.push((name, None));
            continue;
        }
        let device = NetDevice::open(&name, net)?;
        nets.push((name, Some((device.link(), device.limits()))));
        placer.place(Box::new(device))?;
    }
    if let Some(vsock) = &config.vsock {
        let device = vsock_device(vsock, own_port, placer.memory)?;
        placer.place(device)?;
    }
    let console = match hvc {
        Some(console) => Some(place_hvc(placer, console)?),
        None => None,
    };
    let balloon = match &config.balloon {
        Some(balloon) => Some(place_balloon(placer, balloon, config.memory.size)?),
        None => None,
    };
    if config.rng == Rng::On {
        placer.place(Box::new(RngDevice::new()))?;
    }
    Ok(Placed {
        console,
        drives,
        nets,
        balloon,
    })
}

/// Named as Linux will (drivers/scsi/sd.c, sd_format_disk_name): vda to vdz, then vdaa.
pub fn drive_name(index: usize) -> String {
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    match index / 26 {
        0 => format!("vd{}", letter(index)),
        more => format!("vd{}{}", letter(more - 1), letter(index)),
    }
}

fn blk_config(index: usize, disk: &Disk) -> Result<BlkConfig, ConfigError> {
    Ok(BlkConfig {
        name: drive_name(index),
        path: disk.path.clone(),
        read_only: disk.read_only,
        id: disk.id.clone(),
        cache: disk.cache,
        engine: disk.engine,
        queues: disk.queues,
        limit: disk.rate_limit()?,
    })
}

fn vsock_device(
    vsock: &Vsock,
    own: Option<OwnPort>,
    memory: &vm_memory::GuestMemoryMmap<()>,
) -> Result<Box<dyn VirtioDevice>, VsockError> {
    Ok(match vsock.vhost {
        true => Box::new(KernelVsock::new(vsock.cid, memory)?),
        false => Box::new(VsockDevice::new(vsock.cid, vsock.socket.as_deref(), own)?),
    })
}

/// The balloon, and the host's end of it.
fn place_balloon(
    placer: &mut VirtioPlacer,
    config: &config::Balloon,
    memory: Size,
) -> Result<Balloon, BuildError> {
    let device = BalloonDevice::new(BalloonConfig {
        size: config.size.bytes(),
        memory: memory.bytes(),
        deflate_on_oom: config.deflate_on_oom,
        stats: config.stats.map(|s| Duration::from_secs(s.into())),
        reporting: config.free_page_reporting,
    });
    let balloon = device.handle();
    placer.place(Box::new(device))?;
    Ok(balloon)
}

/// The virtio console, between the guest and the console.
fn place_hvc(placer: &mut VirtioPlacer, console: Console) -> Result<ConsoleEnd, BuildError> {
    let (columns, rows) = console.terminal_size();
    let terminal = console.output.try_clone().map_err(BuildError::Event)?;
    let (mut output, drain) = Output::new(console.output).map_err(BuildError::Event)?;
    output.watch_for(console.marker);
    let device = ConsoleDevice::new(output, columns, rows).map_err(BuildError::Event)?;
    let (port, window) = (device.input(), device.window());
    let transport = placer.place(Box::new(device))?;
    let transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ConsoleEnd {
        input: console.input,
        port,
        input_space: transport.notifiers()[0].clone(), // of the receive queue
        drain,
        escapes: console.escapes.then(EscapeFilter::default),
        pty: console.pty,
        pending: Vec::new(),
        resizer: Some((ConsoleResizer::new(window)?, terminal)),
    })
}
