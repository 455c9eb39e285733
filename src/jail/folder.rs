//! The folder of a jailed VM, ROOT/ID: who has it, what is in it, and its end.
//!
//! - The lock on the folder itself is the supervisor's, as long as it lives.
//! - `pid` has the supervisor's number. The lock on that file is of those in the jail: after a
//!   `kill -9` of the supervisor, it tells when they are gone, too.
//! - `run` belongs to the jailed process, which has it as /run. What is in it is not trusted.
//!
//! Nobody else can open ROOT/ID for reading, so nobody else can lock it. Every path here is one name below
//! an open folder.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::JailError;
use super::sys::{BENEATH, NO_LINKS, check, is_alive, lock, lock_within, openat2};

const RUN: &CStr = c"run";
const PID: &CStr = c"pid";
/// How long a start waits for what was forked by a supervisor that was killed: it ends with it, once it gets to run.
const PATIENCE: Duration = Duration::from_secs(5);
const FOLDER: i32 = libc::O_RDONLY | libc::O_DIRECTORY;

/// ROOT/ID, which is this process's until it's dropped; then it is gone.
pub struct Folder {
    root: OwnedFd,
    name: CString,
    folder: OwnedFd,
    /// Held by those in the jail, too.
    pid: Option<OwnedFd>,
    path: PathBuf,
}

impl Folder {
    /// Makes the folder `id` in `root`, or takes over what a supervisor left there that was killed.
    pub fn claim(root: &Path, id: &str) -> Result<Self, JailError> {
        let path = root.join(id);
        let failed = |what| {
            let path = path.clone();
            move |source| JailError::Folder { path, what, source }
        };
        let name = CString::new(id).map_err(|e| failed("naming it")(e.into()))?;
        let root = open_root(root)?;
        let folder = loop {
            let folder = open_or_make(root.as_fd(), &name, 0o711).map_err(failed("opening it"))?;
            check_ours(&folder, &path)?;
            if !lock(folder.as_fd(), false).map_err(failed("locking it"))? {
                let holder = read_pid(folder.as_fd());
                // A supervisor that was killed while it started leaves its lock to what it had forked.
                let is_left = !holder.is_some_and(is_alive);
                if !is_left
                    || !lock_within(folder.as_fd(), PATIENCE).map_err(failed("locking it"))?
                {
                    let holder =
                        holder.map_or("another process".to_owned(), |n| format!("process {n}"));
                    return Err(JailError::InUse { path, holder });
                }
            }
            // Whoever had it may have removed it meanwhile.
            if status(&folder).map_err(failed("looking at it"))?.nlink() > 0 {
                break folder;
            }
        };
        clear(folder.as_fd(), &path).map_err(failed("clearing it"))?;
        let mut claimed = Folder {
            root,
            name,
            folder,
            pid: None,
            path: path.clone(),
        };
        claimed.sign().map_err(failed("writing `pid`"))?;
        Ok(claimed)
    }

    fn sign(&mut self) -> io::Result<()> {
        let folder = self.folder.as_raw_fd();
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let mut pid = File::from(openat2(folder, PID, flags, 0o600, BENEATH)?);
        writeln!(pid, "{}", std::process::id())?;
        // Those in the jail get one by which nothing can be written.
        let pid = openat2(folder, PID, libc::O_RDONLY, 0, BENEATH)?;
        lock(pid.as_fd(), true)?;
        self.pid = Some(pid);
        Ok(())
    }

    /// Makes the folder that the jailed process sees as /run, and opens it.
    pub fn make_run(&self, uid: u32, gid: u32) -> Result<OwnedFd, JailError> {
        let made = || {
            let folder = self.folder.as_raw_fd();
            // SAFETY: a name with its end.
            check(unsafe { libc::mkdirat(folder, RUN.as_ptr(), 0o700) })?;
            let run = openat2(folder, RUN, FOLDER, 0, BENEATH)?;
            // SAFETY: takes no pointer.
            check(unsafe { libc::fchown(run.as_raw_fd(), uid, gid) })?;
            Ok(run)
        };
        made().map_err(|source| JailError::Folder {
            path: self.path.join("run"),
            what: "making it",
            source,
        })
    }

    /// The folder itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The file whose lock those in the jail hold.
    pub fn jail_lock(&self) -> Option<BorrowedFd<'_>> {
        self.pid.as_ref().map(AsFd::as_fd)
    }

    /// Closes this process's copy of that file: from now on only those in the jail hold the lock.
    pub fn leave_lock_to_the_jail(&mut self) {
        self.pid = None;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let folder = self.folder.as_fd();
        let removed = remove_run(folder)
            .and_then(|()| remove(folder, PID, 0))
            .and_then(|()| remove(self.root.as_fd(), &self.name, libc::AT_REMOVEDIR));
        if let Err(error) = removed {
            log::warn!("removing {}: {error}", self.path.display());
        }
    }
}

/// Removes what a supervisor left that was killed, once those in its jail are gone.
fn clear(folder: BorrowedFd, path: &Path) -> io::Result<()> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    match openat2(folder.as_raw_fd(), PID, flags, 0, BENEATH) {
        Ok(pid) => {
            log::info!("{}: left by a supervisor that was killed", path.display());
            // They are killed with it: soon.
            lock(pid.as_fd(), true)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    remove_run(folder)?;
    remove(folder, PID, 0)
}

/// Opens the folder in which those of all VMs are; makes it where only its last part is missing.
fn open_root(path: &Path) -> Result<OwnedFd, JailError> {
    let failed = |source| JailError::Folder {
        path: path.to_owned(),
        what: "opening it",
        source,
    };
    let nul = |_| failed(ErrorKind::InvalidInput.into());
    let whole = CString::new(path.as_os_str().as_bytes()).map_err(nul)?;
    let root = match openat2(libc::AT_FDCWD, &whole, FOLDER, 0, NO_LINKS) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let parent = CString::new(parent.as_os_str().as_bytes()).map_err(nul)?;
            let name = path.file_name().unwrap_or_default();
            let name = CString::new(name.as_bytes()).map_err(nul)?;
            openat2(libc::AT_FDCWD, &parent, FOLDER, 0, NO_LINKS)
                .and_then(|parent| open_or_make(parent.as_fd(), &name, 0o755))
        }
        opened => opened,
    };
    let root = root.map_err(failed)?;
    check_ours(&root, path)?;
    Ok(root)
}

/// Another user who could write there could put something else in place of what is made.
fn check_ours(folder: &OwnedFd, path: &Path) -> Result<(), JailError> {
    let status = status(folder).map_err(|source| JailError::Folder {
        path: path.to_owned(),
        what: "looking at it",
        source,
    })?;
    // SAFETY: takes no pointer.
    let user = unsafe { libc::geteuid() };
    let path = path.to_owned();
    match status.uid() {
        owner if owner != user && owner != 0 => Err(JailError::Foreign { path, owner }),
        _ if status.mode() & 0o022 != 0 => Err(JailError::Writable { path }),
        _ => Ok(()),
    }
}

fn status(folder: &OwnedFd) -> io::Result<std::fs::Metadata> {
    File::from(folder.try_clone()?).metadata()
}

fn open_or_make(parent: BorrowedFd, name: &CStr, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let resolve = BENEATH | libc::RESOLVE_NO_XDEV;
    // SAFETY: a name with its end.
    let made = check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) });
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Err(_) => return openat2(parent.as_raw_fd(), name, FOLDER, 0, resolve),
        Ok(_) => {}
    }
    let folder = openat2(parent.as_raw_fd(), name, FOLDER, 0, resolve)?;
    // Whatever the umask is.
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchmod(folder.as_raw_fd(), mode) })?;
    Ok(folder)
}

/// The supervisor whose folder it is, if it has come to say so.
fn read_pid(folder: BorrowedFd) -> Option<libc::pid_t> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let pid = openat2(folder.as_raw_fd(), PID, flags, 0, BENEATH).ok()?;
    let mut text = String::new();
    File::from(pid).take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Removes a name, if it is there.
fn remove(folder: BorrowedFd, name: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: a name with its end.
    match check(unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), flags) }) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes `run` and whatever a jailed process may have put there: folders in folders as deep as it
/// likes, so their content is moved up instead of going down.
fn remove_run(folder: BorrowedFd) -> io::Result<()> {
    let run = match openat2(folder.as_raw_fd(), RUN, FOLDER, 0, BENEATH) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0_u64;
    loop {
        let names = names(run.as_fd())?;
        if names.is_empty() {
            break;
        }
        for name in names {
            match remove(run.as_fd(), &name, 0) {
                Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {}
                result => {
                    result?;
                    continue;
                }
            }
            let below = openat2(run.as_raw_fd(), &name, FOLDER, 0, BENEATH)?;
            for inner in self::names(below.as_fd())? {
                moved += 1;
                let outer = CString::new(format!(".mote-{moved}"))?;
                // SAFETY: names with their ends.
                check(unsafe {
                    libc::renameat2(
                        below.as_raw_fd(),
                        inner.as_ptr(),
                        run.as_raw_fd(),
                        outer.as_ptr(),
                        libc::RENAME_NOREPLACE,
                    )
                })
                .map(drop)
                .or_else(|error| match error.kind() {
                    ErrorKind::AlreadyExists => Ok(()), // at the next round
                    _ => Err(error),
                })?;
            }
            match remove(run.as_fd(), &name, libc::AT_REMOVEDIR) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                result => result?,
            }
        }
    }
    remove(folder, RUN, libc::AT_REMOVEDIR)
}

/// What is in a folder.
fn names(folder: BorrowedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    let copy = openat2(folder.as_raw_fd(), c".", FOLDER, 0, BENEATH)?;
    let fd = std::os::fd::IntoRawFd::into_raw_fd(copy);
    // SAFETY: an open folder, which the stream owns from now on.
    let stream = unsafe { libc::fdopendir(fd) };
    if stream.is_null() {
        let error = io::Error::last_os_error();
        // SAFETY: the stream hasn't taken it.
        unsafe { libc::close(fd) };
        return Err(error);
    }
    loop {
        // SAFETY: the stream is open; the entry is copied before the next call.
        let entry = unsafe { libc::readdir(stream) };
        if entry.is_null() {
            break;
        }
        // SAFETY: the kernel's name, with its end.
        let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    // SAFETY: opened above, and not used any more.
    unsafe { libc::closedir(stream) };
    Ok(names)
}
