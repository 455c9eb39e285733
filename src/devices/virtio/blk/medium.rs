//! What is in a drive, exchanged while the guest runs; and its limits, changed likewise.
//!
//! A request is for what was in the drive when it was taken, to its end. The driver is told of the new capacity by
//! the configuration space (virtio 1.3 §5.2.4); Linux' makes a device of that size of it at once. What its file
//! systems and its page cache know of the old medium they still know: whoever exchanges a medium has the guest
//! unmount it before.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};

use super::disk::{Disk, SECTOR};
use super::open::{self, BlkConfig, BlkError};
use super::request::Shared;
use crate::config::RateLimit;
use crate::devices::virtio::Interrupt;
use crate::handed;

/// The configuration space (§5.2.4).
pub struct Space {
    pub bytes: [u8; 60],
    /// While the device is live.
    pub interrupt: Option<Arc<Interrupt>>,
}

/// A drive, from any thread. It doesn't keep the drive's image open, nor locked, once the VM has gone.
#[derive(Clone)]
pub struct Drive {
    config: Arc<BlkConfig>,
    shared: Weak<Shared>,
}

impl Drive {
    pub(super) fn new(config: &BlkConfig, shared: &Arc<Shared>) -> Self {
        Drive {
            config: Arc::new(config.clone()),
            shared: Arc::downgrade(shared),
        }
    }

    /// Its name in logs and metrics: `vda`.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Puts what is at `path` in place of what is in the drive; its size in bytes. `None` once the VM has gone.
    ///
    /// # Errors
    ///
    /// See [`BlkError`]; the old medium stays.
    pub fn replace(&self, path: &Path) -> Option<Result<u64, BlkError>> {
        Some(self.put(&*self.shared.upgrade()?, path))
    }

    /// Other limits, from the next request on; false once the VM has gone.
    pub fn set_limits(&self, limits: &RateLimit) -> bool {
        let shared = self.shared.upgrade();
        shared.map(|shared| shared.limiter.set(limits)).is_some()
    }

    fn put(&self, shared: &Shared, path: &Path) -> Result<u64, BlkError> {
        let before = shared.disk();
        let config = BlkConfig {
            path: same_file(&before, path).unwrap_or_else(|| path.to_owned()),
            ..(*self.config).clone()
        };
        let mut disk = open::open(&config)?;
        disk.path = path.to_owned();
        let (new, old) = (disk.block_size(), before.block_size());
        // The driver has read it, and doesn't again.
        if new > old {
            let path = path.to_owned();
            return Err(BlkError::BlockSize { path, new, old });
        }
        let size = disk.size();
        // Held all along: of two who exchange it at the same time, one comes after the other.
        let mut space = shared.space();
        {
            let mut place = shared.disk.write().unwrap_or_else(PoisonError::into_inner);
            *place = Arc::new(disk);
        }
        let capacity = (size / SECTOR).to_le_bytes();
        space.bytes[..8].copy_from_slice(&capacity);
        if let Some(interrupt) = &space.interrupt {
            interrupt.set_config(0, &capacity);
        }
        Ok(size)
    }
}

/// Where `path` is what is in the drive already, which may have grown: that file itself, with the lock that it has.
fn same_file(disk: &Disk, path: &Path) -> Option<PathBuf> {
    let old = disk.file.metadata().ok()?;
    let new = match handed::number(path) {
        Some(fd) => fs::metadata(format!("/proc/self/fd/{fd}")).ok()?,
        None => fs::metadata(path).ok()?,
    };
    let is_same = (old.dev(), old.ino()) == (new.dev(), new.ino());
    is_same.then(|| format!("fd={}", disk.file.as_raw_fd()).into())
}
