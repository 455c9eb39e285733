//! Disks for what containers write: sparse files with an empty ext4, each a copy of one that mke2fs made.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use motevm::image::cache::kept;

use super::error::RootfsError;
use super::unnamed::unnamed;

/// Raised when the disks that are made are others.
const RECIPE: u32 = 1;
/// What ext4 makes sense in, and what blocks of 4 KiB can be numbered with 32 bits for.
const LEAST: u64 = 4 << 20;
const MOST: u64 = 16 << 40;
const BLOCK: u64 = 4096;

/// Nothing that a disk needs which nobody reads after its VM: no journal, no reserve, no copies of the superblock.
/// What is to be zero is zero already, so that nothing is written but some 100 KiB.
const OPTIONS: &[&str] = &[
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-m",
    "0",
    "-O",
    "^has_journal,^resize_inode,sparse_super2",
    "-E",
    "packed_meta_blocks=1,num_backup_sb=0,lazy_itable_init=1,nodiscard,root_owner=0:0",
];

/// A file of `size` bytes with an empty ext4.
///
/// # Errors
///
/// There is no mke2fs, the file can't be written, or no disk is that large.
pub fn scratch(size: u64, cache: &Path) -> Result<File, RootfsError> {
    if !(LEAST..=MOST - BLOCK).contains(&size) {
        return Err(RootfsError::Size(size));
    }
    let size = size.next_multiple_of(BLOCK);
    let name = format!("scratch-{RECIPE}-{size}");
    let (template, _) = kept(cache, &name, ".ext4", |path| make(path, size))?;
    unnamed(cache, "upper", |path| {
        let template = File::open(&template).map_err(RootfsError::io(&template))?;
        copy(template, &create(path)?, size).map_err(RootfsError::io(path))
    })
}

fn create(path: &Path) -> Result<File, RootfsError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(RootfsError::io(path))
}

fn make(path: &Path, size: u64) -> Result<(), RootfsError> {
    let file = create(path)?;
    file.set_len(size).map_err(RootfsError::io(path))?;
    // Where it is if nobody's PATH leads to it.
    for program in ["mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"] {
        match Command::new(program).args(OPTIONS).arg(path).output() {
            Ok(output) if output.status.success() => {
                return file.sync_all().map_err(RootfsError::io(path));
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                return Err(RootfsError::Mke2fs(text.trim().to_owned()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(RootfsError::io(Path::new(program))(error)),
        }
    }
    Err(RootfsError::NoMke2fs)
}

/// By reference where the file system can; else what isn't a hole.
fn copy(mut from: File, mut to: &File, size: u64) -> io::Result<()> {
    // SAFETY: takes a file's number.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) } == 0 {
        return Ok(());
    }
    to.set_len(size)?;
    let mut at = 0;
    while let Some(start) = seek(&from, at, libc::SEEK_DATA)? {
        let end = seek(&from, start, libc::SEEK_HOLE)?.unwrap_or(size);
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&from).take(end - start), &mut to)?;
        at = end;
    }
    Ok(())
}

/// The next data, or hole; `None` where there is none.
fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: takes no pointer.
    let found = unsafe { libc::lseek64(file.as_raw_fd(), at as i64, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}
