//! The snapshot mounts that containerd hands over, as the guest's drives, or as a folder to be shared with it.
//!
//! As a drive, a snapshot is an image of what its mounts show: made once of what is committed, and found again for
//! the next container of the same image ([`motevm::image::folder`]). What a snapshot has in a file or device of its
//! own already is handed on as it is. The mounts that it takes to look are nobody else's, and gone afterwards.
//!
//! - `options`: mounts as containerd writes them down
//! - `overlay`: their layers
//! - `mounting`: the mounts themselves
//! - `loops`: files as block devices
//! - `scratch`: empty disks for what containers write
//! - `unnamed`: files of one VM's

mod error;
mod loops;
mod mounting;
mod options;
mod overlay;
mod scratch;
#[cfg(test)]
mod tests;
mod unnamed;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use containerd_shim::protos::types::mount::Mount;
use motevm::image::folder;

pub use error::RootfsError;
pub use mounting::cleanup;
pub use scratch::scratch;

use mounting::{Mounted, alone};
use options::Mounting;
use overlay::Overlay;
use unnamed::unnamed;

/// What the VM gets.
#[derive(Debug)]
pub enum Plan {
    /// A read-only drive.
    Image {
        /// EROFS.
        path: PathBuf,
    },
    /// The same, for this container alone.
    Own {
        /// It has no name.
        file: File,
    },
    /// A drive that has the snapshot itself.
    Disk {
        /// A file, or a block device.
        path: PathBuf,
        /// What is on it.
        filesystem: String,
        /// Whether it may be written.
        read_only: bool,
    },
    /// What the snapshot shows, for virtiofsd.
    Folder {
        /// Its place.
        path: PathBuf,
    },
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A drive.
    Block,
    /// A folder.
    Shared,
}

/// Makes a container's root file system out of its mounts, or out of `bundle_rootfs` where there are none.
///
/// Images are in `cache`, and kept if they are of committed snapshots; what is mounted is in `work`, a folder of this
/// container's, until [`cleanup`] of it.
///
/// # Errors
///
/// The mounts can't be made, or are of a kind that isn't known; or the image can't be made.
pub fn prepare(
    mounts: &[Mount],
    bundle_rootfs: &Path,
    how: How,
    cache: &Path,
    work: &Path,
) -> Result<Plan, RootfsError> {
    let mounts: Vec<Mounting> = mounts
        .iter()
        .map(Mounting::read)
        .collect::<Result<_, _>>()?;
    make_folder(work)?;
    if mounts.is_empty() && !bundle_rootfs.is_dir() {
        return Err(RootfsError::Nothing(bundle_rootfs.to_owned()));
    }
    match (how, &mounts[..]) {
        (How::Shared, []) => Ok(Plan::Folder {
            path: bundle_rootfs.to_owned(),
        }),
        (How::Shared, mounts) => shared(mounts, work),
        (How::Block, []) => image(bundle_rootfs, cache),
        (How::Block, [one]) if one.is_whole() => block(one, cache, work),
        (How::Block, mounts) => view(mounts, cache, work),
    }
}

fn shared(mounts: &[Mounting], work: &Path) -> Result<Plan, RootfsError> {
    let path = work.join("rootfs");
    make_folder(&path)?;
    let mounted = Mounted::all(mounts, &path)?;
    mounted.keep();
    Ok(Plan::Folder { path })
}

fn block(mount: &Mounting, cache: &Path, work: &Path) -> Result<Plan, RootfsError> {
    let path = PathBuf::from(&mount.source);
    match mount.kind.as_str() {
        // Another way to read it than from its first byte on is for the kernel.
        "erofs" if mount.data.is_empty() && is_disk(&path)? => Ok(Plan::Image { path }),
        "ext4" if is_disk(&path)? => Ok(Plan::Disk {
            path,
            filesystem: mount.kind.clone(),
            read_only: mount.is_read_only(),
        }),
        "overlay" => match Overlay::read(mount)? {
            Some(layers) => overlay(&layers, cache, work),
            None => view(std::slice::from_ref(mount), cache, work),
        },
        // Nothing says that nobody changes it: it isn't kept, be it read-only here.
        _ if mount.is_bind() => image(&path, cache),
        _ => view(std::slice::from_ref(mount), cache, work),
    }
}

/// Layers on one another: what is committed of them is kept.
fn overlay(layers: &Overlay, cache: &Path, work: &Path) -> Result<Plan, RootfsError> {
    let is_kept = layers.is_plain && !layers.has_changes()?;
    let folders = layers.shown(!is_kept);
    if is_kept && let Some(path) = folder::find(&folders, cache)? {
        return Ok(Plan::Image { path });
    }
    let make = |shown: &Path| match is_kept {
        true => {
            let path = folder::cached(&folders, shown, cache, folder::KEEP, &mut |_, _| ())?;
            Ok(Plan::Image { path })
        }
        false => image(shown, cache),
    };
    match &folders[..] {
        // The kernel makes no overlay of one.
        [one] => make(one),
        _ => alone(|| {
            let at = place(work)?;
            let _mounted = layers.mount_read_only(&folders, &at)?;
            make(&at)
        }),
    }
}

/// Of whatever the mounts show.
fn view(mounts: &[Mounting], cache: &Path, work: &Path) -> Result<Plan, RootfsError> {
    alone(|| {
        let at = place(work)?;
        let _mounted = Mounted::all(mounts, &at)?;
        image(&at, cache)
    })
}

fn image(folder: &Path, cache: &Path) -> Result<Plan, RootfsError> {
    let file = unnamed(cache, "rootfs", |path| {
        Ok(folder::make(folder, path, &mut |_, _| ())?)
    })?;
    Ok(Plan::Own { file })
}

fn place(work: &Path) -> Result<PathBuf, RootfsError> {
    let path = work.join("view");
    make_folder(&path)?;
    Ok(path)
}

fn make_folder(path: &Path) -> Result<(), RootfsError> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(RootfsError::io(path))
}

/// Whether it can be a drive.
fn is_disk(path: &Path) -> Result<bool, RootfsError> {
    let file_type = fs::metadata(path).map_err(RootfsError::io(path))?;
    let file_type = file_type.file_type();
    Ok(file_type.is_file() || file_type.is_block_device())
}
