//! What every kernel is once its headers are read and checked: parts of a file with the
//! addresses that they go to, and where the kernel is entered.

use thiserror::Error;

use super::error::ElfError;
use super::image::ImageError;

/// One part of the kernel: `file_size` bytes at `offset`, to be at `address`, then zeroes up
/// to `memory_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub file_size: u64,
    pub address: u64,
    pub memory_size: u64,
}

/// A checked kernel: its segments lie inside the file and don't overlap in memory, no sum of
/// their numbers overflows, and there is at least one. Whether they lie in RAM is
/// [`super::segments`]' to check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KernelImage {
    /// In the order of their addresses.
    pub segments: Vec<Segment>,
    /// An ELF file's `e_entry`, not checked: only the 64-bit protocol uses it. The start of an
    /// arm64 Image.
    pub entry: u64,
    /// The PVH entry point; lies in a segment.
    pub pvh: Option<u32>,
}

impl KernelImage {
    /// The address of the lowest segment.
    pub fn start(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.address)
    }

    /// The first address after the highest segment, its zeroes included.
    pub fn end(&self) -> u64 {
        self.segments
            .last()
            .map_or(0, |segment| segment.address + segment.memory_size)
    }

    /// The first address after the lowest segment's bytes. In a vmlinux Linux has its code and
    /// read-only data there (arch/x86/kernel/vmlinux.lds.S, the program header `text`); an arm64
    /// Image has no other segment, so that its data is before this address too.
    pub fn text_end(&self) -> u64 {
        self.segments
            .first()
            .map_or(0, |segment| segment.address + segment.file_size)
    }
}

/// What is wrong with the headers of a kernel: the messages continue "the kernel PATH ".
#[derive(Debug, Error)]
pub(super) enum HeaderError {
    #[error(transparent)]
    Elf(#[from] ElfError),
    #[error(transparent)]
    Image(#[from] ImageError),
}
