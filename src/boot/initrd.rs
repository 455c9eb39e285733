//! Places the initrd: as high as it may be, so that it is in nobody's way.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::kernel::{Entry, LoadedKernel};
use super::segments::{ram_end, ram_start};
use super::source::pread_to_guest;
use crate::handed::{self, Access};

/// The initrd starts on a page, as Linux wants it.
const PAGE_SIZE: u64 = 4096;
/// On arm64 the initrd "must reside entirely within a 1 GB aligned physical memory window of up to 32
/// GB in size that fully covers the kernel Image as well" (booting.rst).
const ARM64_WINDOW: u64 = 32 << 30;
const ARM64_WINDOW_ALIGNMENT: u64 = 1 << 30;

/// Where the initrd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitrdRange {
    /// Its first address, a multiple of 4096.
    pub start: GuestAddress,
    /// Its size in bytes.
    pub size: u64,
}

/// Why an initrd can't be loaded. Each message is one whole line with the path in it.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum InitrdError {
    #[error("cannot open the initrd {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("the initrd {path} is not a regular file: give an archive made by cpio")]
    NotAFile { path: PathBuf },
    #[error("the initrd {path} is empty: build it again, or leave --initrd out")]
    Empty { path: PathBuf },
    #[error(
        "the initrd {path} ({size} bytes) doesn't fit between the kernel's end at {kernel_end:#x} \
         and {highest:#x}: {}", remedy(*needed_mib)
    )]
    TooLarge {
        path: PathBuf,
        size: u64,
        kernel_end: u64,
        highest: u64,
        /// The memory in MiB that would hold it; `None` where no size would.
        needed_mib: Option<u64>,
    },
    #[error("cannot read the initrd {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

fn remedy(needed_mib: Option<u64>) -> String {
    match needed_mib {
        Some(mib) => format!("give the VM --memory {mib}M at least, or make it smaller"),
        None => "make it smaller, or use a root filesystem on a drive".into(),
    }
}

/// Loads an initrd to the highest page at which it ends at or below `highest`, in the RAM that
/// holds the kernel, and above the kernel, where the kernel's boot protocol lets it be.
///
/// # Errors
///
/// See [`InitrdError`].
pub fn load_initrd(
    path: &Path,
    memory: &GuestMemoryMmap<()>,
    kernel: &LoadedKernel,
    highest: u64,
) -> Result<InitrdRange, InitrdError> {
    let owned = || path.to_path_buf();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK); // opening a FIFO must not wait for a writer
    let (metadata, file) = handed::open(path, Access::Read, &options)
        .and_then(|file| Ok((file.metadata()?, file)))
        .map_err(|source| InitrdError::Open {
            path: owned(),
            source,
        })?;
    if !metadata.is_file() {
        return Err(InitrdError::NotAFile { path: owned() });
    }
    let size = metadata.len();
    if size == 0 {
        return Err(InitrdError::Empty { path: owned() });
    }
    let start = place(size, memory, kernel, highest).map_err(|error| InitrdError::TooLarge {
        path: owned(),
        size,
        kernel_end: kernel.end.0,
        highest: error.highest,
        needed_mib: error.needed_mib,
    })?;
    pread_to_guest(&file, 0, size as usize, memory, start).map_err(|source| InitrdError::Read {
        path: owned(),
        source,
    })?;
    Ok(InitrdRange { start, size })
}

/// Why there is no place.
struct NoPlace {
    highest: u64,
    needed_mib: Option<u64>,
}

fn place(
    size: u64,
    memory: &GuestMemoryMmap<()>,
    kernel: &LoadedKernel,
    highest: u64,
) -> Result<GuestAddress, NoPlace> {
    let ram_end = ram_end(memory, kernel.start.0).unwrap_or(0);
    // As far as it may be, however much RAM there is.
    let highest = highest.min(match kernel.entry {
        Entry::Pvh(_) | Entry::Linux64(_) => super::HIGHEST_KERNEL_ADDRESS,
        Entry::Arm64(_) => {
            let start = kernel.start.0 - kernel.start.0 % ARM64_WINDOW_ALIGNMENT;
            start.saturating_add(ARM64_WINDOW)
        }
    });
    let limit = ram_end.min(highest);
    let start = limit
        .checked_sub(size)
        .map(|start| start - start % PAGE_SIZE);
    match start {
        Some(start) if start >= kernel.end.0 => Ok(GuestAddress(start)),
        _ => {
            // More memory helps only up to there.
            let end = kernel
                .end
                .0
                .checked_next_multiple_of(PAGE_SIZE)
                .and_then(|start| start.checked_add(size))
                .filter(|end| *end <= highest && highest > ram_end);
            // A machine's RAM need not begin at 0.
            let needed_mib = end.map(|end| (end - ram_start(memory)).div_ceil(1 << 20));
            Err(NoPlace {
                highest: limit,
                needed_mib,
            })
        }
    }
}
