//! A file or folder of the host that a guest is to have, which is mounted somewhere else for it (open_tree(2), Linux 5.2;
//! mount_setattr(2), Linux 5.12).

use std::ffi::{CStr, CString};
use std::fs::{self, File, FileType};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Of linux/mount.h.
const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// It was looked for once: what its name leads to later, by whoever can change that, is not this.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
}

/// How a guest has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub read_only: bool,
    /// With what is mounted in it (rbind).
    pub with_mounts: bool,
    /// With what the host mounts in it later, too (rslave).
    pub follows: bool,
}

impl Source {
    /// What is at this path of the host; links are followed.
    ///
    /// # Errors
    ///
    /// Nothing is there.
    pub fn find(path: &Path) -> io::Result<Self> {
        let name = c_string(path)?;
        let file = File::from(open_tree(libc::AT_FDCWD, &name, 0)?);
        // Without links, as the kernel says it.
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Source { file, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file_type(&self) -> io::Result<FileType> {
        Ok(self.file.metadata()?.file_type())
    }

    /// Mounts it at `target`, too. Its rights are so before it is anywhere: what is changed later doesn't come to the mounts
    /// that others have of it by then.
    pub fn mount(&self, target: &Path, rights: Rights) -> io::Result<()> {
        let recursive = match rights.with_mounts {
            true => libc::AT_RECURSIVE as u32,
            false => 0,
        };
        let flags = OPEN_TREE_CLONE | libc::AT_EMPTY_PATH as u32 | recursive;
        let tree = open_tree(self.file.as_raw_fd(), c"", flags)?;
        restrict(&tree, rights)?;
        let target = c_string(target)?;
        // SAFETY: strings that live through the call.
        done(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        })?;
        Ok(())
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_tree(at: libc::c_int, path: &CStr, flags: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC as u32;
    // SAFETY: a string that lives through the call; the descriptor is new.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags);
        Ok(OwnedFd::from_raw_fd(done(fd)? as i32))
    }
}

/// All of a tree that is nowhere yet. What the host mounts later would come with rights of its own.
fn restrict(tree: &OwnedFd, rights: Rights) -> io::Result<()> {
    let attributes = Attributes {
        set: if rights.read_only {
            MOUNT_ATTR_RDONLY
        } else {
            0
        },
        propagation: if rights.follows { 0 } else { libc::MS_PRIVATE },
        ..Attributes::default()
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: a string and a struct of the size that is told, which live through the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    })?;
    Ok(())
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// struct mount_attr.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}
