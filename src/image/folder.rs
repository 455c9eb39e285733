//! An image of a folder of the host: what a container's snapshot shows, as the root file system of a VM.
//!
//! A folder that is put together of others that don't change (an overlay of committed snapshots) is found again by
//! what identifies those, without a look at what is in them.

mod attributes;
mod walk;

#[cfg(test)]
pub(super) mod tests;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::cache::{SUFFIX, clean, create, is_there, kept, rename};
use super::erofs::Content;
use super::error::ImageError;
use super::source::hex;
use super::tree::MOST_KEPT;

/// Raised when the images of the same folders are others.
const RECIPE: u32 = 2;

/// Bytes that the images of a cache may take, where nobody says how many.
pub const KEEP: u64 = 8 << 30;

/// Tells how many files of how many bytes are in the image so far.
pub type OnFiles<'a> = &'a mut dyn FnMut(u64, u64);

/// Makes an image of `folder`; it has its name once it is whole.
///
/// What changes meanwhile is in it as it was at one time or another, and what goes may be missing.
///
/// # Errors
///
/// The folder can't be read, the image can't be written, or a file has what can't be in one.
pub fn make(folder: &Path, image: &Path, progress: OnFiles) -> Result<(), ImageError> {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let temporary = image.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    // Of a process that had the number before.
    let _ = fs::remove_file(&temporary);
    let made = write(folder, &temporary, progress).and_then(|()| rename(&temporary, image));
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made
}

/// The image of a view of `folders` (an overlay's lower ones, the uppermost first), if it is in `cache`.
///
/// # Errors
///
/// One of the folders can't be looked at.
pub fn find(folders: &[PathBuf], cache: &Path) -> Result<Option<PathBuf>, ImageError> {
    let path = cache.join(format!("{}{SUFFIX}", key(folders)?));
    Ok(is_there(&path).then_some(path))
}

/// The image of `view`, which shows `folders`, made in `cache` if it isn't there.
///
/// Of the images there, those that nobody wanted for the longest time go until they take no more than `keep` bytes;
/// never this one, nor one that was wanted within the last minute. Whoever has one open still reads it.
///
/// # Errors
///
/// As [`make`]; or other users can write to the cache.
pub fn cached(
    folders: &[PathBuf],
    view: &Path,
    cache: &Path,
    keep: u64,
    progress: OnFiles,
) -> Result<PathBuf, ImageError> {
    let name = key(folders)?;
    let (path, was_there) = kept(cache, &name, SUFFIX, |temporary| {
        write(view, temporary, progress)
    })?;
    if !was_there {
        clean(cache, keep, &path);
    }
    Ok(path)
}

fn write(folder: &Path, path: &Path, progress: OnFiles) -> Result<(), ImageError> {
    let mut content = Content::new(create(path)?);
    let tree = walk::walk(folder, &mut content, path, MOST_KEPT, progress)?;
    let file = content.finish(&tree).map_err(ImageError::io(path))?;
    file.sync_all().map_err(ImageError::io(path))
}

/// What tells folders from all others, those too that had their paths and numbers before: when they were made, when
/// they were changed last, and all of it of the folders that they are in, which are made with them.
fn key(folders: &[PathBuf]) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    hash.update(b"folders");
    hash.update(RECIPE.to_le_bytes());
    for folder in folders {
        let path = folder.as_os_str().as_bytes();
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        for path in [folder, &folder.join("..")] {
            let of = fs::metadata(path).map_err(ImageError::io(path))?;
            // Not every file system knows it.
            let made = of.created().ok();
            let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok());
            hash.update(made.unwrap_or_default().as_nanos().to_le_bytes());
            hash.update(of.dev().to_le_bytes());
            hash.update(of.ino().to_le_bytes());
            for time in [of.ctime(), of.ctime_nsec(), of.mtime(), of.mtime_nsec()] {
                hash.update(time.to_le_bytes());
            }
        }
    }
    Ok(hex(&hash.finalize()))
}
