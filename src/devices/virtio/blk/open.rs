//! From a path to a disk, or a message that says what's wrong and what to do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU8;

use super::disk::{Alignment, Disk, SECTOR};
use crate::config::{Cache, Engine, Queues, RateLimit};
use crate::devices::virtio::image::Image;

/// A drive, as the user wants it.
#[derive(Clone, Debug)]
pub struct BlkConfig {
    /// What to call it in logs and thread names: "vda".
    pub name: String,
    /// A raw image file, or a block device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// The serial number that the guest sees, at most 20 bytes.
    pub id: Option<String>,
    /// Whether the host's page cache is used, and what a flush does.
    pub cache: Cache,
    /// How the file is read and written.
    pub engine: Engine,
    /// Number of queues.
    pub queues: Queues,
    /// How much it may do in a second.
    pub limit: RateLimit,
}

impl BlkConfig {
    /// A drive that is this file, and all else by default.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            read_only: false,
            id: None,
            cache: Cache::default(),
            engine: Engine::default(),
            queues: Queues::default(),
            limit: RateLimit::default(),
        }
    }
}

/// Why a drive can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// A system call failed.
    #[error("drive {path}: {operation}: {source}")]
    Io {
        /// The image.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// May be read, but not written.
    #[error("drive {path} can't be written ({source}): make it writable, or add `ro`")]
    NotWritable {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A directory, a pipe, a terminal...
    #[error("drive {path} is {what}: a drive is a raw image file or a block device")]
    Type {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Nothing in it.
    #[error("drive {path} is empty: give it a size, e.g. `truncate -s 1G {path}`")]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// The size isn't a multiple of the sector size.
    #[error(
        "drive {path} has {size} bytes, not a multiple of {unit}: \
         `truncate -s %{unit} {path}` rounds it up"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// Not a raw image.
    #[error(
        "drive {path} is a {format} image; only raw ones are supported: \
         `qemu-img convert -O raw {path} {path}.raw`"
    )]
    Format {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
    /// In use by another VM.
    #[error("drive {path} is in use, by another program or by another drive of this VM: {remedy}")]
    Locked {
        /// The image.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The file system has no O_DIRECT.
    #[error(
        "drive {path} can't be used with cache=none, as its file system has no O_DIRECT \
         ({source}): use cache=writeback"
    )]
    NoDirect {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A medium that the driver can't read in units that it knows.
    #[error(
        "drive {path} has blocks of {new} bytes, and the guest knows the drive as one of {old}: \
         only a VM that starts with it can use it"
    )]
    BlockSize {
        /// The image.
        path: PathBuf,
        /// Its block size.
        new: u32,
        /// The drive's.
        old: u32,
    },
    /// The serial number doesn't fit.
    #[error("drive {path}: id {id:?} is longer than 20 bytes")]
    Id {
        /// The image.
        path: PathBuf,
        /// The id.
        id: String,
    },
}

/// Opens the image of `config`: five system calls for a file in the page cache.
pub(super) fn open(config: &BlkConfig) -> Result<Disk, BlkError> {
    let path = &config.path;
    if let Some(id) = config.id.as_ref().filter(|id| id.len() > 20) {
        let (path, id) = (path.clone(), id.clone());
        return Err(BlkError::Id { path, id });
    }
    let Image {
        file,
        size,
        sector,
        is_block,
    } = Image::open(path, config.read_only)?;
    // Also takes back the O_NONBLOCK of `Image::open`.
    let direct = config.cache == Cache::None;
    let flags = if direct { libc::O_DIRECT } else { 0 };
    // SAFETY: takes no pointer.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
        let (path, source) = (path.clone(), io::Error::last_os_error());
        return Err(BlkError::NoDirect { path, source });
    }
    let alignment = match direct {
        true => Some(direct_alignment(&file, sector)),
        false => None,
    };
    // A file has sectors of 512 bytes whatever is below it, or what is in it would look different
    // with each `cache=`. What O_DIRECT can't take goes by way of the page cache then.
    let direct_unit = alignment.map_or(sector, |a| a.length.max(sector));
    let through_cache = match direct_unit > sector {
        true => reopen(&file, config.read_only),
        false => None,
    };
    let block_size = match through_cache {
        Some(_) => sector,
        None => direct_unit,
    };
    let unit = block_size.into();
    if size % unit != 0 {
        let path = path.clone();
        return Err(BlkError::Size { path, size, unit });
    }
    Ok(Disk {
        file,
        path: path.clone(),
        size,
        block_size,
        physical_block_size: direct_unit,
        read_only: config.read_only,
        is_block,
        direct: alignment,
        through_cache,
        never_flush: config.cache == Cache::Unsafe,
        reported: AtomicU8::new(0),
    })
}

/// The same file without O_DIRECT; `None` where there is no /proc.
fn reopen(file: &File, read_only: bool) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .ok()
}

/// What O_DIRECT asks of offsets, lengths and addresses.
fn direct_alignment(file: &File, sector: u32) -> Alignment {
    // SAFETY: all zeros is a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path, with a terminator, names the file itself; the kernel writes at
    // most a `statx` to `stat`.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut stat,
        )
    };
    let known = result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0;
    if known && stat.stx_dio_offset_align.is_power_of_two() && stat.stx_dio_mem_align > 0 {
        return Alignment {
            length: stat.stx_dio_offset_align.max(sector),
            address: stat.stx_dio_mem_align,
        };
    }
    // Hosts before Linux 6.1: the logical block size for devices. For files it's that of the
    // device below, which a read of one sector tells.
    let mut buffer = vec![0; 8192];
    let start = buffer.as_ptr().align_offset(4096).min(4096);
    let length = match file.read_at(&mut buffer[start..start + SECTOR as usize], 0) {
        Ok(_) => sector,
        Err(_) => sector.max(4096),
    };
    Alignment {
        length,
        address: length,
    }
}
