//! The folder of unpacked kernels.
//!
//! An entry is named by the BLAKE3 hash of the compressed kernel, so that it can't be for
//! another content, not even by intent. (Measured on 11.4 MB: BLAKE3 1.8 ms; SHA-256 6.3 ms
//! with SHA-NI and 29 ms without; unpacking the same kernel takes 260 ms. A key out of the
//! file's inode and times would cost nothing, but read-only images mounted one after the other
//! can agree in all of these and differ in content.)
//!
//! Nothing in the folder is trusted for being there:
//!
//! - the folder must be a real directory of this user that nobody else can write to, else it
//!   isn't used; an entry likewise a real file (never a link), else it is replaced;
//! - an entry's stamp must be for this content, this length, with the right checksums (see
//!   [`super::packed`]), and the ELF loader checks it like any other kernel;
//! - an entry appears under its name by `rename`, whole: processes that unpack the same kernel
//!   at once do the work twice, and the last one's entry stays.
//!
//! No failure here stops a VM: without the cache the kernel is unpacked each time.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::packed::Key;

/// How many kernels are kept; those used longest ago are removed.
const MAX_ENTRIES: usize = 8;
/// For an arm64 Image too.
const SUFFIX: &str = ".vmlinux";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// A temporary file of this age was left by a process that died.
const STALE: Duration = Duration::from_secs(3600);
/// An entry's time of use is brought up to date when it is older than this: a system call
/// once a day instead of at each start.
const USE_PRECISION: Duration = Duration::from_secs(24 * 3600);

/// Makes temporary names unique among the threads of this process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// What the user lets mote keep: `mote` in `$XDG_CACHE_HOME`, or else in `~/.cache`; `None`
/// where neither is known (a relative path counts as none, as the XDG specification has it).
pub fn user_folder() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("mote"))
}

/// Where unpacked kernels are kept by default: `kernels` in [`user_folder`].
pub fn default_folder() -> Option<PathBuf> {
    Some(user_folder()?.join("kernels"))
}

/// A folder of unpacked kernels that was found to be this user's own.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the folder, or makes it (mode 0700).
    pub fn open(folder: &Path) -> io::Result<Cache> {
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
        check_owner(&metadata)?;
        Ok(Cache {
            folder: folder.to_path_buf(),
        })
    }

    /// Opens the entry for `key` and tells its length in bytes. `None` where there is none; one
    /// that can't be trusted is removed.
    pub fn find(&self, key: &Key) -> Option<(File, u64)> {
        let path = self.entry(key);
        match open_entry(&path) {
            Ok((file, metadata)) => {
                note_use(&file, &metadata);
                Some((file, metadata.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.remove(key, &error.to_string());
                None
            }
        }
    }

    /// Removes the entry for `key`, which turned out to be wrong.
    pub fn remove(&self, key: &Key, why: &str) {
        let path = self.entry(key);
        log::warn!("the cached kernel {} is not used: {why}", path.display());
        if let Err(error) = fs::remove_file(&path) {
            log::debug!("cannot remove {}: {error}", path.display());
        }
    }

    /// Stores what `write` writes as the entry for `key`.
    pub fn store(
        &self,
        key: &Key,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let temporary = self.folder.join(format!(
            ".{}-{}{TEMPORARY_SUFFIX}",
            std::process::id(),
            NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed),
        ));
        // A process with the same number may have died here. (One in another PID namespace
        // may be alive: then its rename fails, or ours, and one of the entries stays.)
        let _ = fs::remove_file(&temporary);
        let result = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| write(&mut file))
            .and_then(|()| fs::rename(&temporary, self.entry(key)));
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        self.clean();
        result
    }

    fn entry(&self, key: &Key) -> PathBuf {
        let mut name = String::with_capacity(2 * key.len() + SUFFIX.len());
        for byte in key {
            name.push_str(&format!("{byte:02x}"));
        }
        name.push_str(SUFFIX);
        self.folder.join(name)
    }

    /// Removes what is too much or too old. Files that the cache doesn't know stay.
    fn clean(&self) {
        let Ok(files) = fs::read_dir(&self.folder) else {
            return;
        };
        let now = SystemTime::now();
        let mut entries = Vec::new();
        for file in files.flatten() {
            let Ok(time) = file.metadata().and_then(|metadata| metadata.modified()) else {
                continue;
            };
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(SUFFIX) {
                entries.push((time, file.path()));
            } else if name.starts_with('.')
                && name.ends_with(TEMPORARY_SUFFIX)
                && now.duration_since(time).is_ok_and(|age| age > STALE)
            {
                let _ = fs::remove_file(file.path());
            }
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        for (_, path) in entries.iter().skip(MAX_ENTRIES) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens an entry without following a link or waiting for a pipe's other end.
fn open_entry(path: &Path) -> io::Result<(File, Metadata)> {
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

/// Makes the entry count as used today.
fn note_use(file: &File, metadata: &Metadata) {
    let now = SystemTime::now();
    let old = |time: SystemTime| {
        now.duration_since(time)
            .is_ok_and(|age| age > USE_PRECISION)
    };
    if metadata.modified().is_ok_and(old) {
        let _ = file.set_modified(now);
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
