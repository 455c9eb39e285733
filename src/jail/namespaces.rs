//! The namespaces of a jail.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::sys::check;
use super::{JailError, User};

/// Where `ip netns add` puts names.
const NETWORKS: &str = "/run/netns";

/// Mounts that no one else sees. Without root's rights a user namespace comes first, which has this user and
/// no other, since only there can the rest be had.
pub fn own_mounts(user: &User) -> Result<(), JailError> {
    let host = |what| move |source| JailError::Host { what, source };
    if !user.by_root {
        unshare(libc::CLONE_NEWUSER).map_err(host("making a user namespace"))?;
        map(user).map_err(host("mapping the user into it"))?;
    }
    unshare(libc::CLONE_NEWNS).map_err(host("making a mount namespace"))?;
    let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: a path with its end; the other arguments aren't used for that.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()) })
        .map_err(host("making mounts private"))
        .map(drop)
}

/// The network namespace of that name, or at that path.
pub fn join_network(name: &Path) -> Result<(), JailError> {
    let path = match name.components().count() {
        1 => Path::new(NETWORKS).join(name),
        _ => name.to_owned(),
    };
    let joined = File::open(path).and_then(|file| {
        // SAFETY: takes no pointer.
        check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
    });
    joined.map(drop).map_err(|source| JailError::NetNamespace {
        path: name.to_owned(),
        source,
    })
}

/// All others: of processes, for those that are started from now on; of IPC, of names and, if asked for, of
/// networks.
pub fn separate(network: bool) -> Result<(), JailError> {
    let network = if network { libc::CLONE_NEWNET } else { 0 };
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network;
    unshare(flags).map_err(|source| JailError::Host {
        what: "making namespaces",
        source,
    })
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointer. This process has one thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

fn map(user: &User) -> io::Result<()> {
    let User { uid, gid, .. } = user;
    // Without this, no group can be mapped without rights (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}
