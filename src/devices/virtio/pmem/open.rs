//! From a path to a file that the guest maps, or a message that says what's wrong.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::file::DaxFile;
use crate::config::DaxMode;
use crate::devices::virtio::blk::BlkError;
use crate::devices::virtio::image::Image;

/// A drive that the guest maps, as the user wants it.
#[derive(Clone, Debug)]
pub struct PmemConfig {
    /// What to call it in logs and thread names: "pmem0".
    pub name: String,
    /// A raw image file, or a block device.
    pub path: PathBuf,
    /// What becomes of the guest's writes.
    pub mode: DaxMode,
}

/// Why a drive can't be mapped.
#[derive(Debug, thiserror::Error)]
pub enum PmemError {
    /// It could not be a drive in any way.
    #[error(transparent)]
    Drive(#[from] BlkError),
    /// Its last page isn't whole, and what the guest writes behind it would be lost.
    #[error(
        "drive {path} has {size} bytes, not a multiple of {page}, as dax needs it for writing: \
         `truncate -s %{page} {path}` rounds it up; or add `ro` or `cow`"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The host's page size.
        page: u64,
    },
    /// Its file system can't map files, or there is no address space left.
    #[error("drive {path} can't be mapped ({source}): leave out `dax`")]
    Map {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The guest's processor has too few physical address bits.
    #[error(
        "drive {path} has {size} MiB, more than this host's processor lets a guest map behind its \
         memory: leave out `dax`"
    )]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Its size in MiB.
        size: u64,
    },
}

/// Opens the file of `config` and takes its lock.
pub(super) fn open(config: &PmemConfig) -> Result<DaxFile, PmemError> {
    let path = &config.path;
    // A writable mapping that is private reads the file only.
    let read_only = config.mode != DaxMode::Shared;
    let Image { file, size, .. } = Image::open(path, read_only)?;
    // SAFETY: takes no pointer.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    if config.mode == DaxMode::Shared && !size.is_multiple_of(page) {
        let path = path.clone();
        return Err(PmemError::Size { path, size, page });
    }
    // Takes back the O_NONBLOCK of `Image::open`.
    // SAFETY: takes no pointer.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) } < 0 {
        return Err(BlkError::Io {
            path: path.clone(),
            operation: "setting its flags",
            source: io::Error::last_os_error(),
        }
        .into());
    }
    Ok(DaxFile::new(config.clone(), file, size))
}
