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
//!   isn't used; an entry likewise a real file (never a link), else it is replaced (see [`kept`]);
//! - an entry's stamp must be for this content, this length, with the right checksums (see
//!   [`super::packed`]), and the ELF loader checks it like any other kernel;
//! - an entry appears under its name by `rename`, whole: processes that unpack the same kernel
//!   at once do the work twice, and the last one's entry stays.
//!
//! No failure here stops a VM: without the cache the kernel is unpacked each time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::packed::Key;
use crate::kept::{self, TEMPORARY_SUFFIX};

/// How many kernels are kept; those used longest ago are removed.
const MAX_ENTRIES: usize = 8;
/// For an arm64 Image too.
const SUFFIX: &str = ".vmlinux";
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
        kept::open_folder(folder)?;
        Ok(Cache {
            folder: folder.to_path_buf(),
        })
    }

    /// Opens the entry for `key` and tells its length in bytes. `None` where there is none; one
    /// that can't be trusted is removed.
    pub fn find(&self, key: &Key) -> Option<(File, u64)> {
        let path = self.entry(key);
        match kept::open_entry(&path) {
            Ok((file, metadata)) => {
                kept::note_use(&file, &metadata, USE_PRECISION);
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
        let mut kernels = 0;
        kept::clean(&self.folder, SUFFIX, |_, _, _| {
            kernels += 1;
            kernels <= MAX_ENTRIES
        });
    }
}
