//! Puts a checked kernel into guest memory.

use std::fs::File;
use std::io;
use std::ops::Range;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::kernel_image::{KernelImage, Segment};
use super::source::Source;
use crate::memory::over_ram;

/// How much is read, checked and copied at once where contents are checked: small enough for
/// a second-level cache, large enough for few system calls.
const CHECK_PIECE: usize = 1 << 20;
/// The guest's page size.
const PAGE: u64 = 4096;

/// Why a kernel could not be put into guest memory. The messages continue "the kernel PATH ".
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum PlacementError {
    #[error("needs more memory: give it --memory {needed_mib}M at least (it has {available_mib}M)")]
    NeedsMemory { needed_mib: u64, available_mib: u64 },
    #[error("cannot be read into guest memory at {address:#x}: {source}")]
    Copy { address: u64, source: io::Error },
    #[error(
        "cannot be mapped at {address:#x}: {source}; give --kernel-load copy, or put it into a file \
         system that maps files"
    )]
    Map { address: u64, source: io::Error },
}

/// The first address after the RAM that contains `address` without a gap; `None` where
/// `address` is no RAM.
pub(super) fn ram_end(memory: &GuestMemoryMmap<()>, address: u64) -> Option<u64> {
    let mut end = None;
    // Regions are in the order of their addresses.
    for region in memory.iter() {
        let start = region.start_addr().0;
        let region_end = start.saturating_add(region.len());
        match end {
            None if (start..region_end).contains(&address) => end = Some(region_end),
            Some(previous) if previous == start => end = Some(region_end),
            _ => {}
        }
    }
    end
}

/// Where RAM begins; 0 without any.
pub(super) fn ram_start(memory: &GuestMemoryMmap<()>) -> u64 {
    memory.iter().next().map_or(0, |first| first.start_addr().0)
}

/// Checks that all segments lie in RAM, with their zeroes. They don't begin before it, so only
/// the end can be wrong; and since neither architecture has them near the end of what RAM may
/// reach without a gap, more memory helps.
fn check_placement(
    image: &KernelImage,
    memory: &GuestMemoryMmap<()>,
) -> Result<(), PlacementError> {
    let start = ram_start(memory);
    let available = ram_end(memory, start).unwrap_or(start);
    if image.end() > available {
        return Err(PlacementError::NeedsMemory {
            needed_mib: (image.end() - start).div_ceil(1 << 20),
            available_mib: (available - start) >> 20,
        });
    }
    Ok(())
}

/// How many bytes of a kernel are where in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Copies.
    pub copied: u64,
    /// Pages of the file itself.
    pub mapped: u64,
}

/// Loads all segments.
///
/// What follows a segment's bytes (its BSS) is not written: guest memory is fresh, which is a
/// precondition of this module, and touching it would cost a page fault for every page.
pub(super) fn load(
    image: &KernelImage,
    source: &Source,
    memory: &GuestMemoryMmap<()>,
) -> Result<Loaded, PlacementError> {
    check_placement(image, memory)?;
    for segment in &image.segments {
        copy(segment, 0..segment.file_size, source, memory)?;
    }
    Ok(Loaded {
        copied: bytes(image),
        mapped: 0,
    })
}

/// Copies a range of a segment's bytes.
fn copy(
    segment: &Segment,
    range: Range<u64>,
    source: &Source,
    memory: &GuestMemoryMmap<()>,
) -> Result<(), PlacementError> {
    if range.is_empty() {
        return Ok(());
    }
    let address = segment.address + range.start;
    source
        .copy_to_guest(
            segment.offset + range.start,
            (range.end - range.start) as usize,
            memory,
            GuestAddress(address),
        )
        .map_err(|source| copy_error(address, source))
}

/// Like [`load`], but whole pages are not copied: they are the file's own, privately mapped. What
/// can't be mapped (see [`over_ram::map_private`]) is copied.
pub(super) fn map(
    image: &KernelImage,
    file: &File,
    length: u64,
    memory: &GuestMemoryMmap<()>,
) -> Result<Loaded, PlacementError> {
    check_placement(image, memory)?;
    let source = Source::File(file, length);
    let mut loaded = Loaded::default();
    for segment in &image.segments {
        // Guests have pages of 4096 bytes; a host with larger ones may have to copy it all.
        let first = segment.address.next_multiple_of(PAGE) - segment.address;
        let end = (segment.address + segment.file_size) / PAGE * PAGE;
        let pages = first..end.saturating_sub(segment.address);
        let mapped = !pages.is_empty()
            && over_ram::map_private(
                memory,
                GuestAddress(segment.address + pages.start),
                pages.end - pages.start,
                file,
                segment.offset + pages.start,
            )
            .map_err(|source| PlacementError::Map {
                address: segment.address,
                source,
            })?;
        if mapped {
            copy(segment, 0..pages.start, &source, memory)?;
            copy(segment, pages.end..segment.file_size, &source, memory)?;
            loaded.mapped += pages.end - pages.start;
            loaded.copied += segment.file_size - (pages.end - pages.start);
        } else {
            copy(segment, 0..segment.file_size, &source, memory)?;
            loaded.copied += segment.file_size;
        }
    }
    Ok(loaded)
}

/// Like [`load`], but also computes the CRC-32 of all the bytes, in the order of the addresses; with
/// `memory` as `None` it does only that. A piece at a time goes through a buffer that stays in the processor's cache:
/// what is checked is exactly what the guest gets.
pub(super) fn load_with_crc(
    image: &KernelImage,
    source: &Source,
    memory: Option<&GuestMemoryMmap<()>>,
) -> Result<(Loaded, u32), PlacementError> {
    if let Some(memory) = memory {
        check_placement(image, memory)?;
    }
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHECK_PIECE];
    for segment in &image.segments {
        let mut done = 0;
        while done < segment.file_size {
            let count = (segment.file_size - done).min(CHECK_PIECE as u64) as usize;
            let address = segment.address + done;
            let piece = &mut buffer[..count];
            source
                .read_exact_at(piece, segment.offset + done)
                .map_err(|source| copy_error(address, source))?;
            crc.update(piece);
            if let Some(memory) = memory {
                memory
                    .write_slice(piece, GuestAddress(address))
                    .map_err(|error| copy_error(address, io::Error::other(error)))?;
            }
            done += count as u64;
        }
    }
    let loaded = Loaded {
        copied: bytes(image),
        mapped: 0,
    };
    Ok((loaded, crc.finalize()))
}

/// The bytes that come from the file.
fn bytes(image: &KernelImage) -> u64 {
    image.segments.iter().map(|segment| segment.file_size).sum()
}

fn copy_error(address: u64, source: io::Error) -> PlacementError {
    PlacementError::Copy { address, source }
}
