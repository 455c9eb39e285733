//! Pages that the guest may read and only the monitor writes.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The unit of this mapping, in bytes, whatever the host's page size.
pub const PAGE: usize = 4096;

/// Anonymous memory of the monitor, in pages of 4096 bytes of zeros, for a read-only slot of the
/// guest. The guest reads it whenever it likes, so it is only ever accessed atomically.
#[derive(Debug)]
pub struct Pages {
    words: NonNull<AtomicU32>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone and holds atomics.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// `count` pages, which cost memory once they are written.
    ///
    /// # Errors
    ///
    /// The host has no address space left.
    pub fn new(count: usize) -> io::Result<Self> {
        let bytes = count.checked_mul(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        match NonNull::new(base.cast()) {
            Some(words) if base != libc::MAP_FAILED => Ok(Pages { words, count }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The host address of the first page.
    pub fn host_address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    /// The 1024 words of a page, little-endian as the guest reads them.
    ///
    /// # Panics
    ///
    /// There is no such page.
    pub fn page(&self, index: usize) -> &[AtomicU32] {
        assert!(index < self.count, "page {index} of {}", self.count);
        let words = PAGE / size_of::<AtomicU32>();
        // SAFETY: `index` is within the mapping, which is page aligned, lives as long as `self`
        // and is only accessed through these atomics.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().add(index * words), words) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave; `&self` borrows have ended.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.count * PAGE) };
    }
}

/// Fills `data` with the bytes at `offset` of a page; zeros beyond its end.
pub fn read_bytes(words: &[AtomicU32], offset: usize, data: &mut [u8]) {
    for (place, at) in data.iter_mut().zip(offset..) {
        let word = words.get(at / 4).map_or(0, |w| w.load(Ordering::Acquire));
        *place = word.to_ne_bytes()[at % 4];
    }
}

/// Writes `data` at `offset` of a page, word by word; what is beyond the end is left out. To be
/// called by one thread at a time.
pub fn write_bytes(words: &[AtomicU32], offset: usize, data: &[u8]) {
    let mut at = offset;
    let mut rest = data;
    while let (Some(word), false) = (words.get(at / 4), rest.is_empty()) {
        let start = at % 4;
        let (now, later) = rest.split_at(rest.len().min(4 - start));
        let mut bytes = word.load(Ordering::Acquire).to_ne_bytes();
        bytes[start..start + now.len()].copy_from_slice(now);
        word.store(u32::from_ne_bytes(bytes), Ordering::Release);
        at += now.len();
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_land_where_they_are_said_to() {
        let pages = Pages::new(2).unwrap();
        write_bytes(pages.page(1), 0xffd, &[1, 2, 3, 4, 5]);
        write_bytes(pages.page(1), 3, &[6, 7, 8, 9, 10, 11]);
        let mut data = [0xaa; 8];
        read_bytes(pages.page(1), 0xffc, &mut data);
        assert_eq!(data, [0, 1, 2, 3, 0, 0, 0, 0]);
        read_bytes(pages.page(1), 2, &mut data);
        assert_eq!(data, [0, 6, 7, 8, 9, 10, 11, 0]);
        read_bytes(pages.page(0), 0, &mut data);
        assert_eq!(data, [0; 8]);
        assert_eq!(
            pages.page(1)[1].load(Ordering::Relaxed).to_le(),
            0x0a09_0807
        );
    }
}
