//! An overlay's layers, looked at without the overlay that containerd means: that one is written to.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::RootfsError;
use super::mounting::Mounted;
use super::options::Mounting;

/// The layers.
#[derive(Debug)]
pub struct Overlay {
    /// The uppermost first.
    pub lower: Vec<PathBuf>,
    /// What is written.
    pub upper: Option<PathBuf>,
    /// Whether no option says that the layers show something else than such layers do.
    pub is_plain: bool,
    /// Options that say how layers are read.
    reading: Vec<String>,
}

impl Overlay {
    /// `None` for one with options that aren't known here.
    pub fn read(mount: &Mounting) -> Result<Option<Self>, RootfsError> {
        let mut this = Overlay {
            lower: Vec::new(),
            upper: None,
            is_plain: true,
            reading: Vec::new(),
        };
        for option in &mount.data {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "lowerdir" => this.lower = layers(value),
                "upperdir" => this.upper = Some(value.into()),
                // Of writing only.
                "workdir" | "volatile" | "fsync" | "index" | "xino" | "uuid" | "nfs_export" => {}
                "userxattr" | "redirect_dir" | "metacopy" => {
                    this.is_plain = false;
                    this.reading.push(option.clone());
                }
                _ => return Ok(None),
            }
        }
        let mut all = this.lower.iter().chain(&this.upper);
        if this.lower.is_empty() {
            return Err(mount.wrong("has no lowerdir"));
        }
        if !all.all(|path| path.is_absolute()) {
            return Err(mount.wrong("lowerdir and upperdir have to be absolute paths"));
        }
        Ok(Some(this))
    }

    /// Whether somebody has written already, as into a container that is started anew.
    pub fn has_changes(&self) -> Result<bool, RootfsError> {
        let Some(upper) = &self.upper else {
            return Ok(false);
        };
        let mut entries = fs::read_dir(upper).map_err(RootfsError::io(upper))?;
        Ok(entries.next().is_some())
    }

    /// The layers that make the view.
    pub fn shown(&self, with_upper: bool) -> Vec<PathBuf> {
        let upper = self.upper.iter().filter(|_| with_upper);
        upper.chain(&self.lower).cloned().collect()
    }

    /// All of them as layers that are only read. Their paths may hold anything, and be longer together than what a
    /// mount takes: the kernel gets them by the numbers of open files.
    pub fn mount_read_only(&self, folders: &[PathBuf], at: &Path) -> Result<Mounted, RootfsError> {
        let (layers, _open) = by_number(folders)?;
        let mut data = format!("lowerdir={layers}");
        for option in &self.reading {
            data.push(',');
            data.push_str(option);
        }
        Mounted::overlay(&data, at)
    }
}

/// Paths that lead to the folders while they are open.
pub fn by_number(folders: &[PathBuf]) -> Result<(String, Vec<File>), RootfsError> {
    let mut open = Vec::new();
    for folder in folders {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(folder);
        open.push(file.map_err(RootfsError::io(folder))?);
    }
    let paths = open
        .iter()
        .map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok((paths.collect::<Vec<_>>().join(":"), open))
}

/// The parts of lowerdir: between colons, with what follows a backslash as it is.
pub fn layers(text: &str) -> Vec<PathBuf> {
    let mut layers = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let last = layers.len() - 1;
        match character {
            ':' => layers.push(String::new()),
            '\\' => layers[last].extend(characters.next()),
            other => layers[last].push(other),
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers.into_iter().map(PathBuf::from).collect()
}
