//! A container's namespaces and root, as its processes come to be in them.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use libc::c_int;
use mote_agent_protocol::Container;
use mote_agent_protocol::container::{Device, Namespace};

use crate::error::{Error, Result};
use crate::paths::{Made, Root, name_of};
use crate::{mounts, network, sys};

/// Namespaces by their names in /proc/self/ns. A user namespace is none of them: the virtual machine is the wall.
const KINDS: [(&str, c_int); 6] = [
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("uts", libc::CLONE_NEWUTS),
];

/// Those that the guest's kernel has.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let there = |kind: &&str| Path::new("/proc/self/ns").join(kind).exists();
    KINDS.iter().map(|(kind, _)| *kind).filter(there)
}

/// Refuses by its name what this kernel, or this agent, has not.
pub fn check_namespaces(container: &Container) -> Result<()> {
    for Namespace { kind, .. } in &container.namespaces {
        if !KINDS.iter().any(|(name, _)| name == kind) {
            let message = format!("namespace {kind}: the agent makes none of that kind");
            return Err(Error::new(message, libc::EINVAL));
        }
        if !kinds().any(|name| name == kind) {
            let message = format!("namespace {kind}: the guest's kernel has none");
            return Err(Error::new(message, libc::ENOSYS));
        }
    }
    if container.hostname.is_some() && !has(container, "uts") {
        let what = "hostname: of a container with no uts namespace";
        return Err(Error::new(what, libc::EINVAL));
    }
    Ok(())
}

fn has(container: &Container, kind: &str) -> bool {
    let mut all = container.namespaces.iter();
    all.any(|namespace| namespace.kind == kind)
}

fn new_flags(container: &Container) -> c_int {
    let new = |kind: &str| {
        let mut all = container.namespaces.iter();
        all.any(|namespace| namespace.kind == kind && namespace.of.is_none())
    };
    let flags = KINDS.iter().filter(|(kind, _)| new(kind));
    flags.fold(0, |flags, (_, flag)| flags | flag)
}

/// What clone(2) is to be told: other namespaces can be entered by the process itself.
pub fn new_pid_namespace(container: &Container) -> c_int {
    new_flags(container) & libc::CLONE_NEWPID
}

/// Namespaces of other processes that a process is to be in.
#[derive(Debug, Default)]
pub struct Joined {
    fds: Vec<OwnedFd>,
    pid: Option<OwnedFd>,
}

impl Joined {
    /// Adds that of process `pid`.
    pub fn add(&mut self, pid: i32, kind: &str) -> Result<()> {
        let path = format!("/proc/{pid}/ns/{kind}");
        let file = File::open(&path);
        let file = file.map_err(Error::of(format_args!("namespace {kind}")))?;
        match kind {
            "pid" => self.pid = Some(file.into()),
            _ => self.fds.push(file.into()),
        }
        Ok(())
    }

    /// Has children of this process be in that one, until what it returns is dropped.
    pub fn enter_pid_namespace(&self) -> Result<Option<Back>> {
        let Some(pid) = &self.pid else {
            return Ok(None);
        };
        let own = File::open("/proc/self/ns/pid").map_err(Error::of("namespace pid"))?;
        sys::set_namespace(pid).map_err(Error::of("namespace pid"))?;
        Ok(Some(Back(own.into())))
    }

    /// What [`Joined::enter`] needs.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.fds.iter().map(AsRawFd::as_raw_fd)
    }

    /// For the process itself.
    pub fn enter(&self) -> Result<()> {
        let enter = |fd| sys::set_namespace(fd).map_err(Error::of("entering a namespace"));
        self.fds.iter().try_for_each(enter)
    }
}

/// The way back to the agent's own.
pub struct Back(OwnedFd);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = sys::set_namespace(&self.0) {
            eprintln!("mote-agent: back from a pid namespace: {error}");
        }
    }
}

/// In the first process: makes namespaces and root, and goes there.
pub fn make(container: &Container) -> Result<()> {
    let flags = new_flags(container) & !libc::CLONE_NEWPID;
    sys::unshare(flags).map_err(Error::of("making namespaces"))?;
    if flags & libc::CLONE_NEWNET != 0 {
        network::up("lo")?;
    }
    let root = &*container.root;
    let failed = |error| Error::of(format!("root {root}"))(error);
    if flags & libc::CLONE_NEWNS != 0 {
        // What is mounted here doesn't come back to the agent, but what the agent mounts comes here.
        sys::mount("", "/", "", libc::MS_REC | libc::MS_SLAVE, "").map_err(failed)?;
    }
    sys::mount(root, root, "", libc::MS_BIND | libc::MS_REC, "").map_err(failed)?;
    furnish(container)?;
    if container.read_only {
        let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
        sys::mount("", root, "", flags, "").map_err(failed)?;
    }
    if flags & libc::CLONE_NEWNS != 0 {
        std::env::set_current_dir(root).map_err(failed)?;
        sys::pivot_root_here().map_err(failed)?;
        sys::unmount(".", libc::MNT_DETACH).map_err(failed)?;
        std::env::set_current_dir("/").map_err(failed)?;
    } else {
        sys::chroot(root).map_err(failed)?;
    }
    if let Some(name) = &container.hostname {
        sys::set_hostname(name).map_err(Error::of("hostname"))?;
    }
    Ok(())
}

/// In a further process, whose namespaces are those of the first by now.
pub fn enter(container: &Container) -> Result<()> {
    match has(container, "mnt") {
        true => std::env::set_current_dir("/"),
        false => sys::chroot(&container.root),
    }
    .map_err(Error::of("the container's root"))
}

/// Mounts, devices, and what programs expect in /dev.
fn furnish(container: &Container) -> Result<()> {
    let root = Root::open(&container.root)?;
    for mount in &container.mounts {
        mounts::mount(&root, mount)?;
    }
    for device in &container.devices {
        make_device(&root, device)?;
    }
    if let Some(dev) = root.find("/dev") {
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            // Where it is there already, or the root is read-only, it stays as it is.
            let _ = symlink(target, format!("{}/{name}", name_of(&dev)));
        }
    }
    for (name, value) in &container.sysctl {
        let path = name.replace('.', "/");
        if path.split('/').any(|part| part == "..") {
            let message = format!("sysctl {name}: no such setting");
            return Err(Error::new(message, libc::EINVAL));
        }
        let written = fs::write(Path::new("/proc/sys").join(path), value);
        written.map_err(Error::of(format_args!("sysctl {name}")))?;
    }
    for (paths, masked) in [
        (&container.read_only_paths, false),
        (&container.masked, true),
    ] {
        for path in paths {
            mounts::cover(&root, path, masked)?;
        }
    }
    Ok(())
}

/// Makes a device's node. Another one of the same device may be there already; of anything else of that name, as a link of
/// the image's, nothing is to be changed or used.
fn make_device(root: &Root, device: &Device) -> Result<()> {
    let failed = || format!("device {}", device.path);
    let Some((folder, name)) = device.path.rsplit_once('/') else {
        let message = format!("{}: must be a whole path", failed());
        return Err(Error::new(message, libc::EINVAL));
    };
    let folder = root.make(folder, Made::Folder)?;
    let number = libc::makedev(device.numbers.0, device.numbers.1);
    match sys::mknod_at(&folder, name, device.mode, number) {
        Ok(()) => {
            let _ = sys::chown_at(&folder, name, device.owner);
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let found = sys::stat_at(&folder, name).map_err(Error::of(failed()))?;
            let kind = device.mode & libc::S_IFMT;
            let has_number = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
            let is_it = found.st_mode & libc::S_IFMT == kind;
            match is_it && (!has_number || found.st_rdev == number) {
                true => Ok(()),
                false => Err(Error::of(failed())(error)),
            }
        }
        Err(error) => Err(Error::of(failed())(error)),
    }
}
