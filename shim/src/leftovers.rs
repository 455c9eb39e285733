//! What a VM leaves on the host: its folder and its cgroup. Its processes end with the shim, whatever becomes of it (prctl(2),
//! PR_SET_PDEATHSIG), and its mounts with the shim's mount namespace.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use log::warn;

/// The file of a VM's folder that says which cgroups were made for it.
pub const CGROUP: &str = "cgroup";

/// The file of a container's bundle that says which folder its VM has.
const FOLDER: &str = "mote-vm";

/// Notes it for whoever clears up after this shim, and doesn't know by which configuration the VM was made.
pub fn note(bundle: &Path, folder: &Path) -> io::Result<()> {
    fs::write(bundle.join(FOLDER), folder.as_os_str().as_bytes())
}

/// What was noted in the bundle.
pub fn noted(bundle: &Path) -> Option<PathBuf> {
    let path = fs::read(bundle.join(FOLDER)).ok()?;
    (!path.is_empty()).then(|| OsString::from_vec(path).into())
}

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
