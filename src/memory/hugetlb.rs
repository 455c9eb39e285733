//! Pages of the host's pool of huge pages (Linux Documentation/admin-guide/mm/hugetlbpage.rst).
//!
//! They are reserved when they are mapped: a pool with too few is told then, instead of by a
//! signal (SIGBUS) when the guest touches the page that isn't there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::MemoryError;
use crate::config::HugePages;

/// mmap(2) and memfd_create(2) take the page size's logarithm here (include/uapi/asm-generic/
/// hugetlb_encode.h).
const SIZE_SHIFT: u32 = 26;
const SIZE_MASK: i32 = 0x3f;

/// What chooses the page size in the flags of mmap(2) and of memfd_create(2).
fn size_flag(pages: HugePages) -> i32 {
    (pages.size().bytes().trailing_zeros() << SIZE_SHIFT) as i32
}

/// Flags for mmap(2), in addition.
pub(super) fn map_flags(pages: HugePages) -> i32 {
    libc::MAP_HUGETLB | size_flag(pages)
}

/// Flags for memfd_create(2), in addition.
pub(super) fn memfd_flags(pages: HugePages) -> libc::c_uint {
    libc::MFD_HUGETLB | size_flag(pages) as libc::c_uint
}

/// The size of the pages in a mapping that was made with these flags, if they are of the pool.
pub(super) fn page_size(map_flags: i32) -> Option<u64> {
    let huge = map_flags & libc::MAP_HUGETLB != 0;
    huge.then(|| 1 << (map_flags >> SIZE_SHIFT & SIZE_MASK))
}

/// The pool's folder below `root`, the host's root.
fn pool(root: &Path, pages: HugePages) -> PathBuf {
    let kib = pages.size().bytes() >> 10;
    root.join(format!("sys/kernel/mm/hugepages/hugepages-{kib}kB"))
}

/// What to say where the pool would not give memory: `bytes` are asked for still, `total` in all.
pub(super) fn refused(
    root: &Path,
    pages: HugePages,
    bytes: u64,
    total: u64,
    source: io::Error,
) -> MemoryError {
    let pool = pool(root, pages);
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(pool.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let size = pages.size();
    let Some((count, free)) = read("nr_hugepages").zip(read("free_hugepages")) else {
        return MemoryError::NoHugePages { size, pool };
    };
    let of_others = read("resv_hugepages").unwrap_or(0);
    let available = free.saturating_sub(of_others);
    let missing = (bytes / size.bytes()).saturating_sub(available);
    if missing == 0 {
        return MemoryError::Reserve {
            size: total >> 20,
            source,
        };
    }
    MemoryError::HugePages {
        size,
        needed: total / size.bytes(),
        missing,
        enough: count + missing,
        file: pool.join("nr_hugepages"),
    }
}

/// Refuses to start where `node` of the host has too few free pages for `bytes` that are bound to it. The
/// kernel sets pages aside on the host as a whole (hugetlb_acct_memory, mm/hugetlb.c), and a page that
/// the node doesn't have is a fault (SIGBUS) of the guest's. Below `root`, the host's root.
pub(super) fn check_node(
    root: &Path,
    pages: HugePages,
    node: u16,
    bytes: u64,
) -> Result<(), MemoryError> {
    let kib = pages.size().bytes() >> 10;
    let pool = format!("sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB");
    let pool = root.join(pool);
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(pool.join(name)).ok()?;
        text.trim().parse().ok()
    };
    // A kernel that doesn't tell is asked no more.
    let Some((count, free)) = read("nr_hugepages").zip(read("free_hugepages")) else {
        return Ok(());
    };
    let needed = bytes / pages.size().bytes();
    match needed.saturating_sub(free) {
        0 => Ok(()),
        missing => Err(MemoryError::NodeHugePages {
            size: pages.size(),
            node,
            needed,
            missing,
            enough: count + missing,
            file: pool.join("nr_hugepages"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_size_is_in_the_flags() {
        for pages in [HugePages::Size2M, HugePages::Size1G] {
            assert_eq!(page_size(map_flags(pages)), Some(pages.size().bytes()));
        }
        assert_eq!(page_size(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS), None);
        assert_eq!(
            map_flags(HugePages::Size2M),
            libc::MAP_HUGETLB | libc::MAP_HUGE_2MB
        );
        assert_eq!(
            memfd_flags(HugePages::Size1G),
            libc::MFD_HUGETLB | libc::MFD_HUGE_1GB
        );
    }

    #[test]
    fn a_node_with_too_few_pages_is_told() {
        let root = tempfile::tempdir().unwrap();
        let check = |node, mib: u64| {
            let checked = check_node(root.path(), HugePages::Size2M, node, mib << 20);
            checked.map_err(|e| e.to_string())
        };
        assert_eq!(check(1, 64), Ok(()), "a kernel that doesn't tell");
        let folder = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
        let folder = root.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("nr_hugepages"), "20\n").unwrap();
        fs::write(folder.join("free_hugepages"), "10\n").unwrap();
        assert_eq!(check(1, 20), Ok(()));
        let text = check(1, 64).unwrap_err();
        for part in ["node 1", "32 huge pages", "22 more", "write 42 or more to"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("node1/hugepages"), "{text}");
    }

    #[test]
    fn too_few_pages_are_told_with_the_number_that_is_enough() {
        let root = tempfile::tempdir().unwrap();
        let told = |bytes: u64| {
            let source = io::Error::from_raw_os_error(libc::ENOMEM);
            refused(root.path(), HugePages::Size2M, bytes, bytes, source).to_string()
        };
        let text = told(64 << 20);
        assert!(text.contains("hugepages=2M: this host has none"), "{text}");
        let folder = root.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
        fs::create_dir_all(&folder).unwrap();
        for (name, value) in [
            ("nr_hugepages", "20\n"),
            ("free_hugepages", "10\n"),
            ("resv_hugepages", "4\n"),
        ] {
            fs::write(folder.join(name), value).unwrap();
        }
        let text = told(64 << 20);
        assert!(text.contains("32 huge pages"), "{text}");
        assert!(text.contains("26 more"), "{text}");
        assert!(text.contains("write 46 or more to"), "{text}");
        assert!(text.contains("hugepages-2048kB/nr_hugepages"), "{text}");
        // Enough by these numbers, and refused all the same: what the kernel says.
        let text = told(8 << 20);
        assert!(text.contains("reserving 8 MiB"), "{text}");
    }
}
