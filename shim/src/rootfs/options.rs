//! A mount as containerd writes it down: what mount(8) takes, in one list.

use containerd_shim::protos::types::mount::Mount;
use nix::mount::MsFlags;

use super::error::RootfsError;

/// A mount.
#[derive(Debug)]
pub struct Mounting {
    /// The file system's type.
    pub kind: String,
    /// A device, folder or file.
    pub source: String,
    /// Where, from the root file system's root on.
    pub target: String,
    /// What the kernel knows for all file systems.
    pub flags: MsFlags,
    /// A file, which takes a loop device.
    pub is_loop: bool,
    /// What is the file system's own.
    pub data: Vec<String>,
}

/// Options that set flags, and those that take them back.
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("bind", true, MsFlags::MS_BIND),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("suid", false, MsFlags::MS_NOSUID),
    ("nodev", true, MsFlags::MS_NODEV),
    ("dev", false, MsFlags::MS_NODEV),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("atime", false, MsFlags::MS_NOATIME),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("nostrictatime", false, MsFlags::MS_STRICTATIME),
    ("defaults", true, MsFlags::empty()),
];

impl Mounting {
    pub fn read(mount: &Mount) -> Result<Self, RootfsError> {
        // The mount manager's are "format/...", "mkfs/..." and "mkdir/...", with {{ }} in options.
        let all = [&mount.source, &mount.target].into_iter();
        let mut all = all.chain(&mount.options);
        if mount.type_.contains('/') || all.any(|text| text.contains("{{")) {
            return Err(RootfsError::Template(mount.type_.clone()));
        }
        let mut this = Mounting {
            kind: mount.type_.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            flags: MsFlags::empty(),
            is_loop: false,
            data: Vec::new(),
        };
        for option in &mount.options {
            if option.starts_with("uidmap=") || option.starts_with("gidmap=") {
                return Err(RootfsError::Mapped(option.clone()));
            }
            let known = FLAGS.iter().find(|(name, ..)| name == option);
            match (known, option.as_str()) {
                (Some((_, sets, flags)), _) => this.flags.set(*flags, *sets),
                (None, "loop") => this.is_loop = true,
                // Notes of other programs'.
                (None, text) if text.starts_with("X-") || text.starts_with("x-") => {}
                (None, _) => this.data.push(option.clone()),
            }
        }
        if this.kind == "bind" {
            this.flags |= MsFlags::MS_BIND;
        }
        Ok(this)
    }

    pub fn is_read_only(&self) -> bool {
        self.flags.contains(MsFlags::MS_RDONLY)
    }

    pub fn is_bind(&self) -> bool {
        self.flags.contains(MsFlags::MS_BIND)
    }

    /// Whether it is the root, not something in it.
    pub fn is_whole(&self) -> bool {
        self.target.trim_matches('/').is_empty()
    }

    pub fn wrong(&self, what: impl Into<String>) -> RootfsError {
        RootfsError::Options {
            kind: self.kind.clone(),
            what: what.into(),
        }
    }
}
