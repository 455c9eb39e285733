//! A container's root file system as drives of the VM, and what the guest does with them.

use std::fs::File;
use std::path::{Path, PathBuf};

use containerd_shim::Result;
use containerd_shim::api::CreateTaskRequest;
use mote_agent_protocol::Mount;
use mote_agent_protocol::setup::Step;

use crate::config::{Config, Rootfs, Upper};
use crate::pod::refused;
use crate::rootfs::{self, How, Plan};

/// A drive.
#[derive(Debug)]
pub struct Disk {
    pub medium: Medium,
    pub read_only: bool,
}

/// What is on it.
#[derive(Debug)]
pub enum Medium {
    /// A file or device of the host's.
    Named(PathBuf),
    /// A file that whoever has it open has alone.
    Open(File),
}

/// The first container's root file system as drives, in the order in which the guest names them.
pub struct Drives {
    pub disks: Vec<Disk>,
    /// How the first is mounted; with a second one, or none, over it.
    filesystem: String,
    is_whole: bool,
    has_upper: bool,
    read_only: bool,
}

/// The drives for the snapshot of a request; none where it comes by virtio-fs.
pub fn drives(
    config: &Config,
    request: &CreateTaskRequest,
    rootfs: &Path,
    work: &Path,
) -> Result<Drives> {
    let mut drives = Drives {
        disks: Vec::new(),
        filesystem: "erofs".to_owned(),
        is_whole: false,
        has_upper: false,
        read_only: false,
    };
    if config.rootfs == Rootfs::Virtiofs {
        return Ok(drives);
    }
    std::fs::create_dir_all(work).map_err(|e| refused(format!("{}: {e}", work.display())))?;
    let plan = rootfs::prepare(&request.rootfs, rootfs, How::Block, &config.cache, work);
    match plan.map_err(refused)? {
        Plan::Image { path } => drives.layered(Medium::Named(path), config)?,
        Plan::Own { file } => drives.layered(Medium::Open(file), config)?,
        Plan::Disk {
            path,
            filesystem,
            read_only,
        } => {
            let medium = Medium::Named(path);
            drives.disks.push(Disk { medium, read_only });
            drives.filesystem = filesystem;
            drives.is_whole = true;
            drives.read_only = read_only;
        }
        Plan::Folder { .. } => return Err(refused("this snapshot can't be a drive")),
    }
    Ok(drives)
}

impl Drives {
    /// An image, and what is written over it.
    fn layered(&mut self, medium: Medium, config: &Config) -> Result<()> {
        self.disks.push(Disk {
            medium,
            read_only: true,
        });
        if config.upper == Upper::Disk {
            let upper = rootfs::scratch(config.upper_size, &config.cache).map_err(refused)?;
            self.disks.push(Disk {
                medium: Medium::Open(upper),
                read_only: false,
            });
            self.has_upper = true;
        }
        Ok(())
    }

    /// What the guest has to do for a root at `place`/root.
    pub fn steps(&self, place: &str) -> Vec<Step> {
        let [lower, upper, root] = ["lower", "upper", "root"].map(|name| format!("{place}/{name}"));
        if self.is_whole {
            let options = if self.read_only { "ro" } else { "" };
            let mount = Mount::new(&self.filesystem, "/dev/vda", &root, options);
            return vec![Step::Mount(mount)];
        }
        let upper_mount = match self.has_upper {
            true => Mount::new("ext4", "/dev/vdb", &upper, "noatime,noinit_itable"),
            false => Mount::new("tmpfs", "tmpfs", &upper, "mode=755"),
        };
        let options = format!("lowerdir={lower},upperdir={upper}/files,workdir={upper}/work");
        vec![
            Step::Mount(Mount::new(&self.filesystem, "/dev/vda", &lower, "ro")),
            Step::Mount(upper_mount),
            Step::Folder(format!("{upper}/files")),
            Step::Folder(format!("{upper}/work")),
            Step::Mount(Mount::new("overlay", "overlay", &root, &options)),
        ]
    }
}
