//! Where the host's /proc, /sys and /dev are: at `/`, or in a folder that a test has filled.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder that stands for `/`.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Root(PathBuf::from("/"))
    }
}

impl Root {
    /// A root elsewhere: the /proc and /sys of another host, say.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Root(path.into())
    }

    /// Where a file is, given its path below `/` (`proc/cpuinfo`).
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// A file's text without white space around it; `None` if it can't be read.
    pub(super) fn read(&self, file: &str) -> Option<String> {
        read(&self.path(file))
    }

    /// The same for a number.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.read(file)?.parse().ok()
    }

    /// What is in a folder, sorted by name; nothing where it can't be read.
    pub(super) fn list(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder))
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}

#[cfg(test)]
impl Root {
    /// A root with these files (path, text) in it, for as long as the folder lives.
    pub(super) fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::at(dir.path());
        (dir, root)
    }
}
