//! Whether a file system can be mounted with `-o dax`: what its superblock says.

use std::os::unix::fs::FileExt;

use super::DaxFile;
use crate::config::DaxMode;

/// Blocks must be pages for DAX, and Linux's pages are this large wherever mote runs guests.
const PAGE_SHIFT: u32 = 12;

/// How the kernel is to mount it as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootMount {
    /// The value for `rootfstype=`: another file system, asked before the right one, would
    /// complain of the flags.
    pub kind: &'static str,
    /// The value for `rootflags=`; may be empty.
    pub flags: &'static str,
}

impl RootMount {
    /// Whether the guest maps the files, instead of copying them.
    pub fn is_dax(self) -> bool {
        self.flags.starts_with("dax")
    }
}

/// What to say on the kernel's command line, where the file system is one that knows DAX.
pub fn root_mount(file: &DaxFile) -> Option<RootMount> {
    let mut start = [0; 2048];
    // An image may be shorter: what is missing reads as zeros.
    let mut at = 0;
    while let Ok(count @ 1..) = file.file().read_at(&mut start[at..], at as u64) {
        at += count;
    }
    root_mount_of(&start, file.config().mode)
}

fn root_mount_of(start: &[u8; 2048], mode: DaxMode) -> Option<RootMount> {
    let bytes = |at: usize| [start[at], start[at + 1], start[at + 2], start[at + 3]];
    let le32 = |at| u32::from_le_bytes(bytes(at));
    let mount = |kind, flags| Some(RootMount { kind, flags });
    let dax_if = |dax| if dax { "dax" } else { "" };
    // ext4 (Linux Documentation/filesystems/ext4/super.rst), at byte 1024.
    if le32(1024 + 0x38) & 0xffff == 0xef53 {
        const RECOVER: u32 = 0x4;
        const INLINE_DATA: u32 = 0x8000;
        let (block_shift, features) = (le32(1024 + 0x18).saturating_add(10), le32(1024 + 0x60));
        let dax = block_shift == PAGE_SHIFT && features & INLINE_DATA == 0;
        // A journal that is to be replayed would be written to, even by a read-only mount.
        let no_journal = mode == DaxMode::ReadOnly && features & RECOVER != 0;
        return match (dax, no_journal) {
            (true, true) => mount("ext4", "dax,noload"),
            (false, true) => mount("ext4", "noload"),
            (dax, false) => mount("ext4", dax_if(dax)),
        };
    }
    // EROFS (fs/erofs/erofs_fs.h), at byte 1024; the block size's exponent is byte 12.
    if le32(1024) == 0xe0f5_e1e2 {
        return mount("erofs", dax_if(u32::from(start[1024 + 12]) == PAGE_SHIFT));
    }
    // XFS (fs/xfs/libxfs/xfs_format.h), at byte 0, big-endian; the block size follows.
    if &start[..4] == b"XFSB" {
        let block_size = u32::from_be_bytes(bytes(4));
        return mount("xfs", dax_if(block_size == 1 << PAGE_SHIFT));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(parts: &[(usize, &[u8])]) -> [u8; 2048] {
        let mut start = [0; 2048];
        for (at, bytes) in parts {
            start[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        start
    }

    #[test]
    fn each_file_system_by_its_superblock() {
        let ext4 = (1024 + 0x38, [0x53, 0xef].as_slice());
        let (shared, ro) = (DaxMode::Shared, DaxMode::ReadOnly);
        let (ext4_4k, erofs) = ((1024 + 0x18, [2].as_slice()), [0xe2, 0xe1, 0xf5, 0xe0]);
        let recover = (1024 + 0x60, [4].as_slice());
        let inline = (1024 + 0x61, [0x80].as_slice());
        let (ext4_is, erofs_is) = (
            |flags| Some(("ext4", flags)),
            |flags| Some(("erofs", flags)),
        );
        for (parts, mode, expected) in [
            ([ext4, ext4_4k].as_slice(), shared, ext4_is("dax")),
            (&[ext4, ext4_4k], ro, ext4_is("dax")),
            (&[ext4, ext4_4k, recover], shared, ext4_is("dax")),
            (&[ext4, ext4_4k, recover], ro, ext4_is("dax,noload")),
            (&[ext4, ext4_4k, inline], shared, ext4_is("")),
            (&[ext4, recover], ro, ext4_is("noload")),
            (&[ext4], shared, ext4_is("")),
            (&[ext4, (1024 + 0x18, &[0xff; 4])], shared, ext4_is("")),
            (&[(1024, &erofs), (1024 + 12, &[12])], ro, erofs_is("dax")),
            (&[(1024, &erofs), (1024 + 12, &[9])], ro, erofs_is("")),
            (&[(0, b"XFSB\0\0\x10\0")], shared, Some(("xfs", "dax"))),
            (&[(0, b"XFSB\0\0\x02\0")], shared, Some(("xfs", ""))),
            (&[(0, b"hsqs")], ro, None),
            (&[], ro, None),
        ] {
            let mount = root_mount_of(&image(parts), mode).map(|m| (m.kind, m.flags));
            assert_eq!(mount, expected, "{parts:?}");
            let dax = root_mount_of(&image(parts), mode).is_some_and(RootMount::is_dax);
            assert_eq!(
                dax,
                expected.is_some_and(|(_, flags)| flags.contains("dax"))
            );
        }
    }
}
