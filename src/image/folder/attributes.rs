//! A file's attributes as the host has them, for the image.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::image::tree::Attributes;

/// As long as a list of names, or a value, can be (limits.h).
const MOST: usize = 64 << 10;
/// Of a file's, names and values: what there is room for in an image.
const MOST_OF_FILE: usize = 56 << 10;
/// An overlay's own: they would mean something in the guest, whose root is one.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Room for what is read.
pub struct Reader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Reader {
    pub fn new() -> Self {
        Reader {
            names: vec![0; MOST],
            value: vec![0; MOST],
        }
    }

    /// Of a file that is open, if only by its path (O_PATH).
    pub fn read(&mut self, file: &File, metadata: &Metadata) -> io::Result<Attributes> {
        Ok(Attributes {
            mode: (metadata.mode() & 0o7777) as u16,
            owner: (metadata.uid(), metadata.gid()),
            modified: metadata.mtime(),
            extended: self.extended(file)?,
        })
    }

    fn extended(&mut self, file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        // It leads to the file itself, be it a link.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let names = self.names.as_mut_ptr().cast();
        // SAFETY: a path with its end, and as many bytes as are told.
        let length = unsafe { libc::listxattr(path.as_ptr(), names, self.names.len()) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
                _ => Err(error),
            };
        };
        let mut all = Vec::new();
        let mut bytes = 0;
        for name in self.names[..length].split(|byte| *byte == 0) {
            if name.is_empty() || name.starts_with(OVERLAY) {
                continue;
            }
            let c_name = CString::new(name)?;
            let value = self.value.as_mut_ptr().cast();
            // SAFETY: a path and a name with their ends, and as many bytes as are told.
            let size =
                unsafe { libc::getxattr(path.as_ptr(), c_name.as_ptr(), value, self.value.len()) };
            let Ok(size) = usize::try_from(size) else {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    // It went meanwhile, or is one that only its file system understands.
                    Some(libc::ENODATA | libc::EOPNOTSUPP) => continue,
                    _ => return Err(error),
                }
            };
            bytes += name.len() + size + 8;
            if bytes > MOST_OF_FILE {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "has more than 56 KiB of extended attributes: an image has no room for them",
                ));
            }
            all.push((name.to_vec(), self.value[..size].to_vec()));
        }
        Ok(all)
    }
}
