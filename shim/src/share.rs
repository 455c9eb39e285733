//! The folder that virtiofsd shares with a VM's guest: what containers want of the host's files is mounted into it.
//!
//! It is there twice. The shim makes places in one, and mounts into them; the other is a view that virtiofsd has, to which
//! those mounts come, and in which the places themselves can't be written: a guest that could make links among them
//! would have the shim follow those. What is mounted in the places has rights of its own.
//!
//! The mounts are in the shim's own mount namespace, which virtiofsd's follows: they are gone with the two.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::source::{Rights, Source};

/// What the guest mounts it by.
pub const TAG: &str = "mote-shared";
/// Where it is in the guest.
pub const IN_GUEST: &str = "/run/shared";
/// The view that virtiofsd has, in the VM's folder.
pub const VIEW: &str = "shared";
/// Where the shim makes places, beside it.
const PLACES: &str = "places";
/// The places' file system has no content but names.
const LIMITS: &str = "mode=755,size=1m,nr_inodes=16k";

const NONE: Option<&str> = None;

/// Why something can't be shared.
#[derive(Debug, thiserror::Error)]
#[error("sharing {path}: {error}")]
pub struct ShareError {
    path: PathBuf,
    error: io::Error,
}

/// The folder.
#[derive(Debug)]
pub struct Share {
    places: PathBuf,
    view: PathBuf,
    last: AtomicU32,
}

impl Share {
    /// Makes it in a VM's folder.
    ///
    /// # Errors
    ///
    /// It can't be made.
    pub fn new(folder: &Path) -> Result<Self, ShareError> {
        let share = Share {
            places: folder.join(PLACES),
            view: folder.join(VIEW),
            last: AtomicU32::new(0),
        };
        match share.make() {
            Ok(()) => Ok(share),
            Err(error) => Err(ShareError {
                path: share.view.clone(),
                error,
            }),
        }
    }

    fn make(&self) -> io::Result<()> {
        let kind = Some("tmpfs");
        let flags = MsFlags::MS_NODEV;
        make_folder(&self.places)?;
        mount(Some(TAG), &self.places, kind, flags, Some(LIMITS))?;
        // What is mounted into the one later comes to the other, and to virtiofsd's.
        mount(NONE, &self.places, NONE, MsFlags::MS_SHARED, NONE)?;
        make_folder(&self.view)?;
        let bind = MsFlags::MS_BIND;
        mount(Some(&self.places), &self.view, NONE, bind, NONE)?;
        let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags;
        mount(NONE, &self.view, NONE, read_only, NONE)?;
        Ok(())
    }

    /// Shares a file or folder of the host. Returns its path in the guest.
    ///
    /// # Errors
    ///
    /// It can't be mounted.
    pub fn add(&self, source: &Source, rights: Rights) -> Result<String, ShareError> {
        let name = self.last.fetch_add(1, Ordering::Relaxed).to_string();
        let target = self.places.join(&name);
        let add = || -> io::Result<()> {
            match source.file_type()?.is_dir() {
                true => fs::create_dir(&target)?,
                false => make_file(&target)?,
            }
            source.mount(&target, rights)
        };
        match add() {
            Ok(()) => Ok(format!("{IN_GUEST}/{name}")),
            Err(error) => {
                self.remove(&format!("{IN_GUEST}/{name}"));
                let path = source.path().to_owned();
                Err(ShareError { path, error })
            }
        }
    }

    /// Takes away what [`Share::add`] returned.
    pub fn remove(&self, in_guest: &str) {
        let Some(name) = in_guest.rsplit('/').next() else {
            return;
        };
        let target = self.places.join(name);
        unmount(&target);
        let _ = fs::remove_dir(&target).or_else(|_| fs::remove_file(&target));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for folder in [&self.view, &self.places] {
            unmount(folder);
            let _ = fs::remove_dir(folder);
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn make_file(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).open(path).map(drop)
}

fn unmount(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
}

#[cfg(test)]
mod tests;
