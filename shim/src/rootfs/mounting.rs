//! Mounts, and their end.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::error::RootfsError;
use super::loops::attach;
use super::options::Mounting;
use super::overlay::{by_number, layers};

const NONE: Option<&str> = None;

/// As long as mount(2) takes options: a page, with their end.
const MOST_DATA: usize = 4095;

/// What is mounted at a place and beneath it, until this is dropped.
#[derive(Debug)]
pub struct Mounted {
    at: Option<PathBuf>,
}

impl Mounted {
    /// All mounts of a snapshot, in their order, the first of them at `at`.
    pub fn all(mounts: &[Mounting], at: &Path) -> Result<Self, RootfsError> {
        let this = Mounted {
            at: Some(at.to_owned()),
        };
        for mount in mounts {
            mount_one(mount, at)?;
        }
        Ok(this)
    }

    /// An overlay that can only be read.
    pub fn overlay(data: &str, at: &Path) -> Result<Self, RootfsError> {
        let flags = MsFlags::MS_RDONLY;
        mount(Some("overlay"), at, Some("overlay"), flags, Some(data))
            .map_err(failed("overlay", data))?;
        Ok(Mounted {
            at: Some(at.to_owned()),
        })
    }

    /// Leaves it to [`cleanup`].
    pub fn keep(mut self) {
        self.at = None;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(at) = &self.at {
            cleanup(at);
        }
    }
}

/// Runs something whose mounts nobody else sees: in a mount namespace of a thread's, with which they end too.
pub fn alone<T: Send>(
    run: impl FnOnce() -> Result<T, RootfsError> + Send,
) -> Result<T, RootfsError> {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("a mount namespace", ""))?;
        // What others unmount goes here too; what is mounted here isn't seen by them.
        let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(NONE, "/", NONE, flags, NONE).map_err(failed("a mount namespace", ""))?;
        run()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rootfs".to_owned());
        let thread = thread.spawn_scoped(scope, run);
        let thread = thread.map_err(RootfsError::io(Path::new("a thread")))?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount_one(one: &Mounting, root: &Path) -> Result<(), RootfsError> {
    let target = within(root, &one.target).map_err(RootfsError::io(&root.join(&one.target)))?;
    // It leads there whatever the names on the way become.
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let target = target.as_str();
    let source = one.source.as_str();
    let failed = failed(&one.kind, source);
    if one.is_bind() {
        let how = one.flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
        mount(Some(source), target, NONE, how, NONE).map_err(&failed)?;
        let rest = one.flags - how;
        if !rest.is_empty() {
            // What is mounted now is above the folder that is open.
            let target = within(root, &one.target).map_err(RootfsError::io(root))?;
            let target = format!("/proc/self/fd/{}", target.as_raw_fd());
            let flags = rest | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
            mount(NONE, target.as_str(), NONE, flags, NONE).map_err(&failed)?;
        }
        return Ok(());
    }
    let mut data = one.data.join(",");
    let _open = match data.len() > MOST_DATA && one.kind == "overlay" {
        true => shorten(one, &mut data)?,
        false => Vec::new(),
    };
    if data.len() > MOST_DATA {
        return Err(one.wrong("its options are longer than 4095 bytes"));
    }
    let device = match one.is_loop {
        true => Some(attach(Path::new(source), one.is_read_only())?),
        false => None,
    };
    let source = device.as_ref().map_or(source, |device| &device.path);
    let kind = Some(one.kind.as_str());
    mount(Some(source), target, kind, one.flags, Some(data.as_str())).map_err(&failed)
}

/// Says the layers by the numbers of open files.
fn shorten(one: &Mounting, data: &mut String) -> Result<Vec<File>, RootfsError> {
    let mut all = Vec::new();
    let mut short = Vec::new();
    for option in &one.data {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let folders = match name {
            "lowerdir" => layers(value),
            "upperdir" | "workdir" => vec![PathBuf::from(value)],
            _ => {
                short.push(option.clone());
                continue;
            }
        };
        let (paths, open) = by_number(&folders)?;
        short.push(format!("{name}={paths}"));
        all.extend(open);
    }
    *data = short.join(",");
    Ok(all)
}

/// What is at a path in the root file system, whose links don't lead out of it.
fn within(root: &Path, target: &str) -> io::Result<OwnedFd> {
    let folder = File::open(root)?;
    let target = match target.trim_matches('/') {
        "" => ".",
        target => target,
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(&folder, target, how)?)
}

fn failed(kind: &str, from: &str) -> impl Fn(nix::Error) -> RootfsError + use<> {
    let (filesystem, from) = (kind.to_owned(), from.to_owned());
    move |error| RootfsError::Mount {
        filesystem: filesystem.clone(),
        from: from.clone(),
        source: error.into(),
    }
}

/// Unmounts all that is mounted at a container's folder and in it, if anything is. After it the folder can be
/// removed without anything of a snapshot's.
pub fn cleanup(work: &Path) {
    // As the kernel says it.
    let Ok(work) = fs::canonicalize(work) else {
        return;
    };
    let Ok(all) = fs::read("/proc/thread-self/mountinfo") else {
        log::warn!("what is mounted in {} can't be found", work.display());
        return;
    };
    // The last is above the others.
    for place in places(&all).rev().filter(|path| path.starts_with(&work)) {
        let gone = umount2(&place, MntFlags::UMOUNT_NOFOLLOW).or_else(|_| {
            // Somebody has a file of it open: it goes when they have closed it.
            let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
            umount2(&place, flags)
        });
        if let Err(error) = gone {
            log::warn!("unmounting {}: {error}", place.display());
        }
    }
}

/// Of mountinfo's lines the fifth field, in which some bytes are in octal digits (proc_pid_mountinfo(5)).
pub fn places(mountinfo: &[u8]) -> impl DoubleEndedIterator<Item = PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let lines: Vec<PathBuf> = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| {
            let mut path = Vec::new();
            let mut rest = field;
            while let Some((first, others)) = rest.split_first() {
                let digits = others.get(..3).filter(|_| *first == b'\\');
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                    Some(byte) => {
                        path.push(byte);
                        rest = &others[3..];
                    }
                    None => {
                        path.push(*first);
                        rest = others;
                    }
                }
            }
            std::ffi::OsString::from_vec(path).into()
        })
        .collect();
    lines.into_iter()
}
