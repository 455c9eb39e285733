//! System calls that Rust's library hasn't, wrapped at once.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;

use libc::{c_int, c_uint, c_ulong, pid_t};

/// A string for the kernel, cut at its first NUL.
pub fn c(text: &str) -> CString {
    let bytes = text.as_bytes();
    let end = bytes.iter().position(|byte| *byte == 0);
    CString::new(&bytes[..end.unwrap_or(bytes.len())]).unwrap_or_default()
}

fn check(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Takes a new descriptor over.
///
/// # Safety
///
/// It is new and nobody else's, or -1.
unsafe fn owned(fd: c_int) -> io::Result<OwnedFd> {
    // SAFETY: by this function's own condition.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn mount(source: &str, target: &str, kind: &str, flags: c_ulong, data: &str) -> io::Result<()> {
    let [source, target, kind, data] = [source, target, kind, data].map(c);
    let data = match data.as_bytes() {
        [] => null(),
        _ => data.as_ptr(),
    };
    // SAFETY: strings that live through the call.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.cast(),
        )
    })
    .map(drop)
}

pub fn unmount(target: &str, flags: c_int) -> io::Result<()> {
    // SAFETY: a string that lives through the call.
    check(unsafe { libc::umount2(c(target).as_ptr(), flags) }).map(drop)
}

/// Makes a node with just this mode, whatever the mask.
pub fn mknod_at(folder: &OwnedFd, name: &str, mode: u32, device: libc::dev_t) -> io::Result<()> {
    let name = c(name);
    // SAFETY: takes a number.
    let mask = unsafe { libc::umask(0) };
    // SAFETY: a string that lives through the call.
    let result = unsafe { libc::mknodat(folder.as_raw_fd(), name.as_ptr(), mode, device) };
    let result = check(result);
    // SAFETY: takes a number.
    unsafe { libc::umask(mask) };
    result.map(drop)
}

/// What is there, be it a link.
pub fn stat_at(folder: &OwnedFd, name: &str) -> io::Result<libc::stat> {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    let (name, place) = (c(name), &raw mut found);
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: a string that lives through the call, and a place.
    check(unsafe { libc::fstatat(folder.as_raw_fd(), name.as_ptr(), place, flags) })?;
    Ok(found)
}

/// Has it belong to these, be it a link.
pub fn chown_at(folder: &OwnedFd, name: &str, (user, group): (u32, u32)) -> io::Result<()> {
    let (name, flags) = (c(name), libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: a string that lives through the call.
    let result = unsafe { libc::fchownat(folder.as_raw_fd(), name.as_ptr(), user, group, flags) };
    check(result).map(drop)
}

pub fn chroot(path: &str) -> io::Result<()> {
    std::os::unix::fs::chroot(path)?;
    std::env::set_current_dir("/")
}

pub fn pivot_root_here() -> io::Result<()> {
    let here = c(".");
    // SAFETY: strings that live through the call.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()) };
    check(result as c_int).map(drop)
}

pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: bytes and their number.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// A copy of this process, which must have one thread; 0 in the copy.
///
/// # Safety
///
/// The copy must not use what another thread of this process may hold, so there must be no other.
pub unsafe fn fork(namespaces: c_int) -> io::Result<pid_t> {
    let flags = (namespaces | libc::SIGCHLD) as c_ulong;
    // The stack stays, as in fork(2); the other arguments are unused then, in whichever order they are.
    // SAFETY: by this function's own condition.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    check(pid as c_int)
}

pub fn unshare(namespaces: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::unshare(namespaces) }).map(drop)
}

pub fn set_namespace(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::setns(fd.as_raw_fd(), 0) }).map(drop)
}

pub fn kill(pid: pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

pub fn prctl(option: c_int, a: c_ulong, b: c_ulong) -> io::Result<c_int> {
    // SAFETY: only with options that take numbers.
    check(unsafe { libc::prctl(option, a, b, 0 as c_ulong, 0 as c_ulong) })
}

/// A child that has ended, and its status as of wait(2).
pub fn reap() -> Option<(pid_t, c_int)> {
    let mut status = 0;
    // SAFETY: a place for the status.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        pid if pid > 0 => Some((pid, status)),
        _ => None,
    }
}

/// Closes all descriptors but the standard streams and these.
///
/// # Safety
///
/// What owns one of the others is neither used nor dropped any more.
pub unsafe fn close_others(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first: c_uint = 3;
    let ends = kept.iter().map(|fd| *fd as c_uint);
    for end in ends.chain([c_uint::MAX]) {
        if end > first {
            let last = if end == c_uint::MAX { end } else { end - 1 };
            // SAFETY: takes numbers, of descriptors that are nobody's by this function's own condition.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } as c_int)?;
        }
        first = first.max(end.saturating_add(1));
    }
    Ok(())
}

/// Blocks these signals and no others.
fn mask(signals: &[c_int]) -> io::Result<libc::sigset_t> {
    // SAFETY: a set is plain bits, filled by the first call; the numbers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        let before = std::ptr::null_mut();
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, before))?;
        Ok(set)
    }
}

/// Blocks these signals; a descriptor that tells of them.
pub fn block_signals(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = mask(signals)?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: a set that lives through the call; the descriptor is new.
    unsafe { owned(libc::signalfd(-1, &raw const set, flags)) }
}

/// All signals as they are for a new program: none blocked, each with its default action.
pub fn default_signals() -> io::Result<()> {
    mask(&[])?;
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler of Rust's library is needed in a process that is about to run another program.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors, which are new.
    unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((owned(fds[0])?, owned(fds[1])?))
    }
}

pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(
            fd.as_raw_fd(),
            libc::F_SETFL,
            flags | libc::O_NONBLOCK,
        ))
        .map(drop)
    }
}

pub fn dup_onto(fd: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer; what was there is given up.
    check(unsafe { libc::dup2(fd, number) }).map(drop)
}

pub fn read(fd: &impl AsRawFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the bytes and their number.
    let count = unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

pub fn write(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the bytes and their number.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Tells the other end that nothing more comes.
pub fn end_writing(fd: &OwnedFd) {
    // SAFETY: takes no pointer.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// Waits until one of them is ready; how long, in milliseconds, or for ever with -1.
pub fn poll(fds: &mut [libc::pollfd], timeout: c_int) -> io::Result<()> {
    // SAFETY: the entries and their number.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            fds.iter_mut().for_each(|fd| fd.revents = 0);
            Ok(())
        }
        result => result.map(drop),
    }
}

/// A new socket.
pub fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer, and gives a new descriptor.
    unsafe { owned(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol)) }
}

/// An ioctl with a struct that the kernel reads or fills.
///
/// # Safety
///
/// `request` takes a `T`.
pub unsafe fn ioctl<T>(fd: &OwnedFd, request: libc::Ioctl, value: &mut T) -> io::Result<c_int> {
    // SAFETY: by this function's own condition.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(value)) })
}

/// Opens `path`, which may be relative to `folder`, and doesn't lead out of it by `..` or links (openat2(2)).
pub fn open_in(folder: &OwnedFd, path: &str, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = mode.into();
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let path = c(path);
    // SAFETY: a string and a struct that live through the call, and its size; the descriptor is new.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_openat2,
            folder.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of_val(&how),
        );
        owned(fd as c_int)
    }
}

pub fn make_folder_at(folder: &OwnedFd, name: &str, mode: u32) -> io::Result<()> {
    // SAFETY: a string that lives through the call.
    check(unsafe { libc::mkdirat(folder.as_raw_fd(), c(name).as_ptr(), mode) }).map(drop)
}
