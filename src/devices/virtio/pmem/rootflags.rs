//! Whether a file system can be mounted with `-o dax`: what its superblock says.

use std::os::unix::fs::FileExt;

use super::DaxFile;
use crate::config::DaxMode;

/// Blocks must be pages for DAX, and Linux's pages are this large wherever mote runs guests.
const PAGE_SHIFT: u32 = 12;

/// The value for `rootflags=` on the kernel's command line, where there is one.
pub fn rootflags(file: &DaxFile) -> Option<&'static str> {
    let mut start = [0; 2048];
    // An image may be shorter: what is missing reads as zeros.
    let mut at = 0;
    while let Ok(count @ 1..) = file.file().read_at(&mut start[at..], at as u64) {
        at += count;
    }
    flags(&start, file.config().mode)
}

fn flags(start: &[u8; 2048], mode: DaxMode) -> Option<&'static str> {
    let bytes = |at: usize| [start[at], start[at + 1], start[at + 2], start[at + 3]];
    let le32 = |at| u32::from_le_bytes(bytes(at));
    // ext4 (Linux Documentation/filesystems/ext4/super.rst), at byte 1024.
    if le32(1024 + 0x38) & 0xffff == 0xef53 {
        const RECOVER: u32 = 0x4;
        const INLINE_DATA: u32 = 0x8000;
        let (block_shift, features) = (le32(1024 + 0x18).saturating_add(10), le32(1024 + 0x60));
        let dax = block_shift == PAGE_SHIFT && features & INLINE_DATA == 0;
        // A journal that is to be replayed would be written to, even by a read-only mount.
        let no_journal = mode == DaxMode::ReadOnly && features & RECOVER != 0;
        return match (dax, no_journal) {
            (true, true) => Some("dax,noload"),
            (true, false) => Some("dax"),
            (false, true) => Some("noload"),
            (false, false) => None,
        };
    }
    // EROFS (fs/erofs/erofs_fs.h), at byte 1024; the block size's exponent is byte 12.
    if le32(1024) == 0xe0f5_e1e2 {
        return (u32::from(start[1024 + 12]) == PAGE_SHIFT).then_some("dax");
    }
    // XFS (fs/xfs/libxfs/xfs_format.h), at byte 0, big-endian; the block size follows.
    if &start[..4] == b"XFSB" {
        return (u32::from_be_bytes(bytes(4)) == 1 << PAGE_SHIFT).then_some("dax");
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
        for (parts, mode, expected) in [
            ([ext4, ext4_4k].as_slice(), shared, Some("dax")),
            (&[ext4, ext4_4k], ro, Some("dax")),
            (&[ext4, ext4_4k, recover], shared, Some("dax")),
            (&[ext4, ext4_4k, recover], ro, Some("dax,noload")),
            (&[ext4, ext4_4k, inline], shared, None),
            (&[ext4, recover], ro, Some("noload")),
            (&[ext4], shared, None),
            (&[ext4, (1024 + 0x18, &[0xff; 4])], shared, None),
            (&[(1024, &erofs), (1024 + 12, &[12])], ro, Some("dax")),
            (&[(1024, &erofs), (1024 + 12, &[9])], ro, None),
            (&[(0, b"XFSB\0\0\x10\0")], shared, Some("dax")),
            (&[(0, b"XFSB\0\0\x02\0")], shared, None),
            (&[(0, b"hsqs")], ro, None),
            (&[], ro, None),
        ] {
            assert_eq!(flags(&image(parts), mode), expected, "{parts:?}");
        }
    }
}
