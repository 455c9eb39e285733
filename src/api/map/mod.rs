//! From what the API says of a VM to a [`VmConfig`], and back for a VM that was described otherwise.

mod devices;
mod limits;
mod shown;

use crate::config::{Boot, Console, Cpus, HugePages, Memory, Metrics, Rng, Size, VmConfig, Vsock};

pub use limits::rate_limit;
pub use shown::whole;

use super::fault::Fault;
use super::model::{self, BootSource, MachineConfiguration, Whole};

impl Whole {
    /// The VM that it describes. Whether that can be is [`VmConfig::validate`]'s to say.
    ///
    /// # Errors
    ///
    /// A field that asks for what mote hasn't.
    pub fn config(&self) -> Result<VmConfig, Fault> {
        let mut config = VmConfig {
            boot: match &self.boot_source {
                Some(source) => boot(source, self.root()),
                None => Boot::default(),
            },
            ..VmConfig::default()
        };
        machine(&self.machine_config, &mut config)?;
        let mut disks = Vec::new();
        for drive in &self.drives {
            disks.push((drive.is_root_device, devices::drive(drive)?));
        }
        for pmem in &self.pmem {
            disks.push((pmem.root_device, devices::pmem(pmem)?));
        }
        for (is_root, disk) in disks {
            match is_root {
                true => config.rootfs = Some(disk),
                false => config.disks.push(disk),
            }
        }
        config.nets = self
            .network_interfaces
            .iter()
            .map(devices::network)
            .collect::<Result<_, _>>()?;
        config.balloon = self.balloon.as_ref().map(devices::balloon).transpose()?;
        config.vsock = self.vsock.as_ref().map(vsock);
        config.rng = match &self.entropy {
            Some(entropy) if entropy.rate_limiter.is_some() => {
                let why = "the entropy device has no limits; leave it out";
                return Err(Fault::field("rate_limiter", why));
            }
            Some(_) => Rng::On,
            None => Rng::Off,
        };
        if let Some(serial) = &self.serial {
            config.console = console(serial)?;
        }
        config.metrics = self.metrics.as_ref().map(|metrics| Metrics {
            file: Some(metrics.metrics_path.clone()),
            ..Metrics::default()
        });
        Ok(config)
    }

    /// What the kernel is told of the root file system.
    fn root(&self) -> Option<String> {
        if let Some(drive) = self.drives.iter().find(|drive| drive.is_root_device) {
            let device = match &drive.partuuid {
                Some(uuid) => format!("PARTUUID={uuid}"),
                None => "/dev/vda".to_owned(),
            };
            return Some(root(&device, drive.is_read_only == Some(true)));
        }
        let pmem = self.pmem.iter().find(|pmem| pmem.root_device)?;
        Some(root("/dev/pmem0", pmem.read_only))
    }
}

fn root(device: &str, read_only: bool) -> String {
    format!("root={device} {}", if read_only { "ro" } else { "rw" })
}

/// A command line that is given stands for itself: mote's own flags are left out then, but for what finds
/// the devices.
fn boot(source: &BootSource, root: Option<String>) -> Boot {
    let cmdline = source.boot_args.as_ref().map(|args| match root {
        // In front, so that what the user says of it counts, and what is behind `--` stays there.
        Some(root) => format!("{root} {args}"),
        None => args.clone(),
    });
    Boot {
        kernel: Some(source.kernel_image_path.clone()),
        initrd: source.initrd_path.clone(),
        cmdline_only: cmdline.is_some(),
        cmdline,
        ..Boot::default()
    }
}

fn machine(machine: &MachineConfiguration, config: &mut VmConfig) -> Result<(), Fault> {
    if machine.smt {
        let why = "mote's vCPUs are cores, none a thread of another; leave it out";
        return Err(Fault::field("smt", why));
    }
    if machine.track_dirty_pages {
        let why = "it is for snapshots, which mote has none of; leave it out";
        return Err(Fault::field("track_dirty_pages", why));
    }
    if let Some(template) = machine
        .cpu_template
        .as_deref()
        .filter(|name| *name != "None")
    {
        let why =
            format!("mote has no template `{template}`; leave it out (--cpu-mask hides features)");
        return Err(Fault::field("cpu_template", why));
    }
    let bytes = machine.mem_size_mib.checked_mul(1 << 20);
    let bytes = bytes.ok_or_else(|| Fault::field("mem_size_mib", "is too much"))?;
    config.cpus = Cpus(machine.vcpu_count);
    config.memory = Memory {
        hugepages: match machine.huge_pages {
            model::HugePages::Size2M => Some(HugePages::Size2M),
            model::HugePages::None | model::HugePages::Transparent => None,
        },
        ..Size::new(bytes).into()
    };
    Ok(())
}

fn vsock(vsock: &model::Vsock) -> Vsock {
    Vsock {
        cid: vsock.guest_cid,
        socket: Some(vsock.uds_path.clone()),
        ..Vsock::default()
    }
}

fn console(serial: &model::Serial) -> Result<Console, Fault> {
    if serial.rate_limiter.is_some() {
        let why = "the serial port has no limits; leave it out";
        return Err(Fault::field("rate_limiter", why));
    }
    Ok(match &serial.serial_out_path {
        Some(path) => Console::File(path.clone()),
        None => Console::Stdio,
    })
}

#[cfg(test)]
mod tests;
