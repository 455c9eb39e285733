//! A container's root file system as drives of the VM, and what the guest does with them.

use std::path::Path;

use containerd_shim::Result;
use containerd_shim::api::CreateTaskRequest;
use mote_agent_protocol::Mount;
use mote_agent_protocol::setup::Step;

use crate::config::{Config, Rootfs, Upper};
use crate::pod::refused;
use crate::rootfs::{self, How, Plan};

/// The first container's root file system as drives, in the order in which the guest names them.
pub struct Drives {
    /// As `mote run --disk` takes them.
    pub disks: Vec<String>,
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
        Plan::Image { path } => {
            drives.disks.push(format!("{},ro", path.display()));
            if config.upper == Upper::Disk {
                let upper = work.join("upper.ext4");
                rootfs::scratch(&upper, config.upper_size, &config.cache).map_err(refused)?;
                drives.disks.push(upper.display().to_string());
                drives.has_upper = true;
            }
        }
        Plan::Disk {
            path,
            filesystem,
            read_only,
        } => {
            let suffix = if read_only { ",ro" } else { "" };
            drives.disks.push(format!("{}{suffix}", path.display()));
            drives.filesystem = filesystem;
            drives.is_whole = true;
            drives.read_only = read_only;
        }
        Plan::Folder { .. } => return Err(refused("this snapshot can't be a drive")),
    }
    Ok(drives)
}

impl Drives {
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
