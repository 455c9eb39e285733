//! What a VM leaves on the host: its folder and its cgroup. Its processes end with the shim, whatever becomes of it (prctl(2),
//! PR_SET_PDEATHSIG), and its mounts with the shim's mount namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use log::warn;

/// The file of a VM's folder that says which cgroups were made for it.
pub const CGROUP: &str = "cgroup";

/// Takes away a VM's folder, if it is there, and the cgroups that were made for it.
pub fn clear(folder: &Path) {
    crate::cgroup::remove_noted(&folder.join(CGROUP));
    // Nothing may be mounted in what is removed.
    crate::rootfs::cleanup(folder);
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            warn!("{}: {error}", folder.display());
        }
        _ => {}
    }
}
