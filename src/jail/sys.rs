//! The system calls that a jail is made with and that no library wraps, each with its error.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_long, c_uint};

/// What a path must not do on its way: follow a symbolic link, or one of /proc's.
pub const NO_LINKS: u64 = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
/// The same, and leave the folder in which it starts.
pub const BENEATH: u64 = NO_LINKS | libc::RESOLVE_BENEATH;

// linux/mount.h; not in the libc crate.
const FSOPEN_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSMOUNT_CLOEXEC: c_uint = 1;
const OPEN_TREE_CLONE: c_uint = 1;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
pub const ATTR_RDONLY: u64 = 0x1;
pub const ATTR_NOSUID: u64 = 0x2;
pub const ATTR_NODEV: u64 = 0x4;
pub const ATTR_NOEXEC: u64 = 0x8;

/// struct mount_attr (linux/mount.h).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn result(value: c_long) -> io::Result<c_long> {
    match value {
        0.. => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(value: c_long) -> io::Result<OwnedFd> {
    let fd = result(value)? as RawFd;
    // SAFETY: a descriptor that a system call has just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens `path` from the folder `from` (or `AT_FDCWD`) on, with RESOLVE_* flags.
pub fn openat2(
    from: RawFd,
    path: &CStr,
    flags: c_int,
    mode: u64,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: a struct of numbers, for which zeros are valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = mode;
    how.resolve = resolve;
    // SAFETY: a path with its end, and a struct with its size.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            from,
            path.as_ptr(),
            &raw const how,
            size_of_val(&how),
        )
    })
}

/// A file system of this type with these options, not mounted anywhere yet.
pub fn new_mount(
    fs_type: &CStr,
    options: &[(&CStr, String)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: a name with its end.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) })?;
    let null = std::ptr::null::<libc::c_char>();
    for (key, value) in options {
        let value = c_string(value)?;
        // SAFETY: a key and a value with their ends.
        result(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })?;
    }
    // SAFETY: this command has neither key nor value.
    result(unsafe {
        let create = FSCONFIG_CMD_CREATE;
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            create,
            null,
            null,
            0,
        )
    })?;
    // SAFETY: takes no pointer.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}

/// Another mount of what is at `path` from `from` on (with an empty one, of `from` itself), with all that
/// is mounted below it; not attached anywhere yet.
pub fn clone_mount(from: RawFd, path: &CStr) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW) as c_uint;
    // SAFETY: a path with its end.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, from, path.as_ptr(), flags) })
}

/// Attaches a mount to `path` below `to` (with an empty one, over `to` itself).
pub fn attach(mount: BorrowedFd, to: BorrowedFd, path: &CStr) -> io::Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: paths with their ends.
    result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// Adds attributes to a mount and to all below it.
pub fn restrict(mount: BorrowedFd, attributes: u64) -> io::Result<()> {
    set_attributes(mount, attributes, libc::AT_RECURSIVE)
}

/// Makes a mount read-only, and none below it.
pub fn make_read_only(mount: BorrowedFd) -> io::Result<()> {
    set_attributes(mount, ATTR_RDONLY, 0)
}

fn set_attributes(mount: BorrowedFd, attributes: u64, how: c_int) -> io::Result<()> {
    let attr = MountAttr {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: an empty path with its end, and a struct with its size.
    result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | how,
            &raw const attr,
            size_of_val(&attr),
        )
    })
    .map(drop)
}

/// Makes the mount `root` the root of this process and of all in its mount namespace, and leaves them
/// nothing of the old one.
pub fn pivot(root: BorrowedFd) -> io::Result<()> {
    let check = |value: c_int| result(value.into());
    // SAFETY: an open descriptor, and paths with their ends.
    unsafe {
        check(libc::fchdir(root.as_raw_fd()))?;
        let here = c".".as_ptr();
        // The old root comes to lie over the new one (pivot_root(2), "pivot_root(".", ".")").
        result(libc::syscall(libc::SYS_pivot_root, here, here))?;
        check(libc::umount2(here, libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr())).map(drop)
    }
}

/// Turns the result of a plain call of the C library into one of Rust's.
pub fn check(value: c_int) -> io::Result<c_int> {
    result(value.into()).map(|value| value as c_int)
}

/// Locks an open file (flock). `false` where another has the lock and isn't to be waited for.
pub fn lock(file: BorrowedFd, wait: bool) -> io::Result<bool> {
    let operation = libc::LOCK_EX | if wait { 0 } else { libc::LOCK_NB };
    loop {
        // SAFETY: takes no pointer.
        match check(unsafe { libc::flock(file.as_raw_fd(), operation) }) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same, but waits no longer than this. flock(2) knows no limit: a child waits in it, by the same open file, so
/// that its lock is this process's; and this process waits for the child. It must have one thread.
pub fn lock_within(file: BorrowedFd, limit: Duration) -> io::Result<bool> {
    let fd = file.as_raw_fd();
    // SAFETY: this process has one thread, and the child makes system calls only.
    let child = check(unsafe { libc::fork() })?;
    if child == 0 {
        // SAFETY: they take no pointers.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::_exit(libc::flock(fd, libc::LOCK_EX));
        }
    }
    let ended = has_ended_within(child, limit);
    let mut status = 0;
    // SAFETY: a child that has not been waited for, and room for its status.
    unsafe {
        if !matches!(ended, Ok(true)) {
            libc::kill(child, libc::SIGKILL);
        }
        libc::waitpid(child, &raw mut status, 0);
    }
    ended.map(|_| libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}

/// Whether there is a process of this number that has not ended.
pub fn is_alive(process: libc::pid_t) -> bool {
    matches!(has_ended_within(process, Duration::ZERO), Ok(false))
}

fn has_ended_within(process: libc::pid_t, limit: Duration) -> io::Result<bool> {
    // SAFETY: takes no pointer.
    let fd = result(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    // SAFETY: a new descriptor, which is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    check(unsafe { libc::poll(&raw mut polled, 1, limit.as_millis() as c_int) }).map(|n| n > 0)
}
