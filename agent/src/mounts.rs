//! Mounts, with options as fstab and the OCI specification name them.

use std::fs;
use std::path::Path;

use libc::c_ulong;
use mote_agent_protocol::Mount;

use crate::error::{Error, Result};
use crate::paths::{Made, Root, name_of};
use crate::sys;

/// What the options of a mount say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    flags: c_ulong,
    propagation: c_ulong,
    data: String,
}

/// Options that are flags, and whether they are set by it.
const FLAGS: [(&str, c_ulong, bool); 28] = [
    ("defaults", 0, true),
    ("ro", libc::MS_RDONLY, true),
    ("rw", libc::MS_RDONLY, false),
    ("nosuid", libc::MS_NOSUID, true),
    ("suid", libc::MS_NOSUID, false),
    ("nodev", libc::MS_NODEV, true),
    ("dev", libc::MS_NODEV, false),
    ("noexec", libc::MS_NOEXEC, true),
    ("exec", libc::MS_NOEXEC, false),
    ("sync", libc::MS_SYNCHRONOUS, true),
    ("async", libc::MS_SYNCHRONOUS, false),
    ("dirsync", libc::MS_DIRSYNC, true),
    ("remount", libc::MS_REMOUNT, true),
    ("mand", libc::MS_MANDLOCK, true),
    ("nomand", libc::MS_MANDLOCK, false),
    ("noatime", libc::MS_NOATIME, true),
    ("atime", libc::MS_NOATIME, false),
    ("nodiratime", libc::MS_NODIRATIME, true),
    ("diratime", libc::MS_NODIRATIME, false),
    ("relatime", libc::MS_RELATIME, true),
    ("norelatime", libc::MS_RELATIME, false),
    ("strictatime", libc::MS_STRICTATIME, true),
    ("nostrictatime", libc::MS_STRICTATIME, false),
    ("silent", libc::MS_SILENT, true),
    ("loud", libc::MS_SILENT, false),
    ("nosymfollow", 256, true), // MS_NOSYMFOLLOW
    ("bind", libc::MS_BIND, true),
    ("rbind", libc::MS_BIND | libc::MS_REC, true),
];

const PROPAGATION: [(&str, c_ulong); 8] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("unbindable", libc::MS_UNBINDABLE),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];

fn options(given: &[String]) -> Options {
    let mut options = Options::default();
    for option in given {
        if let Some((_, flag, set)) = FLAGS.iter().find(|(name, ..)| name == option) {
            match set {
                true => options.flags |= flag,
                false => options.flags &= !flag,
            }
        } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| name == option) {
            options.propagation = *flag;
        } else {
            if !options.data.is_empty() {
                options.data.push(',');
            }
            options.data.push_str(option);
        }
    }
    options
}

/// Makes a mount at its target in `root`. Returns the path by which it can be unmounted.
pub fn mount(root: &Root, mount: &Mount) -> Result<()> {
    let Options {
        flags,
        propagation,
        data,
    } = options(&mount.options);
    let binds = flags & libc::MS_BIND != 0;
    let failed = |error| Error::of(format!("mount {} ({})", mount.target, mount.kind))(error);
    let what = match binds && !Path::new(&mount.source).is_dir() {
        true => Made::File,
        false => Made::Folder,
    };
    let target = root.make(&mount.target, what)?;
    let first = match binds {
        true => libc::MS_BIND | (flags & libc::MS_REC),
        false => flags,
    };
    let kind = match binds {
        true => "",
        false => &mount.kind,
    };
    let at = name_of(&target);
    sys::mount(&mount.source, &at, kind, first, &data).map_err(|error| {
        let errno = error.raw_os_error();
        let error = failed(error);
        match errno {
            Some(libc::ENODEV) => {
                let message = format!(
                    "mount {}: the guest's kernel has no file system {}",
                    mount.target, mount.kind
                );
                Error::new(message, libc::ENODEV)
            }
            _ => error,
        }
    })?;
    // Now the target's name leads to the mount, not to what is beneath.
    let rest = flags & !(libc::MS_BIND | libc::MS_REC);
    if (binds && rest != 0) || propagation != 0 {
        let mounted = root.make(&mount.target, what)?;
        let at = name_of(&mounted);
        if binds && rest != 0 {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | rest;
            sys::mount("", &at, "", flags, "").map_err(failed)?;
        }
        if propagation != 0 {
            sys::mount("", &at, "", propagation, "").map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes a path read-only, or one that can't be read (by an empty thing over it). What isn't there needs
/// neither.
pub fn cover(root: &Root, path: &str, masked: bool) -> Result<()> {
    let Some(found) = root.find(path) else {
        return Ok(());
    };
    let at = name_of(&found);
    let failed = |error| Error::of(format!("covering {path}"))(error);
    if masked {
        let is_folder = fs::metadata(&at).is_ok_and(|found| found.is_dir());
        return match is_folder {
            true => sys::mount("tmpfs", &at, "tmpfs", libc::MS_RDONLY, "size=0k"),
            false => sys::mount("/dev/null", &at, "", libc::MS_BIND, ""),
        }
        .map_err(failed);
    }
    sys::mount(&at, &at, "", libc::MS_BIND | libc::MS_REC, "").map_err(failed)?;
    let covered = root.find(path).unwrap_or(found);
    let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
    sys::mount("", &name_of(&covered), "", flags, "").map_err(failed)
}

/// All that is mounted in this process's view at `folder` or beneath, the last one first.
pub fn under(folder: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = text.lines().filter_map(|line| line.split(' ').nth(1));
    let inside = |target: &&str| match target.strip_prefix(folder) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || folder.ends_with('/'),
        None => false,
    };
    let targets = targets
        .filter(inside)
        .map(|target| target.replace("\\040", " "));
    let mut targets: Vec<_> = targets.collect();
    targets.reverse();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let of = |text: &str| options(&Mount::new("tmpfs", "", "", text).options);
        let some = of("nosuid,noexec,mode=755,size=64k,ro,rw");
        assert_eq!(some.flags, libc::MS_NOSUID | libc::MS_NOEXEC);
        assert_eq!(some.data, "mode=755,size=64k");
        assert_eq!(some.propagation, 0);
        let bind = of("rbind,rprivate,ro");
        let flags = libc::MS_BIND | libc::MS_REC | libc::MS_RDONLY;
        assert_eq!(bind.flags, flags);
        assert_eq!(bind.propagation, libc::MS_PRIVATE | libc::MS_REC);
        assert_eq!(of("defaults"), Options::default());
    }
}
