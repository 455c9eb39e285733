//! Files that belong to one VM. They have no names, so that they are gone with the last who has them open, however that
//! comes; and they are where images are kept, which is no file system in the host's memory.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use motevm::image::cache::open_folder;

use super::error::RootfsError;

/// The file that `make` makes at the path that it is told. What is left of a shim that was killed meanwhile has the
/// name of a temporary file, as which it is removed when the cache is cleaned.
pub fn unnamed(
    cache: &Path,
    what: &str,
    make: impl FnOnce(&Path) -> Result<(), RootfsError>,
) -> Result<File, RootfsError> {
    open_folder(cache)?;
    let path = cache.join(format!(".{what}-{}.tmp", std::process::id()));
    // Of a process that had the number before.
    let _ = fs::remove_file(&path);
    let open = |()| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&path);
        file.map_err(RootfsError::io(&path))
    };
    let made = make(&path).and_then(open);
    let _ = fs::remove_file(&path);
    made
}
