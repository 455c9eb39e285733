//! The guest that is booted where the user names none: made by `make guest`.

use std::path::PathBuf;

use motevm::VmConfig;
use motevm::config::Rootfs;

use super::CliError;

/// Where `make guest` puts it (resources/common.sh).
fn folder() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let cache = absolute("MOTE_CACHE")
        .or_else(|| Some(absolute("XDG_CACHE_HOME")?.join("mote")))
        .or_else(|| Some(absolute("HOME")?.join(".cache/mote")))?;
    Some(cache.join("guest").join(std::env::consts::ARCH))
}

/// Fills in kernel and root file system where the configuration has no kernel. The image is
/// read-only, so that any number of VMs can use it at once.
pub fn fill_in(config: &mut VmConfig) -> Result<(), CliError> {
    if config.boot.kernel.is_some() {
        return Ok(());
    }
    let folder = folder().unwrap_or_default();
    let (kernel, rootfs) = (folder.join("vmlinux"), folder.join("rootfs.ext4"));
    if !kernel.exists() || !rootfs.exists() {
        return Err(CliError::usage(format!(
            "no --kernel was given, and the default guest isn't in {} yet: run `make guest` in \
             mote's source tree (about 6 minutes, once), or give --kernel PATH and --rootfs PATH",
            folder.display()
        )));
    }
    config.boot.kernel = Some(kernel);
    if config.rootfs.is_none() && config.boot.initrd.is_none() {
        config.rootfs = Some(Rootfs {
            path: rootfs,
            read_only: true,
        });
    }
    Ok(())
}
