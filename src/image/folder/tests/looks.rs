//! How an image is looked at: by erofs-utils, and mounted, file by file.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn is_root() -> bool {
    // SAFETY: takes nothing, and can't fail.
    let is = unsafe { libc::geteuid() } == 0;
    if !is {
        println!("NOT RUN: only root can make devices, owners and mounts");
    }
    is
}

/// Has erofs-utils check it, where they are.
pub fn check(image: &Path) {
    match Command::new("fsck.erofs").arg(image).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => println!("NOT RUN: fsck.erofs: {error}"),
    }
}

/// With the image mounted by this host's kernel, where it can.
pub fn with_mounted(image: &Path, look: impl FnOnce(&Path) + Send) {
    let has_erofs = fs::read_to_string("/proc/filesystems")
        .unwrap()
        .contains("erofs");
    let image = image.to_str().unwrap();
    if !mounted(&["-t", "erofs", "-o", "loop,ro", image], look) {
        assert!(!has_erofs);
        println!("NOT RUN: this host has no EROFS");
    }
}

/// With what these arguments of mount say, and whether it could be mounted.
pub fn mounted(arguments: &[&str], look: impl FnOnce(&Path) + Send) -> bool {
    let at = tempfile::tempdir().unwrap();
    // In a mount namespace of this thread's: nothing is left, however the test ends.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes no pointer.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            let flags = libc::MS_REC | libc::MS_SLAVE;
            let none = std::ptr::null();
            // SAFETY: a path with its end; the rest isn't looked at.
            let slave = unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) };
            assert_eq!(slave, 0);
            // The child is in the namespace of the thread that starts it.
            let mut mount = Command::new("mount");
            let output = mount.args(arguments).arg(at.path()).output().unwrap();
            println!("{}", String::from_utf8_lossy(&output.stderr));
            let is_mounted = output.status.success();
            if is_mounted {
                look(at.path());
            }
            is_mounted
        });
        match thread.join() {
            Ok(is_mounted) => is_mounted,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// All that differs.
pub fn differences(one: &Path, other: &Path) -> Vec<String> {
    let mut found = Vec::new();
    compare(one, other, &mut found);
    let links = (groups(one), groups(other));
    if links.0 != links.1 {
        found.push(format!("hard links: {links:?}"));
    }
    found
}

fn compare(one: &Path, other: &Path, found: &mut Vec<String>) {
    let (Ok(a), Ok(b)) = (fs::symlink_metadata(one), fs::symlink_metadata(other)) else {
        found.push(format!("{}: only one has it", one.display()));
        return;
    };
    let kind = |of: &fs::Metadata| (of.mode(), of.uid(), of.gid(), of.mtime());
    if kind(&a) != kind(&b) {
        found.push(format!("{}: {:?} {:?}", one.display(), kind(&a), kind(&b)));
    }
    if extended(one) != extended(other) {
        found.push(format!("{}: extended attributes", one.display()));
    }
    if a.is_dir() && b.is_dir() {
        let mut names = names(one);
        names.extend(self::names(other));
        names.sort();
        names.dedup();
        for name in names {
            compare(&one.join(&name), &other.join(&name), found);
        }
        return;
    }
    let is_device = a.file_type().is_char_device() || a.file_type().is_block_device();
    let same = (a.nlink() == b.nlink())
        && (!is_device || a.rdev() == b.rdev())
        && (!a.is_symlink() || fs::read_link(one).unwrap() == fs::read_link(other).unwrap())
        && (!a.is_file()
            || a.len() == b.len() && fs::read(one).unwrap() == fs::read(other).unwrap());
    if !same {
        found.push(format!("{}: content", one.display()));
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| entry.file_name().into()).collect()
}

/// The names of each file that has several, from the folder on.
fn groups(folder: &Path) -> Vec<Vec<PathBuf>> {
    let mut groups = std::collections::BTreeMap::<u64, Vec<PathBuf>>::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            todo.extend(names(&path).iter().map(|name| path.join(name)));
        } else if metadata.nlink() > 1 {
            let name = path.strip_prefix(folder).unwrap().to_owned();
            groups.entry(metadata.ino()).or_default().push(name);
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| group.sort());
    groups.sort();
    groups
}

pub fn extended(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut bytes = vec![0u8; 64 << 10];
    // SAFETY: a path with its end, and as many bytes as are told.
    let length = unsafe { libc::llistxattr(path.as_ptr(), bytes.as_mut_ptr().cast(), 64 << 10) };
    bytes.truncate(usize::try_from(length).unwrap());
    let names = bytes
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let (c_name, to) = (CString::new(name).unwrap(), value.as_mut_ptr().cast());
            // SAFETY: a path and a name with their ends, and as many bytes as are told.
            let length = unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), to, 64 << 10) };
            value.truncate(usize::try_from(length).unwrap());
            (name.to_vec(), value)
        })
        .collect();
    all.sort();
    all
}
