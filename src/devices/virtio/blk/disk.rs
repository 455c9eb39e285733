//! Reads, writes and the rest, between a file of the host and guest memory.
//!
//! Nothing is mapped: an image that shrinks gives an error, not a SIGBUS.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::devices::virtio::buffers::GuestBytes;

/// The unit of virtio-blk's sector numbers, whatever the disk's block size (§5.2.4).
pub const SECTOR: u64 = 512;

/// The most that is copied at once where O_DIRECT can't use guest memory.
const BOUNCE: usize = 1 << 20;
/// Zeros that are written at once where the host can't do it by itself.
const ZEROES: usize = 64 * 1024;

/// What O_DIRECT asks of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Alignment {
    /// Of offsets and lengths.
    pub length: u32,
    /// Of addresses in memory.
    pub address: u32,
}

/// An open image.
pub struct Disk {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) block_size: u32,
    pub(super) physical_block_size: u32,
    pub(super) read_only: bool,
    pub(super) is_block: bool,
    pub(super) direct: Option<Alignment>,
    /// For what O_DIRECT can't take: parts of its blocks.
    pub(super) through_cache: Option<File>,
    /// Writes become durable whenever the host likes.
    pub(super) never_flush: bool,
    /// Which kinds of errors the log has seen.
    pub(super) reported: AtomicU8,
}

/// How a transfer reaches the file.
enum Way<'a> {
    /// From or to guest memory.
    Plain,
    /// By a copy that is aligned as O_DIRECT asks.
    Bounced,
    /// By the page cache, though the drive has O_DIRECT. The kernel keeps the two consistent.
    ThroughCache(&'a File),
}

impl Disk {
    /// In bytes; a multiple of the block size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The smallest unit that the guest can read and write, in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The smallest unit that the host reads and writes at once, in bytes.
    pub fn physical_block_size(&self) -> u32 {
        self.physical_block_size
    }

    /// Whether the guest may only read.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it's a block device of the host, and not a file.
    pub fn is_block_device(&self) -> bool {
        self.is_block
    }

    /// Whether a flush, or a durable write, does anything.
    pub fn flushes(&self) -> bool {
        !self.never_flush
    }

    /// Whether the host can move `data` from or to `offset` as it is.
    pub fn is_plain(&self, data: &GuestBytes, offset: u64) -> bool {
        matches!(self.way(data, offset), Ok(Way::Plain))
    }

    /// Fills `data` from `offset` on. `bounce` is kept by the caller from one call to the next.
    ///
    /// # Errors
    ///
    /// The host's, or `UnexpectedEof` where the image has shrunk, or `InvalidInput` where
    /// `offset` or the length is no multiple of the block size that O_DIRECT needs.
    pub fn read(&self, data: &mut GuestBytes, offset: u64, bounce: &mut Vec<u8>) -> io::Result<()> {
        let fd = match self.way(data, offset)? {
            Way::Plain => self.file.as_raw_fd(),
            Way::Bounced => return self.read_bounced(data, offset, bounce),
            Way::ThroughCache(file) => file.as_raw_fd(),
        };
        transfer(data, offset, |iov, count, offset| {
            // SAFETY: the kernel writes guest memory that `data` keeps mapped and says is
            // `count` pieces.
            unsafe { libc::preadv(fd, iov, count, offset) }
        })
    }

    /// Writes `data` from `offset` on; `sync` for data that is durable on return.
    ///
    /// # Errors
    ///
    /// The host's, or `InvalidInput` where `offset` or the length is no multiple of the block size
    /// that O_DIRECT needs.
    pub fn write(
        &self,
        data: &mut GuestBytes,
        offset: u64,
        sync: bool,
        bounce: &mut Vec<u8>,
    ) -> io::Result<()> {
        let fd = match self.way(data, offset)? {
            Way::Plain => self.file.as_raw_fd(),
            Way::Bounced => {
                self.write_bounced(data, offset, bounce)?;
                return if sync { self.flush() } else { Ok(()) };
            }
            Way::ThroughCache(file) => file.as_raw_fd(),
        };
        transfer(data, offset, |iov, count, offset| {
            match sync && !self.never_flush {
                // SAFETY: the kernel reads guest memory that `data` keeps mapped and says is
                // `count` pieces.
                false => unsafe { libc::pwritev(fd, iov, count, offset) },
                // SAFETY: as above.
                true => unsafe { libc::pwritev2(fd, iov, count, offset, libc::RWF_DSYNC) },
            }
        })
    }

    /// Makes durable what was written, unless the user does without.
    ///
    /// # Errors
    ///
    /// The host's: then nothing is known of what is durable.
    pub fn flush(&self) -> io::Result<()> {
        match self.never_flush {
            true => Ok(()),
            false => self.file.sync_data(),
        }
    }

    /// The guest doesn't need these bytes any more. It's a hint: a host that can't is fine.
    ///
    /// # Errors
    ///
    /// The host's, but for one that only says that it can't.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = match self.is_block {
            true => self.discard_blocks(offset, len),
            false => self.fallocate(fallocate_mode(true), offset, len),
        };
        result.or_else(|error| {
            if unsupported(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })
    }

    /// Zeros, without allocated blocks if the guest doesn't mind (`unmap`) and the host can.
    ///
    /// # Errors
    ///
    /// The host's, such as a full disk.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let punch: &[bool] = match unmap {
            true => &[true, false],
            false => &[false],
        };
        for punch in punch {
            match self.fallocate(fallocate_mode(*punch), offset, len) {
                Err(error) if unsupported(&error) => {}
                result => return result,
            }
        }
        let file = self.through_cache.as_ref().unwrap_or(&self.file);
        let buffer = vec![0; ZEROES + 4096];
        let start = buffer.as_ptr().align_offset(4096).min(4096);
        let zeros = &buffer[start..start + ZEROES];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(ZEROES as u64);
            file.write_all_at(&zeros[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Says on the host's log that a request failed, once for each kind of error.
    pub fn report(&self, what: &str, offset: u64, error: &io::Error) {
        let path = self.path.display();
        let (kind, remedy) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                1,
                ": the host's disk is full; the guest gets I/O errors until there's room",
            ),
            io::ErrorKind::UnexpectedEof => (2, ": the image has shrunk while in use"),
            _ => (4, ""),
        };
        let level = match self.reported.fetch_or(kind, Ordering::Relaxed) & kind {
            0 => log::Level::Warn,
            _ => log::Level::Debug,
        };
        log::log!(
            level,
            "drive {path}: {what} at byte {offset}: {error}{remedy}"
        );
    }

    /// Says on the host's log, once, that there is no io_uring for the drive.
    pub fn report_no_ring(&self, error: &io::Error) {
        const NO_RING: u8 = 8;
        if self.reported.fetch_or(NO_RING, Ordering::Relaxed) & NO_RING == 0 {
            let path = self.path.display();
            let why = match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "forbidden here, by kernel.io_uring_disabled or a seccomp filter"
                }
                Some(libc::ENOSYS) => "not in this host's kernel",
                _ if error.kind() == io::ErrorKind::Unsupported => {
                    "too old in this host's kernel: Linux 5.10 is needed"
                }
                _ => "not to be had",
            };
            log::warn!("drive {path}: io_uring is {why} ({error}): engine=threads is used");
        }
    }

    /// How to move `data`. Where there is no other way than O_DIRECT, an offset that it can't take
    /// is an error: the guest knows the block size.
    fn way(&self, data: &GuestBytes, offset: u64) -> io::Result<Way<'_>> {
        let Some(direct) = self.direct else {
            return Ok(Way::Plain);
        };
        let block = u64::from(direct.length);
        if !offset.is_multiple_of(block) || !(data.len() as u64).is_multiple_of(block) {
            return match &self.through_cache {
                Some(file) => Ok(Way::ThroughCache(file)),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("not a multiple of the block size, {block}"),
                )),
            };
        }
        match data.is_aligned(direct.address as usize, direct.length as usize) {
            true => Ok(Way::Plain),
            false => Ok(Way::Bounced),
        }
    }

    fn read_bounced(
        &self,
        data: &mut GuestBytes,
        mut offset: u64,
        bounce: &mut Vec<u8>,
    ) -> io::Result<()> {
        while !data.is_empty() {
            let buffer = aligned(bounce, data.len());
            self.file.read_exact_at(buffer, offset)?;
            offset += data.write(buffer) as u64;
        }
        Ok(())
    }

    fn write_bounced(
        &self,
        data: &mut GuestBytes,
        mut offset: u64,
        bounce: &mut Vec<u8>,
    ) -> io::Result<()> {
        while !data.is_empty() {
            let buffer = aligned(bounce, data.len());
            let count = data.read(buffer);
            self.file.write_all_at(&buffer[..count], offset)?;
            offset += count as u64;
        }
        Ok(())
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let range = (offset as libc::off_t, len as libc::off_t);
        retry(|| {
            // SAFETY: takes no pointer.
            unsafe { libc::fallocate(self.file.as_raw_fd(), mode, range.0, range.1) as isize }
        })
        .map(drop)
    }

    fn discard_blocks(&self, offset: u64, len: u64) -> io::Result<()> {
        /// `_IO(0x12, 119)`, linux/fs.h; not in the libc crate.
        const BLKDISCARD: u32 = 0x1277;
        let range = [offset, len];
        retry(|| {
            // SAFETY: the kernel reads two u64.
            let result = unsafe {
                libc::ioctl(
                    self.file.as_raw_fd(),
                    BLKDISCARD as libc::Ioctl,
                    range.as_ptr(),
                )
            };
            result as isize
        })
        .map(drop)
    }
}

impl AsRawFd for Disk {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Makes a hole, or zeros that have their blocks.
pub fn fallocate_mode(punch: bool) -> i32 {
    libc::FALLOC_FL_KEEP_SIZE
        | match punch {
            true => libc::FALLOC_FL_PUNCH_HOLE,
            false => libc::FALLOC_FL_ZERO_RANGE,
        }
}

/// Moves all of `data` by as many calls of preadv or pwritev as it takes.
fn transfer(
    data: &mut GuestBytes,
    mut offset: u64,
    mut call: impl FnMut(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    while !data.is_empty() {
        let pieces = data.iovecs();
        let (iov, len) = (pieces.as_ptr(), pieces.len() as libc::c_int);
        match retry(|| call(iov, len, offset as libc::off_t))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                data.advance(count);
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// Again for as long as a signal interrupts it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Some drivers say EINVAL or ENOTTY for what they don't have.
fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL)
    )
}

/// The start of `buffer`, at a page's boundary; `len` bytes if that's not too many.
fn aligned(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    const PAGE: usize = 4096;
    let len = len.min(BOUNCE);
    if buffer.len() < len + PAGE {
        buffer.resize(len + PAGE, 0);
    }
    let start = buffer.as_ptr().align_offset(PAGE).min(PAGE);
    &mut buffer[start..start + len]
}
