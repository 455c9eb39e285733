//! The file that shows a VM's metrics: a path, at which there is always a whole one, or a descriptor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Registry;
use super::export::ExportError;
use crate::handed::{self, Access};

/// Where the text goes, again and again.
pub(super) struct Target {
    path: PathBuf,
    /// A file that was handed over: it can't be replaced, only written over.
    file: Option<File>,
}

impl Target {
    /// Makes the file, with nothing in it yet.
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        let path = path.to_owned();
        let opened = match handed::number(&path) {
            Some(_) => open_handed(&path).map(Some),
            None => Ok(None),
        };
        let target = opened.and_then(|file| {
            let path = path.clone();
            let target = Target { path, file };
            target.write("")?;
            Ok(target)
        });
        target.map_err(|source| ExportError::File { path, source })
    }

    /// Writes the counts of now.
    pub fn update(&self, registry: &Registry) {
        if let Err(error) = self.write(&registry.render()) {
            log::warn!("--metrics file={}: {error}", self.path.display());
        }
    }

    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        match &self.file {
            Some(file) => {
                file.write_all_at(text.as_bytes(), 0)?;
                file.set_len(text.len() as u64)
            }
            None => replace(&self.path, text),
        }
    }
}

fn open_handed(path: &Path) -> io::Result<File> {
    let file = handed::open(path, Access::Write, &OpenOptions::new())?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it isn't a regular file, which is written over each time",
        )),
    }
}

/// Under another name first, so that whoever reads the file never sees half of it. What has that
/// name already is removed, not followed: in a folder that others may write to, it could be a link
/// to a file of the user's.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {
            // Not to be read, which Landlock would refuse.
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).open(&new)?;
            file.write_all(text.as_bytes())?;
        }
    }
    fs::rename(&new, path).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}
