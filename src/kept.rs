//! Files that mote keeps for later in a folder of the user's, where nothing is trusted for being there: what unpacked
//! kernels ([`crate::boot`]) and images' root file systems ([`crate::image`]) have in common.
//!
//! The folder must be a real directory of this user that nobody else can write to, an entry likewise a real file. An
//! entry's time of change is that of its last use.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What names of files end in that aren't whole yet; they begin with a dot.
pub const TEMPORARY_SUFFIX: &str = ".tmp";
/// A temporary file of this age was left by a process that died.
const STALE: Duration = Duration::from_secs(3600);

/// Checks the folder, or makes it (mode 0700).
pub fn open_folder(folder: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
            fs::symlink_metadata(folder)?
        }
        other => other?,
    };
    if !metadata.is_dir() {
        return Err(refused("it is not a directory (or a link to one)"));
    }
    check_owner(&metadata)
}

/// Opens an entry without following a link or waiting for a pipe's other end.
pub fn open_entry(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused("it is not a regular file"));
    }
    check_owner(&metadata)?;
    Ok((file, metadata))
}

/// Checks that nobody but this user could have written to it.
fn check_owner(metadata: &Metadata) -> io::Result<()> {
    // SAFETY: geteuid takes nothing, changes nothing and can't fail.
    let user = unsafe { libc::geteuid() };
    if metadata.uid() != user {
        Err(refused("it belongs to another user"))
    } else if metadata.mode() & 0o022 != 0 {
        Err(refused("other users can write to it"))
    } else {
        Ok(())
    }
}

/// Makes the entry count as used now, if it was last used longer ago than `precision`.
pub fn note_use(file: &File, metadata: &Metadata, precision: Duration) {
    let now = SystemTime::now();
    let old = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age > precision);
    if metadata.modified().is_ok_and(old) {
        let _ = file.set_modified(now);
    }
}

/// Removes what is too much or too old: `stays` is asked of the entries, which end in this, from the one that was used
/// last on, by its path, its length and its age. Files that aren't known stay.
pub fn clean(folder: &Path, suffix: &str, mut stays: impl FnMut(&Path, u64, Duration) -> bool) {
    let Ok(files) = fs::read_dir(folder) else {
        return;
    };
    let now = SystemTime::now();
    // Of the future, where the clock was set back: none.
    let age = |time| now.duration_since(time).unwrap_or_default();
    let mut entries = Vec::new();
    for file in files.flatten() {
        let Ok(metadata) = file.metadata() else {
            continue;
        };
        let Ok(time) = metadata.modified() else {
            continue;
        };
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX) {
            if age(time) > STALE {
                let _ = fs::remove_file(file.path());
            }
        } else if name.ends_with(suffix) {
            entries.push((time, file.path(), metadata.len()));
        }
    }
    entries.sort_unstable_by(|a, b| b.cmp(a));
    for (time, path, length) in entries {
        if !stays(&path, length, age(time)) {
            let _ = fs::remove_file(path);
        }
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
