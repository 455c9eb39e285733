//! What a VM leaves on the host: its folder. Its processes end with the shim, whatever becomes of it (prctl(2),
//! PR_SET_PDEATHSIG), and its mounts with the shim's mount namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use log::warn;
use nix::mount::{MntFlags, umount2};

/// Takes away a VM's folder, if it is there.
pub fn clear(folder: &Path) {
    let containers = fs::read_dir(folder.join("c")).into_iter().flatten();
    for container in containers.flatten() {
        crate::rootfs::cleanup(&container.path());
    }
    for mounted in ["shared", "net"] {
        let _ = umount2(&folder.join(mounted), MntFlags::MNT_DETACH);
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            warn!("{}: {error}", folder.display());
        }
        _ => {}
    }
}
