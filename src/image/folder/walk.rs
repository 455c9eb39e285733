//! A folder of the host, file by file. Others may change it meanwhile, and want to have files of elsewhere in the
//! image: each name is opened by itself, from the folder that it is in, and no link is followed.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::OnFiles;
use super::attributes::Reader;
use crate::image::erofs::Content;
use crate::image::error::ImageError;
use crate::image::tree::{Kind, Tree, split};

/// The layer that everything is of.
const LAYER: u32 = 1;
/// As long as the target of a link can be (PATH_MAX).
const MOST_TARGET: usize = 4096;

/// Everything in `folder`, the files' content into `content`, which goes to `image`; no more than `most_kept` bytes of
/// what isn't content.
pub fn walk(
    folder: &Path,
    content: &mut Content,
    image: &Path,
    most_kept: usize,
    progress: OnFiles,
) -> Result<Tree, ImageError> {
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(folder)
        .map_err(ImageError::io(folder))?;
    let mut walk = Walk {
        folder,
        image,
        content,
        progress,
        tree: Tree::default(),
        reader: Reader::new(),
        linked: HashMap::new(),
        todo: vec![Vec::new()],
        kept_left: most_kept,
        files: 0,
        bytes: 0,
    };
    let metadata = root.metadata().map_err(ImageError::io(folder))?;
    walk.put(b"/", Kind::Folder(Default::default()), &root, &metadata)?;
    while let Some(path) = walk.todo.pop() {
        walk.folder(&root, &path)?;
    }
    Ok(walk.tree)
}

struct Walk<'a, 'b> {
    folder: &'a Path,
    image: &'a Path,
    content: &'a mut Content,
    progress: &'a mut (dyn FnMut(u64, u64) + 'b),
    tree: Tree,
    reader: Reader,
    /// Files that have other names, by device and number: the name by which they are in the tree.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// Folders that are still to be looked into.
    todo: Vec<Vec<u8>>,
    /// Of whole paths too, which the tree doesn't count.
    kept_left: usize,
    files: u64,
    bytes: u64,
}

impl Walk<'_, '_> {
    fn folder(&mut self, root: &File, path: &[u8]) -> Result<(), ImageError> {
        let Some(here) = gone(enter(root, path)).map_err(self.at(path))? else {
            return Ok(());
        };
        let Some(entries) = gone(fs::read_dir(by_number(&here))).map_err(self.at(path))? else {
            return Ok(());
        };
        for entry in entries {
            let Some(entry) = gone(entry).map_err(self.at(path))? else {
                break;
            };
            let name = entry.file_name();
            let path = [path, b"/", name.as_bytes()].concat();
            if split(&path).is_none() {
                return Err(self.wrong(&path, "its path is longer than 4096 bytes"));
            }
            let file = gone(open_in(&here, name.as_bytes())).map_err(self.at(&path))?;
            if let Some(file) = file {
                self.file(path, &file)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: Vec<u8>, file: &File) -> Result<(), ImageError> {
        let metadata = file.metadata().map_err(self.at(&path))?;
        let file_type = metadata.file_type();
        let device = metadata.rdev();
        let device = (libc::major(device), libc::minor(device));
        let is_folder = file_type.is_dir();
        let identity = (metadata.dev(), metadata.ino());
        if let Some(first) = self.linked.get(&identity)
            && !is_folder
        {
            let linked = self.tree.link(&path, first, LAYER);
            return linked.map_err(|what| self.wrong(&path, what));
        }
        let kind = if is_folder {
            Kind::Folder(Default::default())
        } else if file_type.is_symlink() {
            Kind::Link(target(file).map_err(self.at(&path))?)
        } else if file_type.is_file() {
            self.content(&path, file)?
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else if file_type.is_block_device() {
            Kind::Block(device.0, device.1)
        } else if file_type.is_char_device() && device != (0, 0) {
            Kind::Character(device.0, device.1)
        } else {
            // A socket, which nobody listens on in the guest, or what an overlay takes for the absence of a file.
            return Ok(());
        };
        self.put(&path, kind, file, &metadata)?;
        self.files += 1;
        (self.progress)(self.files, self.bytes);
        if is_folder {
            self.todo.push(path);
        } else if metadata.nlink() > 1 {
            self.linked.insert(identity, path);
        }
        Ok(())
    }

    fn put(
        &mut self,
        path: &[u8],
        kind: Kind,
        file: &File,
        metadata: &Metadata,
    ) -> Result<(), ImageError> {
        let attributes = self.reader.read(file, metadata).map_err(self.at(path))?;
        // A file's path is more than what is kept of it, but that of folders and links.
        let mut kept = path.len();
        if let Kind::Link(target) = &kind {
            kept += target.len();
        }
        for (name, value) in &attributes.extended {
            kept += name.len() + value.len();
        }
        let left = self.kept_left.checked_sub(kept);
        let what = "the names and attributes of all files up to it are longer than 1 GiB";
        self.kept_left = left.ok_or_else(|| self.wrong(path, what))?;
        let put = self.tree.put(path, kind, attributes, LAYER);
        put.map_err(|what| self.wrong(path, what))
    }

    /// As much as the file has when it is opened: if it has less later, zeros are in the rest's place.
    fn content(&mut self, path: &[u8], file: &File) -> Result<Kind, ImageError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(by_number(file));
        let file = opened.map_err(self.at(path))?;
        let size = file.metadata().map_err(self.at(path))?.len();
        let mut stream = Padded {
            file,
            has_failed: false,
        };
        let block = self.content.write(&mut stream, size);
        self.bytes += size;
        match block {
            Ok(block) => Ok(Kind::File { block, size }),
            Err(error) if stream.has_failed => Err(self.at(path)(error)),
            Err(error) => Err(ImageError::io(self.image)(error)),
        }
    }

    /// Where it is on the host.
    fn whole(&self, path: &[u8]) -> PathBuf {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        self.folder.join(std::ffi::OsStr::from_bytes(path))
    }

    fn at(&self, path: &[u8]) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let path = self.whole(path);
        move |source| ImageError::Io { path, source }
    }

    fn wrong(&self, path: &[u8], what: &str) -> ImageError {
        ImageError::content(&self.whole(path), what)
    }
}

/// `None` for what went meanwhile, or became something else.
fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The folder at a path, one name after the other.
fn enter(root: &File, path: &[u8]) -> io::Result<File> {
    let mut here = open_in(root, b".")?;
    for name in path.split(|byte| *byte == b'/').filter(|n| !n.is_empty()) {
        here = open_in(&here, name)?;
    }
    Ok(here)
}

/// What has a name in a folder, without a link followed, or a device or a pipe disturbed.
fn open_in(folder: &File, name: &[u8]) -> io::Result<File> {
    let name = CString::new(name)?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a name with its end.
    let fd = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it is new, and nobody else's.
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// A path that leads to what is open, whatever has its name now.
fn by_number(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn target(link: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; MOST_TARGET];
    let room = bytes.as_mut_ptr().cast();
    // SAFETY: an empty name with its end, and as many bytes as are told.
    let length = unsafe { libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), room, MOST_TARGET) };
    match usize::try_from(length) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(length) if (1..MOST_TARGET).contains(&length) => {
            bytes.truncate(length);
            Ok(bytes)
        }
        Ok(_) => Err(io::Error::new(
            ErrorKind::InvalidData,
            "is a link with no target, or one that is too long",
        )),
    }
}

/// A file, and zeros behind its end.
struct Padded {
    file: File,
    has_failed: bool,
}

impl Read for Padded {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.file.read(bytes) {
            Ok(0) => {
                bytes.fill(0);
                Ok(bytes.len())
            }
            Err(error) => {
                self.has_failed = error.kind() != ErrorKind::Interrupted;
                Err(error)
            }
            read => read,
        }
    }
}
