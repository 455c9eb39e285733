//! Opens the image of a drive, whether its guest maps it or reads it by requests: refuses what is no
//! raw image, and takes its lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::blk::BlkError;
use crate::handed::{self, Access};

/// The logical block size of a file, in bytes.
pub(super) const SECTOR: u32 = 512;

/// An image that is open and locked.
pub(super) struct Image {
    /// With O_NONBLOCK, which whoever opens it takes back.
    pub file: File,
    /// Its size in bytes, not 0.
    pub size: u64,
    /// Its logical block size: 512 for a file.
    pub sector: u32,
    /// Whether it is a block device, not a file.
    pub is_block: bool,
}

impl Image {
    /// Opens the file or the block device at `path`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlkError> {
        let io = |operation| {
            move |source| BlkError::Io {
                path: path.to_owned(),
                operation,
                source,
            }
        };
        let file = open_file(path, read_only)?;
        let metadata = file.metadata().map_err(io("stat"))?;
        let is_block = metadata.file_type().is_block_device();
        if !is_block && !metadata.is_file() {
            let (path, what) = (path.to_owned(), kind(metadata.file_type()));
            return Err(BlkError::Type { path, what });
        }
        let (size, sector) = match is_block {
            true => block_geometry(&file).map_err(io("asking for its size"))?,
            false => (metadata.len(), SECTOR),
        };
        if size == 0 {
            let path = path.to_owned();
            return Err(BlkError::Empty { path });
        }
        lock(&file, path, read_only)?;
        check_raw(&file, path, size)?;
        Ok(Image {
            file,
            size,
            sector,
            is_block,
        })
    }
}

/// Refuses an image that isn't raw, by its first bytes.
fn check_raw(file: &File, path: &Path, size: u64) -> Result<(), BlkError> {
    let mut start = [0; 8];
    if size >= 8 {
        let result = file.read_exact_at(&mut start, 0);
        result.map_err(|source| BlkError::Io {
            path: path.to_owned(),
            operation: "reading",
            source,
        })?;
    }
    let format = match &start {
        b"vhdxfile" => "VHDX",
        b"conectix" => "VHD",
        [b'Q', b'F', b'I', 0xfb, ..] => "qcow2",
        [b'Q', b'E', b'D', 0, ..] => "QED",
        [b'K', b'D', b'M', b'V', ..] => "VMDK",
        _ => return Ok(()),
    };
    let path = path.to_owned();
    Err(BlkError::Format { path, format })
}

fn open_file(path: &Path, read_only: bool) -> Result<File, BlkError> {
    let access = if read_only {
        Access::Read
    } else {
        Access::Both
    };
    let mut options = OpenOptions::new();
    // Opening a pipe must not wait for its other end.
    options
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_NONBLOCK);
    handed::open(path, access, &options).map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::IsADirectory => BlkError::Type {
                path,
                what: "a directory",
            },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !read_only => {
                BlkError::NotWritable { path, source }
            }
            _ => BlkError::Io {
                path,
                operation: "opening",
                source,
            },
        }
    })
}

fn kind(file_type: std::fs::FileType) -> &'static str {
    match file_type {
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a named pipe",
        t if t.is_char_device() => "a character device",
        _ => "not a file",
    }
}

/// Two writers would destroy an image, and a reader beside a writer sees it change under its
/// file system.
fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), BlkError> {
    let (operation, remedy) = match read_only {
        true => (libc::LOCK_SH, "end the VM that writes it"),
        false => (
            libc::LOCK_EX,
            "only one VM may write an image; end the other, give each its own copy, \
             or add `ro` to all",
        ),
    };
    // SAFETY: takes no pointer.
    if unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let path = path.to_path_buf();
    let source = io::Error::last_os_error();
    if source.kind() == io::ErrorKind::WouldBlock {
        return Err(BlkError::Locked { path, remedy });
    }
    // Some network file systems have no locks; that's no reason not to use them.
    log::info!("drive {}: can't be locked: {source}", path.display());
    Ok(())
}

/// Size and logical block size of a block device.
fn block_geometry(file: &File) -> io::Result<(u64, u32)> {
    /// `_IOR(0x12, 114, size_t)`, linux/fs.h; not in the libc crate.
    const BLKGETSIZE64: u32 = 0x8008_1272;
    let mut size: u64 = 0;
    let mut sector: libc::c_int = 0;
    // SAFETY: the kernel writes 8 bytes to `size`.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as libc::Ioctl, &mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel writes an int to `sector`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut sector) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let sector = u32::try_from(sector).unwrap_or(0).max(SECTOR);
    Ok((size, sector))
}
