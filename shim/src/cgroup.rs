//! The host's cgroup of a pod, in which the VM's processes are, so that what they use is the pod's: kubelet's limits and
//! figures hold for the VM as a whole. Of version 2 only; elsewhere they stay where containerd is.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

/// Where version 2 is mounted, alone.
const ROOT: &str = "/sys/fs/cgroup";
/// For processes that were killed to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cgroup that was made here.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Of those above it, the first that was made here too.
    first: PathBuf,
    processes: Arc<File>,
}

impl Cgroup {
    /// That of a specification's `linux.cgroupsPath`; `None` where the host has no version 2, or the path is none.
    pub fn make(given: &Path) -> Option<Self> {
        Cgroup::make_in(Path::new(ROOT), given)
    }

    fn make_in(root: &Path, given: &Path) -> Option<Self> {
        if !root.join("cgroup.controllers").exists() {
            return None;
        }
        let mut path = root.join(place(given)?);
        if divided(&path) {
            path.push(format!("mote-{}", std::process::id()));
        }
        let made = make(root, &path).and_then(|first| {
            let processes = File::options()
                .write(true)
                .open(path.join("cgroup.procs"))?;
            Ok((first, processes))
        });
        match made {
            Ok((first, processes)) => Some(Cgroup {
                path,
                first,
                processes: Arc::new(processes),
            }),
            Err(error) => {
                warn!(
                    "cgroup {}: {error}; the VM stays in containerd's",
                    path.display()
                );
                None
            }
        }
    }

    /// Puts the calling process into it: one system call, between fork and exec.
    pub fn enter(&self) -> io::Result<()> {
        (&*self.processes).write_all(b"0")
    }

    /// Writes down what was made, for whoever clears it away if this process can't.
    pub fn note(&self, file: &Path) -> io::Result<()> {
        let [path, first] = [&self.path, &self.first].map(|path| path.as_os_str().as_bytes());
        fs::write(file, [path, b"\n", first].concat())
    }

    /// Takes away what was made, as far as it is empty.
    pub fn remove(&self) {
        remove(&self.path, &self.first);
    }
}

/// Takes away what [`Cgroup::note`] has written down in a file, if that is there.
pub fn remove_noted(file: &Path) {
    let Ok(text) = fs::read(file) else { return };
    let mut lines = text.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    if let (Some(path), Some(first)) = (lines.next(), lines.next()) {
        remove(Path::new(path), Path::new(first));
    }
}

fn remove(path: &Path, first: &Path) {
    if let Err(error) = wait_until_empty(path) {
        log::debug!("{}: {error}", path.display());
    }
    for path in path.ancestors() {
        match fs::remove_dir(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return,
            _ if path == first => return,
            _ => {}
        }
    }
}

/// What was killed takes a moment to be gone. The kernel tells (cgroups(7), cgroup.events).
fn wait_until_empty(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut file = File::open(path.join("cgroup.events"))?;
    loop {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_string(&mut text)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if text.contains("populated 0") || left.is_zero() {
            return Ok(());
        }
        let mut entry = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLPRI,
            revents: 0,
        };
        // SAFETY: one entry. That it fails or is interrupted is seen by the next look.
        unsafe { libc::poll(&raw mut entry, 1, left.as_millis() as libc::c_int) };
    }
}

/// Whether others have controllers in cgroups below it, by which it can have no processes of its own (cgroup-v2, No
/// Internal Process Constraint).
fn divided(path: &Path) -> bool {
    let controllers = fs::read_to_string(path.join("cgroup.subtree_control"));
    controllers.is_ok_and(|names| !names.trim().is_empty())
}

/// Makes the folders, and tells which is the first that wasn't there.
fn make(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut first = None;
    let mut here = root.to_owned();
    let below = path.strip_prefix(root).map_err(io::Error::other)?;
    for name in below {
        here.push(name);
        match fs::create_dir(&here) {
            Ok(()) => {
                first.get_or_insert_with(|| here.clone());
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(first.unwrap_or(here))
}

/// A path below the root: as it is, or SLICE:PREFIX:NAME as systemd would have it (systemd.slice(5): a-b.slice is in
/// a.slice).
fn place(given: &Path) -> Option<PathBuf> {
    let text = given.to_str()?;
    let path = match text.splitn(3, ':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] => {
            let slice = if slice.is_empty() {
                "system.slice"
            } else {
                slice
            };
            let stem = slice.strip_suffix(".slice")?;
            let mut path = PathBuf::new();
            for (at, _) in stem.match_indices('-').filter(|(at, _)| *at > 0) {
                path.push(format!("{}.slice", &stem[..at]));
            }
            path.push(slice);
            path.push(format!("{prefix}-{name}.scope"));
            path
        }
        _ => text.trim_start_matches('/').into(),
    };
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && path.components().next().is_some()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_they_are_or_as_systemd_has_them() {
        let place = |given: &str| place(Path::new(given)).map(|path| path.display().to_string());
        assert_eq!(place("/default/c1").as_deref(), Some("default/c1"));
        assert_eq!(
            place("kubepods-burstable-pod1.slice:cri-containerd:abc").as_deref(),
            Some(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope"
            )
        );
        assert_eq!(place(":p:n").as_deref(), Some("system.slice/p-n.scope"));
        for wrong in ["", "/", "/a/../../b", "no:p:n", "../a"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn where_others_divide_it_a_cgroup_below_is_taken() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        let here = root.path().join("a");
        let below = here.join(format!("mote-{}", std::process::id()));
        fs::create_dir_all(&below).unwrap();
        for folder in [&here, &below] {
            fs::write(folder.join("cgroup.procs"), "").unwrap();
        }
        for (controllers, path) in [("\n", &here), ("memory pids\n", &below)] {
            fs::write(here.join("cgroup.subtree_control"), controllers).unwrap();
            let made = Cgroup::make_in(root.path(), Path::new("/a")).unwrap();
            assert_eq!(&made.path, path);
            assert_eq!(&made.first, path, "nothing was missing");
        }
    }

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let make = |given: &str| Cgroup::make_in(root.path(), Path::new(given));
        assert!(make("/a/b").is_none(), "no version 2");
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        // No kernel makes its file here.
        assert!(make("/a/b").is_none());
        fs::write(root.path().join("a/b/cgroup.procs"), "").unwrap();
        let here = make("/a/b").unwrap();
        here.enter().unwrap();
        fs::remove_file(root.path().join("a/b/cgroup.procs")).unwrap();
        let note = root.path().join("note");
        here.note(&note).unwrap();
        remove_noted(&note);
        here.remove(); // which finds nothing more
        assert!(!root.path().join("a/b").exists());
        assert!(root.path().join("a").exists(), "it was there before");
        // With a process in it, as with a file, it stays.
        fs::create_dir_all(root.path().join("c/d")).unwrap();
        fs::write(root.path().join("c/d/cgroup.procs"), "").unwrap();
        make("/c/d").unwrap().remove();
        assert!(root.path().join("c/d").exists());
    }
}
