//! What a jailed process sees as its file system: an empty one, with `run`, and what the VM's devices
//! open anew while it runs.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::JailError;
use super::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, check};
use crate::config::VmConfig;

/// Of the host's facts, those that placing threads needs.
const PLACES: [&str; 2] = ["/sys/devices/system/cpu", "/sys/devices/system/node"];
/// The host's kernel serves a device by these; they are opened again when a driver resets it.
const VHOST_NET: &str = "/dev/vhost-net";
const VHOST_VSOCK: &str = "/dev/vhost-vsock";

/// What there is besides `run`.
pub struct Tree {
    devices: Vec<&'static str>,
    facts: &'static [&'static str],
}

impl Tree {
    /// What `config` needs.
    pub fn of(config: &VmConfig) -> Self {
        let mut devices = Vec::new();
        if config.nets.iter().any(|net| net.vhost) {
            devices.push(VHOST_NET);
        }
        if config.vsock.as_ref().is_some_and(|vsock| vsock.vhost) {
            devices.push(VHOST_VSOCK);
        }
        let placed = config.placement != Default::default() || !config.numa.is_empty();
        let facts = if placed { &PLACES[..] } else { &[] };
        Tree { devices, facts }
    }

    /// Makes it, over `place` in this process's own mount namespace, and makes it the root. Devices are the
    /// user's `owner`; `None` where they are as they are, as there is no right to make any.
    pub fn enter(
        &self,
        place: BorrowedFd,
        run: BorrowedFd,
        owner: Option<u32>,
    ) -> Result<(), JailError> {
        self.make(place, run, owner)
            .and_then(|root| sys::pivot(root.as_fd()))
            .map_err(|source| JailError::Host {
                what: "making its file system",
                source,
            })
    }

    fn make(&self, place: BorrowedFd, run: BorrowedFd, owner: Option<u32>) -> io::Result<OwnedFd> {
        let nodev = if self.devices.is_empty() {
            ATTR_NODEV
        } else {
            0
        };
        let attributes = ATTR_NOSUID | ATTR_NOEXEC | nodev;
        // Nothing is to be written there: a page for each name will do.
        let options = [
            (c"mode", "0755".to_owned()),
            (c"size", "64k".to_owned()),
            (c"nr_inodes", "64".to_owned()),
        ];
        let root = sys::new_mount(c"tmpfs", &options, attributes)?;
        sys::attach(root.as_fd(), place, c"")?;
        make_folder(root.as_fd(), c"run")?;
        let run = sys::clone_mount(run.as_raw_fd(), c"")?;
        sys::restrict(run.as_fd(), ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
        sys::attach(run.as_fd(), root.as_fd(), c"run")?;
        for device in &self.devices {
            place_device(root.as_fd(), Path::new(device), owner)?;
        }
        for fact in self.facts.iter().filter(|fact| Path::new(fact).exists()) {
            let inside = make_folders(root.as_fd(), Path::new(fact))?;
            let mount = sys::clone_mount(libc::AT_FDCWD, &c_path(Path::new(fact))?)?;
            let all = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
            sys::restrict(mount.as_fd(), all)?;
            sys::attach(mount.as_fd(), root.as_fd(), &inside)?;
        }
        // Not what is mounted in it: `run` stays writable.
        sys::make_read_only(root.as_fd())?;
        Ok(root)
    }
}

/// A device of the host's: a node of our own where that's allowed, with the rights of the one user of the
/// jail; the host's node with the host's rights elsewhere.
fn place_device(root: BorrowedFd, path: &Path, owner: Option<u32>) -> io::Result<()> {
    let inside = make_parents(root, path)?;
    let number = std::fs::metadata(path)?.rdev();
    let at = root.as_raw_fd();
    let (kind, number) = match owner {
        Some(_) => (libc::S_IFCHR, number),
        None => (libc::S_IFREG, 0),
    };
    // SAFETY: a path with its end.
    check(unsafe { libc::mknodat(at, inside.as_ptr(), kind | 0o600, number) })?;
    match owner {
        Some(owner) => {
            let group = u32::MAX; // stays root's, which may nothing
            // SAFETY: as above.
            check(unsafe { libc::fchownat(at, inside.as_ptr(), owner, group, 0) }).map(drop)
        }
        None => {
            let mount = sys::clone_mount(libc::AT_FDCWD, &c_path(path)?)?;
            sys::restrict(mount.as_fd(), ATTR_NOSUID | ATTR_NOEXEC)?;
            sys::attach(mount.as_fd(), root, &inside)
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Makes the folders above the absolute `path`; returns it as a path below `root`.
fn make_parents(root: BorrowedFd, path: &Path) -> io::Result<CString> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let mut above: Vec<_> = inside.ancestors().skip(1).collect();
    above.pop(); // the root itself
    for folder in above.into_iter().rev() {
        make_folder(root, &c_path(folder)?)?;
    }
    c_path(inside)
}

fn make_folders(root: BorrowedFd, path: &Path) -> io::Result<CString> {
    let inside = make_parents(root, path)?;
    make_folder(root, &inside)?;
    Ok(inside)
}

fn make_folder(root: BorrowedFd, path: &CStr) -> io::Result<()> {
    // SAFETY: a path with its end.
    match check(unsafe { libc::mkdirat(root.as_raw_fd(), path.as_ptr(), 0o755) }) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
