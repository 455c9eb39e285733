//! /proc/PID/pagemap: a word for each page (Documentation/admin-guide/mm/pagemap.rst), for mappings of which
//! only a part is meant.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bits of a word.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const EXCLUSIVE: u64 = 1 << 56;
/// The page frame's number; zero for whom it is none of their business.
const FRAME: u64 = (1 << 55) - 1;

/// A transparent huge page.
const HUGE: u64 = 2 << 20;
/// No more is looked at, of all ranges together: guests' kernels are never larger, and what another process
/// tells may be anything.
const LIMIT: u64 = 16 << 30;
/// How many words are read at once.
const WORDS: usize = 4096;

/// Pages of a range, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub present_kib: u64,
    /// Present, and mapped by this process alone.
    pub private_kib: u64,
    /// Present, and looking as if in a huge page.
    pub huge_kib: u64,
    pub swapped_kib: u64,
}

/// The pages of one process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    page: u64,
    /// How much may still be looked at.
    left: Cell<u64>,
}

impl Pagemap {
    /// Opens that of the process with the folder `proc`.
    pub fn open(proc: &std::path::Path) -> io::Result<Self> {
        Ok(Pagemap {
            file: File::open(proc.join("pagemap"))?,
            page: page_size(),
            left: Cell::new(LIMIT),
        })
    }

    /// Counts the pages of `range`, which lies in the mapping `within`.
    pub fn count(&self, range: &Range<u64>, within: &Range<u64>) -> io::Result<Counts> {
        // Whole huge pages, so that those at its ends are recognised.
        let start = (range.start / HUGE * HUGE).max(within.start);
        let end = range.end.div_ceil(HUGE).saturating_mul(HUGE);
        let end = end.min(within.end);
        let left = self.left.get().checked_sub(end.saturating_sub(start));
        self.left.set(left.ok_or(io::ErrorKind::InvalidData)?);
        let mut block = Block::default();
        let mut counts = Counts::default();
        let mut bytes = vec![0; WORDS * 8];
        let (mut at, last) = (start / self.page, end.div_ceil(self.page));
        while at < last {
            let count = usize::try_from(last - at).map_or(WORDS, |n| n.min(WORDS));
            self.file.read_exact_at(&mut bytes[..count * 8], at * 8)?;
            for word in bytes[..count * 8].chunks_exact(8) {
                let word = word.try_into().map_or(0, u64::from_ne_bytes);
                let address = at * self.page;
                if address.is_multiple_of(HUGE) {
                    counts.huge_kib += block.end(self.page);
                }
                block.page(word, range.contains(&address), self.page);
                if range.contains(&address) {
                    counts.add(word, self.page / 1024);
                }
                at += 1;
            }
        }
        counts.huge_kib += block.end(self.page);
        Ok(counts)
    }
}

impl Counts {
    fn add(&mut self, word: u64, kib: u64) {
        if word & PRESENT != 0 {
            self.present_kib += kib;
            self.private_kib += if word & EXCLUSIVE != 0 { kib } else { 0 };
        } else if word & SWAPPED != 0 {
            self.swapped_kib += kib;
        }
    }
}

/// The pages of one aligned 2 MiB so far.
#[derive(Default)]
struct Block {
    present: u64,
    counted: u64,
    next_frame: u64,
    broken: bool,
}

impl Block {
    fn page(&mut self, word: u64, counted: bool, page: u64) {
        let frame = word & FRAME;
        self.broken |= word & PRESENT == 0;
        // Frames are seen by root only; in a huge page they follow one another.
        if frame != 0 {
            let aligned = self.present > 0 || frame.is_multiple_of(HUGE / page);
            let follows = self.present == 0 || frame == self.next_frame;
            self.broken |= !(aligned && follows);
            self.next_frame = frame + 1;
        }
        self.present += 1;
        self.counted += u64::from(counted);
    }

    /// The KiB of it that are counted, if it can be a huge page; then the next one.
    fn end(&mut self, page: u64) -> u64 {
        let block = std::mem::take(self);
        let whole = !block.broken && block.present * page == HUGE;
        if whole {
            block.counted * page / 1024
        } else {
            0
        }
    }
}

/// The size of a page of memory.
pub fn page_size() -> u64 {
    // SAFETY: takes no pointer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn fake(words: &[u64]) -> (tempfile::TempDir, Pagemap) {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<_> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        std::fs::write(folder.path().join("pagemap"), bytes).unwrap();
        let mut map = Pagemap::open(folder.path()).unwrap();
        map.page = 4096;
        (folder, map)
    }

    #[test]
    fn pages_are_counted_by_their_bits() {
        let one = PRESENT | EXCLUSIVE;
        let (_folder, map) = fake(&[one, PRESENT, 0, SWAPPED, one, one]);
        let within = 0..6 * 4096;
        let counts = map.count(&(4096..5 * 4096), &within).unwrap();
        let expected = Counts {
            present_kib: 8,
            private_kib: 4,
            huge_kib: 0,
            swapped_kib: 4,
        };
        assert_eq!(counts, expected);
        assert_eq!(map.count(&(0..0), &within).unwrap(), Counts::default());
    }

    #[test]
    fn a_huge_page_is_whole_aligned_and_of_frames_in_a_row() {
        let frames = |first: u64| (0..512).map(move |n| PRESENT | (first + n));
        let mut words: Vec<u64> = frames(512).chain(frames(100)).collect();
        words.extend(frames(1024).take(511).chain([0]));
        words.extend([PRESENT; 512]); // not root: no frames
        let within = 0..4 * HUGE;
        let (_folder, map) = fake(&words);
        let huge = |range: Range<u64>| map.count(&range, &within).unwrap().huge_kib;
        assert_eq!(huge(0..HUGE), 2048);
        assert_eq!(huge(HUGE..3 * HUGE), 0);
        assert_eq!(huge(0..4 * HUGE), 4096);
        // A part of one.
        assert_eq!(huge(0x1000..0x3000), 8);
    }

    #[test]
    fn too_much_or_too_short_is_an_error() {
        let (_folder, map) = fake(&[PRESENT; 4]);
        assert!(map.count(&(0..5 * 4096), &(0..5 * 4096)).is_err());
        let all = 0..u64::MAX;
        assert!(map.count(&all, &all).is_err());
        assert!(Pagemap::open(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn the_pages_of_this_process_are_found() {
        let page = page_size();
        let bytes = vec![1u8; 16 * page as usize];
        let start = (bytes.as_ptr() as u64).next_multiple_of(page);
        let range = start..start + 8 * page;
        let Ok(map) = Pagemap::open(Path::new("/proc/self")) else {
            return;
        };
        let counts = map.count(&range, &range).unwrap();
        assert_eq!(counts.present_kib, 8 * page / 1024);
    }
}
