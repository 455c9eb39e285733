//! The cgroup of a jailed VM: made with its limits, joined from inside, and gone at the end.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::JailError;
use super::sys::{BENEATH, check, openat2};
use crate::config::Jail;

/// Where cgroups are by custom.
const MOUNT: &str = "/sys/fs/cgroup";
/// Linux magic.h.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

const FOLDER: i32 = libc::O_RDONLY | libc::O_DIRECTORY;

/// A cgroup of this process's making.
pub struct Cgroup {
    parent: OwnedFd,
    name: CString,
    folder: OwnedFd,
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup that `jail` asks for, with its limits; takes over one that a supervisor left
    /// that was killed.
    pub fn make(jail: &Jail) -> Result<Option<Self>, JailError> {
        let Some(parent) = &jail.cgroup else {
            return Ok(None);
        };
        // As /proc/PID/cgroup has it, or with the path of the mount.
        let parent = match parent.starts_with(MOUNT) {
            true => parent.clone(),
            false => Path::new(MOUNT).join(parent.strip_prefix("/").unwrap_or(parent)),
        };
        let path = parent.join(&jail.id);
        let failed = |what: &'static str| {
            let path = path.clone();
            move |source| JailError::Cgroup { path, what, source }
        };
        let parent_name = CString::new(parent.as_os_str().as_bytes());
        let parent_name = parent_name.map_err(|e| failed("naming it")(e.into()))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let opened = openat2(libc::AT_FDCWD, &parent_name, flags, 0, super::sys::NO_LINKS);
        if !is_version_2(opened.as_ref().ok(), &parent) {
            return Err(JailError::CgroupVersion);
        }
        let parent_fd = opened.map_err(|source| JailError::CgroupParent {
            path: parent.clone(),
            source,
        })?;
        let name = CString::new(jail.id.as_str()).map_err(|e| failed("naming it")(e.into()))?;
        let limits = limits(jail);
        enable(&parent_fd, &parent, &limits)?;
        // SAFETY: a name with its end.
        let made = check(unsafe { libc::mkdirat(parent_fd.as_raw_fd(), name.as_ptr(), 0o755) });
        let left_over = match made {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => true,
            Err(error) => return Err(failed("making it")(error)),
        };
        let folder = openat2(parent_fd.as_raw_fd(), &name, FOLDER, 0, BENEATH);
        let cgroup = Cgroup {
            folder: folder.map_err(failed("opening it"))?,
            parent: parent_fd,
            name,
            path: path.clone(),
        };
        if left_over {
            cgroup.empty().map_err(failed("emptying it"))?;
        }
        for limit in limits {
            cgroup
                .write(limit.file, &limit.value)
                .map_err(|source| JailError::CgroupLimit {
                    path: path.clone(),
                    key: limit.key,
                    value: limit.value.clone(),
                    source,
                })?;
        }
        Ok(Some(cgroup))
    }

    /// The file to which a process writes 0 to join.
    pub fn entrance(&self) -> Result<OwnedFd, JailError> {
        let procs = openat2(
            self.folder.as_raw_fd(),
            c"cgroup.procs",
            libc::O_WRONLY,
            0,
            BENEATH,
        );
        procs.map_err(|source| JailError::Cgroup {
            path: self.path.clone(),
            what: "opening its cgroup.procs",
            source,
        })
    }

    /// Whether the kernel has killed something for want of memory here.
    pub fn ran_out_of_memory(&self) -> bool {
        let events = self.read(c"memory.events").unwrap_or_default();
        let kills = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills != "0")
    }

    fn open(&self, file: &CStr, flags: i32) -> io::Result<File> {
        openat2(self.folder.as_raw_fd(), file, flags, 0, BENEATH).map(File::from)
    }

    fn write(&self, file: &CStr, value: &str) -> io::Result<()> {
        self.open(file, libc::O_WRONLY)?.write_all(value.as_bytes())
    }

    fn read(&self, file: &CStr) -> io::Result<String> {
        let mut text = String::new();
        self.open(file, libc::O_RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Kills what is left in it, and waits until that is gone.
    fn empty(&self) -> io::Result<()> {
        match self.write(c"cgroup.kill", "1") {
            // Hosts before Linux 5.14 have no such file; what was in the jail ends by itself.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let end = Instant::now() + PATIENCE;
        let mut events = self.open(c"cgroup.events", libc::O_RDONLY)?;
        loop {
            let mut text = String::new();
            std::io::Seek::rewind(&mut events)?;
            events.read_to_string(&mut text)?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let mut poll = libc::pollfd {
                fd: events.as_raw_fd(),
                events: libc::POLLPRI, // the kernel's word for a change
                revents: 0,
            };
            // SAFETY: one descriptor.
            unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32 + 1) };
        }
    }

    fn remove(&self) -> io::Result<()> {
        self.empty()?;
        let (parent, name) = (self.parent.as_raw_fd(), self.name.as_ptr());
        // SAFETY: a name with its end.
        check(unsafe { libc::unlinkat(parent, name, libc::AT_REMOVEDIR) }).map(drop)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::warn!("removing the cgroup {}: {error}", self.path.display());
        }
    }
}

/// A limit: its key in the option, its controller, its file, and what is written there.
struct Limit {
    key: &'static str,
    controller: &'static str,
    file: &'static CStr,
    value: String,
}

fn limits(jail: &Jail) -> Vec<Limit> {
    let limit = |key, controller, file, value: Option<String>| {
        value.map(|value| Limit {
            key,
            controller,
            file,
            value,
        })
    };
    let cpu = jail.cpu.map(|cpu| format!("{} 100000", cpu.in_100_ms()));
    let memory = jail.memory.map(|size| size.bytes().to_string());
    let cpus = jail.cpus.as_ref().map(ToString::to_string);
    [
        limit("cpu", "cpu", c"cpu.max", cpu),
        limit("memory", "memory", c"memory.max", memory),
        limit(
            "pids",
            "pids",
            c"pids.max",
            jail.pids.map(|n| n.to_string()),
        ),
        limit("cpus", "cpuset", c"cpuset.cpus", cpus),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Lets those below `parent` have the controllers of `limits`.
fn enable(parent: &OwnedFd, path: &Path, limits: &[Limit]) -> Result<(), JailError> {
    let open = |name, flags| openat2(parent.as_raw_fd(), name, flags, 0, BENEATH).map(File::from);
    let read = |name| -> io::Result<String> {
        let mut text = String::new();
        open(name, libc::O_RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    };
    let failed = |source| JailError::CgroupParent {
        path: path.to_owned(),
        source,
    };
    let has = |list: &str, name| list.split_ascii_whitespace().any(|word| word == name);
    let offered = read(c"cgroup.controllers").map_err(failed)?;
    let enabled = read(c"cgroup.subtree_control").map_err(failed)?;
    for limit in limits
        .iter()
        .filter(|limit| !has(&enabled, limit.controller))
    {
        let refused = |source| JailError::Controller {
            path: path.to_owned(),
            key: limit.key,
            controller: limit.controller,
            source,
        };
        if !has(&offered, limit.controller) {
            return Err(refused(None));
        }
        let word = format!("+{}", limit.controller);
        open(c"cgroup.subtree_control", libc::O_WRONLY)
            .and_then(|mut file| file.write_all(word.as_bytes()))
            .map_err(|source| refused(Some(source)))?;
    }
    Ok(())
}

/// Whether `folder`, or if that isn't there the place where all cgroups are, is of version 2.
fn is_version_2(folder: Option<&OwnedFd>, path: &Path) -> bool {
    let mount = CString::new(MOUNT).unwrap_or_default();
    // SAFETY: a struct of numbers, for which zeros are valid.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    let result = match folder {
        // SAFETY: a struct to be filled.
        Some(folder) => unsafe { libc::fstatfs(folder.as_raw_fd(), &raw mut status) },
        // Elsewhere there is nothing to be told by: the folder itself is missing.
        None if !path.starts_with(MOUNT) => return true,
        // SAFETY: a path with its end, and a struct to be filled.
        None => unsafe { libc::statfs(mount.as_ptr(), &raw mut status) },
    };
    result == 0 && status.f_type == CGROUP2_SUPER_MAGIC
}
