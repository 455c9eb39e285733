//! Paths in a container's root, which links of its image must not lead out of.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use crate::error::{Error, Result};
use crate::sys;

/// A folder that is the root of paths.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// What is made where a path isn't there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Folder,
    File,
}

impl Root {
    pub fn open(path: &str) -> Result<Self> {
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path);
        let folder = folder.map_err(Error::of(path))?;
        Ok(Root(folder.into()))
    }

    /// The thing at `path`, if it is there.
    pub fn find(&self, path: &str) -> Option<OwnedFd> {
        sys::open_in(&self.0, path, libc::O_PATH, 0).ok()
    }

    /// The thing at `path`, made with all the folders on the way if it isn't there.
    pub fn make(&self, path: &str, what: Made) -> Result<OwnedFd> {
        if let Some(found) = self.find(path) {
            return Ok(found);
        }
        let failed = || format!("making {path} in the container's root");
        let names: Vec<_> = Path::new(path)
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        let mut there = self.0.try_clone().map_err(Error::of(failed()))?;
        let mut way = String::new();
        for (index, name) in names.iter().enumerate() {
            way = format!("{way}/{name}");
            if let Some(found) = self.find(&way) {
                there = found;
                continue;
            }
            let is_file = what == Made::File && index + 1 == names.len();
            if is_file {
                let flags = libc::O_CREAT | libc::O_WRONLY;
                sys::open_in(&self.0, &way, flags, 0o644).map_err(Error::of(failed()))?;
            } else {
                sys::make_folder_at(&there, name, 0o755).map_err(Error::of(failed()))?;
            }
            let found = sys::open_in(&self.0, &way, libc::O_PATH, 0);
            there = found.map_err(Error::of(failed()))?;
        }
        Ok(there)
    }

    /// Writes a file anew.
    pub fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        if let Some((folders, _)) = path.rsplit_once('/')
            && !folders.is_empty()
        {
            self.make(folders, Made::Folder)?;
        }
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
        let mut file = self.open_file(path, flags, mode);
        if let Err(error) = &file
            && error.raw_os_error() == Some(libc::ENOENT)
            && let Some((folder, name)) = path.rsplit_once('/')
            && let Some(folder) = self.find(folder)
        {
            // A link to nowhere, as images have for /etc/resolv.conf: the file takes its place.
            // SAFETY: a string that lives through the call.
            unsafe { libc::unlinkat(folder.as_raw_fd(), sys::c(name).as_ptr(), 0) };
            file = self.open_file(path, flags, mode);
        }
        let mut file = file.map_err(Error::of(path))?;
        file.write_all(content).map_err(Error::of(path))
    }

    /// A file and nothing else, whatever an image has there: a pipe would be waited for.
    fn open_file(&self, path: &str, flags: i32, mode: u32) -> io::Result<File> {
        let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = File::from(sys::open_in(&self.0, path, flags, mode)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// What is in a file, of at most a megabyte. What is no UTF-8 of it doesn't make the rest unreadable.
    pub fn read(&self, path: &str) -> Option<String> {
        let file = self.open_file(path, libc::O_RDONLY, 0).ok()?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A name for what is open, by which mount(2) finds it whatever its path is.
pub fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_and_devices_are_no_files_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        sys::mknod_at(&root.0, "pipe", libc::S_IFIFO | 0o666, 0).unwrap();
        assert_eq!(root.read("/pipe"), None);
        assert!(root.write("/pipe", b"x", 0o644).is_err());
        // With somebody at the other end, too.
        let _other = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(root.read("/pipe"), None);
        assert!(root.write("/pipe", b"x", 0o644).is_err());
        assert_eq!(Root::open("/dev").unwrap().read("/zero"), None);
    }

    #[test]
    fn a_file_in_another_encoding_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"jos\xe9:x:7:7:Jos\xe9:/:/x\nweb:x:8:8::/:/x\n";
        std::fs::write(folder.path().join("passwd"), text).unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        let read = root.read("/passwd").unwrap();
        assert!(read.ends_with(":/:/x\nweb:x:8:8::/:/x\n"), "{read}");
    }
}
