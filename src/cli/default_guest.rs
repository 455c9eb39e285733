//! The guest that is booted where the user names none: made by `make guest`.

use std::path::PathBuf;

use motevm::VmConfig;
use motevm::boot::user_cache_folder;
use motevm::config::Disk;

use super::CliError;

/// Where `make guest` puts it (resources/common.sh).
fn folder() -> Option<PathBuf> {
    let cache = std::env::var_os("MOTE_CACHE")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(user_cache_folder)?;
    Some(cache.join("guest").join(std::env::consts::ARCH))
}

/// The name of its kernel's file there (resources/kernel/build.sh).
fn kernel() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "Image",
        _ => "vmlinux",
    }
}

/// The kernel for guests that hold containers, if it was made (`resources/guest.sh containers`).
pub fn containers_kernel() -> Option<PathBuf> {
    let mut folder = folder()?.into_os_string();
    folder.push("-containers");
    let path = PathBuf::from(folder).join(kernel());
    path.exists().then_some(path)
}

/// Whether the kernel is that guest's.
pub fn is_it(config: &VmConfig) -> bool {
    let default = folder().map(|folder| folder.join(kernel()));
    default.is_some() && config.boot.kernel == default
}

/// Fills in kernel and root file system where the configuration has no kernel. The image is
/// read-only, so that any number of VMs can use it at once.
pub fn fill_in(config: &mut VmConfig) -> Result<(), CliError> {
    if config.boot.kernel.is_some() {
        return Ok(());
    }
    let folder = folder().unwrap_or_default();
    let (kernel, rootfs) = (folder.join(kernel()), folder.join("rootfs.ext4"));
    if !kernel.exists() || !rootfs.exists() {
        return Err(CliError::usage(format!(
            "no --kernel was given, and the default guest isn't in {} yet: run `make guest` in \
             mote's source tree (about 6 minutes, once), or give --kernel PATH and --rootfs PATH",
            folder.display()
        )));
    }
    config.boot.kernel = Some(kernel);
    if config.rootfs.is_none() && config.boot.initrd.is_none() {
        config.rootfs = Some(Disk {
            read_only: true,
            ..Disk::at(rootfs)
        });
    }
    Ok(())
}
