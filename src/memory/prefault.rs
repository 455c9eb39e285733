//! Brings all of guest memory before the guest starts, on threads, while the rest of the VM is
//! being built.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use super::{MemoryError, hugetlb};

/// How much a thread brings at a time. While it does, no other thread of the process can map
/// anything (the kernel's mmap_lock), so it is some milliseconds' work.
const PIECE: u64 = 16 << 20;
/// These threads call nothing that needs more.
const STACK: usize = 64 << 10;

/// Memory on its way. Dropping it ends the threads.
#[derive(Debug)]
pub struct Prefault {
    threads: Vec<JoinHandle<io::Result<()>>>,
    work: Arc<Work>,
}

#[derive(Debug)]
struct Work {
    /// Keeps the mappings: `GuestRam` unmaps what nobody has a view of.
    _memory: GuestMemoryMmap<()>,
    pieces: Vec<Piece>,
    next: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    len: usize,
    page: usize,
}

impl Prefault {
    /// Starts as many threads as there are processors for this process, if there is work for so
    /// many.
    ///
    /// # Errors
    ///
    /// A thread could not be made.
    pub fn start(memory: &GuestMemoryMmap<()>) -> io::Result<Self> {
        let pieces = pieces(memory)?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let count = processors.min(pieces.len());
        let mut prefault = Prefault {
            threads: Vec::with_capacity(count),
            work: Arc::new(Work {
                _memory: memory.clone(),
                pieces,
                next: AtomicUsize::new(0),
            }),
        };
        for _ in 0..count {
            let work = prefault.work.clone();
            let builder = thread::Builder::new().name("mote-prefault".to_owned());
            let thread = builder.stack_size(STACK).spawn(move || work.run())?;
            prefault.threads.push(thread);
        }
        Ok(prefault)
    }

    /// Waits until all of it is there.
    ///
    /// # Errors
    ///
    /// The host has not enough memory, or not where it may be taken from.
    pub fn finish(mut self) -> Result<(), MemoryError> {
        let results: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        for result in results {
            let failed = || io::Error::other("a thread failed");
            let result = result.unwrap_or_else(|_| Err(failed()));
            result.map_err(MemoryError::Prefault)?;
        }
        Ok(())
    }
}

impl Drop for Prefault {
    fn drop(&mut self) {
        self.work.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&self) -> io::Result<()> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            bring(*piece).inspect_err(|_| self.stop())?;
        }
        Ok(())
    }

    fn stop(&self) {
        self.next.store(self.pieces.len(), Ordering::Relaxed);
    }
}

fn pieces(memory: &GuestMemoryMmap<()>) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for region in memory.iter() {
        let page = hugetlb::page_size(region.flags()).unwrap_or_else(super::page_size);
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(io::Error::other)?;
        let size = PIECE.max(page);
        for offset in (0..region.len()).step_by(size as usize) {
            pieces.push(Piece {
                start: host as usize + offset as usize,
                len: size.min(region.len() - offset) as usize,
                page: page as usize,
            });
        }
    }
    Ok(pieces)
}

/// Brings a piece's pages. What is in them stays as it is: somebody else may be writing there.
fn bring(piece: Piece) -> io::Result<()> {
    loop {
        // SAFETY: the range is mapped as long as `Work` lives; its content isn't changed.
        let result = unsafe {
            let start = piece.start as *mut libc::c_void;
            libc::madvise(start, piece.len, libc::MADV_POPULATE_WRITE)
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => {}
            // Linux before 5.14.
            Some(libc::EINVAL) => {
                touch(piece);
                return Ok(());
            }
            _ => return Err(error),
        }
    }
}

/// Writes to each page what is there already, in one step.
fn touch(piece: Piece) {
    for offset in (0..piece.len).step_by(piece.page) {
        // SAFETY: a byte of the piece, which is mapped for reading and writing; guest memory is
        // never accessed through a reference, but by atomics and volatile copies.
        let byte = unsafe { AtomicU8::from_ptr((piece.start + offset) as *mut u8) };
        byte.fetch_or(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Memory, Size};
    use crate::memory::{Backing, GuestRam};
    use vm_memory::{Bytes, GuestAddress};

    const MIB: u64 = 1 << 20;

    fn ram(backing: Backing, thp: bool) -> GuestRam {
        let how = Memory {
            thp,
            ..Memory::from(Size::mib(45))
        };
        let ranges = [
            (GuestAddress(0), 40 * MIB),
            (GuestAddress(1 << 32), 5 * MIB),
        ];
        GuestRam::with(&ranges, backing, &how).unwrap()
    }

    fn resident(ram: &GuestRam) -> u64 {
        let count = |range: std::ops::Range<u64>| {
            let len = (range.end - range.start) as usize;
            let mut pages = vec![0u8; len / 4096];
            // SAFETY: a mapping of `len` bytes, and room for a byte per page.
            let result = unsafe { libc::mincore(range.start as *mut _, len, pages.as_mut_ptr()) };
            assert_eq!(result, 0);
            pages.iter().filter(|&&page| page & 1 != 0).count() as u64
        };
        ram.host_ranges().into_iter().map(count).sum()
    }

    #[test]
    fn all_pages_are_there_and_keep_what_was_in_them() {
        for (backing, thp) in [
            (Backing::Anonymous, false),
            (Backing::Anonymous, true),
            (Backing::Shared, false),
        ] {
            let ram = ram(backing, thp);
            ram.memory().write_obj(7u8, GuestAddress(39 * MIB)).unwrap();
            Prefault::start(ram.memory()).unwrap().finish().unwrap();
            assert_eq!(resident(&ram), 45 * 256, "{backing:?}");
            let kept: u8 = ram.memory().read_obj(GuestAddress(39 * MIB)).unwrap();
            assert_eq!(kept, 7);
        }
    }

    #[test]
    fn an_older_kernel_has_its_pages_touched() {
        let ram = ram(Backing::Anonymous, false);
        ram.memory().write_obj(7u8, GuestAddress(0x1000)).unwrap();
        pieces(ram.memory()).unwrap().into_iter().for_each(touch);
        assert_eq!(resident(&ram), 45 * 256);
        let kept: u8 = ram.memory().read_obj(GuestAddress(0x1000)).unwrap();
        assert_eq!(kept, 7);
    }

    #[test]
    fn it_can_be_given_up_and_the_memory_goes() {
        // Large enough that no other test's mapping is put there.
        let ranges = [(GuestAddress(0), 2 << 30)];
        let ram = GuestRam::new(&ranges, Backing::Anonymous).unwrap();
        let middle = ram.host_ranges()[0].start + (1 << 30);
        drop(Prefault::start(ram.memory()).unwrap());
        drop(ram);
        let mut byte = 0u8;
        // SAFETY: an address that isn't mapped any more is an error of the call, not a fault.
        let result = unsafe { libc::mincore(middle as *mut _, 4096, &raw mut byte) };
        assert_eq!(result, -1);
    }
}
