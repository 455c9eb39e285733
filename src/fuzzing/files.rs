//! Files with any content, for what takes a path.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A file in memory, with a path for as long as this lives.
pub struct MemoryFile(File);

impl MemoryFile {
    pub fn new(content: &[u8]) -> Self {
        // SAFETY: a name that ends with a zero, and flags.
        let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: a descriptor that is new, and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.write_all_at(content, 0).unwrap();
        MemoryFile(file)
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
