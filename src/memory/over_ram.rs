//! A file's pages in place of RAM: what nobody writes to is the host's page cache, which all VMs
//! with that file share; what the guest writes to becomes a page of its own.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::page_size;
use super::reservation::{ANONYMOUS, PROTECTION};

/// Maps `len` bytes of `file` from `offset` on privately at the guest address `at`. `false` where
/// that can't be: RAM that is a memfd or of the host's pool, or numbers that aren't multiples of
/// the host's page size. What was in that RAM is gone otherwise.
///
/// The file must stay as it is. Of a page that nobody has written to, the guest sees what is written
/// to the file; a page that the file loses is a fault (SIGBUS, or KVM_RUN fails with EFAULT).
///
/// # Errors
///
/// The file can't be mapped. RAM is as it was then.
pub fn map_private(
    memory: &GuestMemoryMmap<()>,
    at: GuestAddress,
    len: u64,
    file: &File,
    offset: u64,
) -> io::Result<bool> {
    let Some((region, address)) = memory.to_region_addr(at) else {
        return Ok(false);
    };
    let ordinary = region.file_offset().is_none() && region.flags() == ANONYMOUS;
    let inside = len > 0 && len <= region.len() - address.0;
    let aligned = [at.0, len, offset].map(|n| n.is_multiple_of(page_size()));
    if !ordinary || !inside || aligned.contains(&false) {
        return Ok(false);
    }
    let host = region.get_host_address(address).map_err(io::Error::other)?;
    let host = host.cast::<libc::c_void>();
    let bytes = len as usize; // inside a region, whose length is one
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let (fd, private) = (file.as_raw_fd(), libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    // Elsewhere first: a mapping that fails may have taken away what it was to replace (mmap(2)).
    // SAFETY: a new mapping at an address of the kernel's choice.
    let elsewhere =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, PROTECTION, private, fd, offset) };
    if elsewhere == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the new mapping moves over a part of the region's, with the same rights to it. Nobody
    // holds a reference to guest memory: who looks there sees the file from now on.
    let moved = unsafe {
        let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(elsewhere, bytes, bytes, fixed, host)
    };
    if moved == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: what was mapped above; and RAM again where it may have been taken away.
        unsafe {
            libc::munmap(elsewhere, bytes);
            libc::mmap(host, bytes, PROTECTION, ANONYMOUS | libc::MAP_FIXED, -1, 0);
        }
        return Err(error);
    }
    // SAFETY: the mapping that was just made. As all guest memory, it stays out of core dumps.
    unsafe { libc::madvise(host, bytes, libc::MADV_DONTDUMP) };
    Ok(true)
}

/// Some bytes of guest memory; `None` where there are none, and where the page of a file has gone: the
/// kernel looks for them, so that this is no fault.
pub fn peek<const N: usize>(memory: &GuestMemoryMmap<()>, at: GuestAddress) -> Option<[u8; N]> {
    let (region, offset) = memory.to_region_addr(at)?;
    let host = region.get_slice(offset, N).ok()?.ptr_guard().as_ptr();
    let mut bytes = [0u8; N];
    let (to, from) = (
        libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: N,
        },
        libc::iovec {
            iov_base: host.cast_mut().cast(),
            iov_len: N,
        },
    );
    // SAFETY: writes as many bytes as `bytes` has; what it reads may not be there, which is an error.
    let read =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0) };
    usize::try_from(read)
        .is_ok_and(|read| read == N)
        .then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, GuestRam};
    use std::os::unix::fs::FileExt;
    use vm_memory::Bytes;

    const PAGE: u64 = 4096;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        for page in 0..4u8 {
            let bytes = [page + 1; PAGE as usize];
            file.write_all_at(&bytes, u64::from(page) * PAGE).unwrap();
        }
        file
    }

    fn ram(backing: Backing) -> GuestRam {
        GuestRam::new(&[(GuestAddress(0x10_0000), 4 << 20)], backing).unwrap()
    }

    #[test]
    fn the_guest_sees_the_file_and_writes_to_pages_of_its_own() {
        let (ram, file) = (ram(Backing::Anonymous), file());
        let memory = ram.memory();
        memory.write_obj(9u8, GuestAddress(0x20_0fff)).unwrap();
        let at = GuestAddress(0x20_1000);
        assert!(map_private(memory, at, 2 * PAGE, &file, PAGE).unwrap());
        let byte = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!(
            [0x20_0fff, 0x20_1000, 0x20_2fff, 0x20_3000].map(byte),
            [9, 2, 3, 0]
        );
        memory.write_obj(7u8, at).unwrap();
        assert_eq!([0x20_1000, 0x20_1001].map(byte), [7, 2]);
        let mut kept = [0];
        file.read_exact_at(&mut kept, PAGE).unwrap();
        assert_eq!(kept, [2]);
        // It goes with the RAM that it is part of.
        let host = ram.memory().get_host_address(at).unwrap() as u64;
        assert!(ram.host_ranges()[0].contains(&host));
    }

    #[test]
    fn a_page_that_the_file_has_lost_can_be_looked_for() {
        let (ram, file) = (ram(Backing::Anonymous), file());
        let at = |page: u64| GuestAddress(0x20_0000 + page * PAGE);
        assert!(map_private(ram.memory(), at(0), 4 * PAGE, &file, 0).unwrap());
        file.set_len(PAGE).unwrap();
        assert_eq!(peek(ram.memory(), at(0)), Some([1]));
        assert_eq!(peek::<1>(ram.memory(), at(1)), None);
        assert_eq!(peek(ram.memory(), at(4)), Some([0; 8]));
        assert_eq!(peek::<1>(ram.memory(), GuestAddress(0)), None);
    }

    #[test]
    fn what_cannot_be_mapped_is_left_as_it_is() {
        let (ram, file) = (ram(Backing::Anonymous), file());
        for (at, len, offset) in [
            (0x20_0800, PAGE, 0),
            (0x20_0000, PAGE, 100),
            (0x20_0000, 100, 0),
            (0x20_0000, 0, 0),
            (0x4f_f000, 2 * PAGE, 0),
            (0x20_0000, u64::MAX - 4095, 0),
            (0x1000, PAGE, 0),
        ] {
            let mapped = map_private(ram.memory(), GuestAddress(at), len, &file, offset);
            assert!(!mapped.unwrap(), "{at:#x} {len} {offset}");
        }
        let folder = File::open("/").unwrap();
        assert!(map_private(ram.memory(), GuestAddress(0x20_0000), PAGE, &folder, 0).is_err());
        let value: u64 = ram.memory().read_obj(GuestAddress(0x20_0000)).unwrap();
        assert_eq!(value, 0);
        let shared = self::ram(Backing::Shared);
        let mapped = map_private(shared.memory(), GuestAddress(0x20_0000), PAGE, &file, 0);
        assert!(!mapped.unwrap());
    }
}
