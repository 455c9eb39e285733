//! What a process gives up on its way into the jail, for good.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sys::check;
use super::{JailError, User};
use crate::config::{Jail, VmConfig};

/// linux/capability.h: version 3 has two words of each set.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the limits of this process and of all that it starts.
pub fn limit(jail: &Jail, config: &VmConfig) -> Result<(), JailError> {
    let set = |resource, value| {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: a struct that lives through the call.
        check(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
    };
    let bytes = |size: Option<crate::config::Size>| size.map(|size| size.bytes());
    for (key, resource, value) in [
        ("nofile", libc::RLIMIT_NOFILE, jail.nofile),
        ("nproc", libc::RLIMIT_NPROC, jail.nproc),
        ("memlock", libc::RLIMIT_MEMLOCK, bytes(jail.memlock)),
        ("fsize", libc::RLIMIT_FSIZE, bytes(jail.fsize)),
    ] {
        let Some(value) = value else { continue };
        set(resource, value).map_err(|source| JailError::Limit { key, value, source })?;
    }
    // What needs the rights that are given up below. Where it can't be had, whoever needs it says so.
    if config.memory.mlock && jail.memlock.is_none() {
        let _ = set(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY);
    }
    if config.placement.sched.is_some() {
        let _ = set(libc::RLIMIT_RTPRIO, 99);
    }
    // Not none: see cli/sandbox.rs.
    set(libc::RLIMIT_CORE, 1).map_err(|source| JailError::Host {
        what: "forbidding core dumps",
        source,
    })
}

/// Joins the cgroup that this is the `cgroup.procs` of.
pub fn join(entrance: BorrowedFd) -> io::Result<()> {
    // SAFETY: one byte.
    let written = unsafe { libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1) };
    check(written as i32).map(drop)
}

/// Becomes `user`, and gives up every capability and the way to get any.
pub fn drop_all(user: &User) -> io::Result<()> {
    // Keys that the kernel holds for who started mote (keyrings(7)), where it has such a thing.
    let (join, none) = (
        libc::KEYCTL_JOIN_SESSION_KEYRING,
        std::ptr::null::<c_char>(),
    );
    // SAFETY: no name.
    unsafe { libc::syscall(libc::SYS_keyctl, join, none) };
    // Until the kernel knows no more of them.
    for capability in 0..64 {
        // SAFETY: takes no pointer.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        };
    }
    // SAFETY: no groups, and numbers.
    unsafe {
        if user.by_root {
            check(libc::setgroups(0, std::ptr::null()))?;
        }
        check(libc::setresgid(user.gid, user.gid, user.gid))?;
        check(libc::setresuid(user.uid, user.uid, user.uid))?;
        check(libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        ))?;
    }
    let header = [CAPABILITY_VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: a header, and two structs of three words.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    check(result as i32)?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: takes no pointer.
    unsafe { libc::umask(0o077) };
    Ok(())
}

/// Ends this process when its parent does. After [`drop_all`]: the kernel forgets it with a change of
/// user.
pub fn end_with_parent() -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}
