//! Room in a cache: images that nobody wanted for long go.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::image::cache::{is_at, is_own_file};
use crate::image::error::ImageError;

/// Whoever found an image has opened it by then.
const YOUNG: Duration = Duration::from_secs(60);

/// Notes that an image is wanted now, in the time of its file. Where that can't be done it goes sooner.
pub fn touch(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
    }
}

/// Takes images away, the longest unwanted first, until there are `keep` bytes; and what dead makers have left.
pub fn evict(cache: &Path, keep: u64, but: &Path) -> Result<(), ImageError> {
    let mut images: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    let entries = fs::read_dir(cache).map_err(ImageError::io(cache))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        // Another one may take it away first.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let wanted = metadata.modified().unwrap_or(SystemTime::now());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("erofs") if is_own_file(&path) => {
                images.push((wanted, metadata.blocks() * 512, path));
            }
            Some("tmp") if is_old(wanted) => remove_left(&path),
            _ => {}
        }
    }
    images.sort();
    let mut all: u64 = images.iter().map(|(_, size, _)| size).sum();
    for (wanted, size, path) in images {
        if all <= keep || !is_old(wanted) {
            break;
        }
        if path != but && fs::remove_file(&path).is_ok() {
            all -= size;
        }
    }
    Ok(())
}

fn is_old(wanted: SystemTime) -> bool {
    // One of the future, by a clock that was set back, isn't.
    wanted.elapsed().is_ok_and(|since| since >= YOUNG)
}

/// A file that was being made, if nobody makes it any more: then the lock is free.
fn remove_left(temporary: &Path) {
    let name = temporary.file_stem().and_then(|name| name.to_str());
    let Some(name) = name.and_then(|name| name.strip_prefix('.')) else {
        return;
    };
    let lock_path = temporary.with_file_name(format!("{name}.lock"));
    let Ok(lock) = File::open(&lock_path) else {
        return;
    };
    if lock.try_lock().is_ok() && is_at(&lock, &lock_path) {
        let _ = fs::remove_file(temporary);
        let _ = fs::remove_file(&lock_path);
    }
}
