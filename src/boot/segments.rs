//! Puts a checked kernel into guest memory.

use std::io;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::elf::ElfImage;
use super::source::Source;

/// How much is read, checked and copied at once where contents are checked: small enough for
/// a second-level cache, large enough for few system calls.
const CHECK_PIECE: usize = 1 << 20;

/// Why a kernel could not be put into guest memory. The messages continue "the kernel PATH ".
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum PlacementError {
    #[error("needs more memory: give it --memory {needed_mib}M at least (it has {available_mib}M)")]
    NeedsMemory { needed_mib: u64, available_mib: u64 },
    #[error("cannot be read into guest memory at {address:#x}: {source}")]
    Copy { address: u64, source: io::Error },
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

/// Checks that all segments lie in RAM: they are above LOWEST_KERNEL_ADDRESS already, so
/// only the end can be wrong, and since it is below HIGHEST_KERNEL_ADDRESS more memory helps.
fn check_placement(image: &ElfImage, memory: &GuestMemoryMmap<()>) -> Result<(), PlacementError> {
    let available = ram_end(memory, super::LOWEST_KERNEL_ADDRESS).unwrap_or(0);
    if image.end() > available {
        return Err(PlacementError::NeedsMemory {
            needed_mib: image.end().div_ceil(1 << 20),
            available_mib: available >> 20,
        });
    }
    Ok(())
}

/// Loads all segments; returns the number of bytes copied.
///
/// What follows a segment's bytes (its BSS) is not written: guest memory is fresh, which is a
/// precondition of this module, and touching it would cost a page fault for every page.
pub(super) fn load(
    image: &ElfImage,
    source: &Source,
    memory: &GuestMemoryMmap<()>,
) -> Result<u64, PlacementError> {
    check_placement(image, memory)?;
    for segment in &image.segments {
        source
            .copy_to_guest(
                segment.offset,
                segment.file_size as usize,
                memory,
                GuestAddress(segment.address),
            )
            .map_err(|source| copy_error(segment.address, source))?;
    }
    Ok(bytes(image))
}

/// Like [`load`], but also computes the CRC-32 of all that was copied, in the order of the
/// addresses. A piece at a time goes through a buffer that stays in the processor's cache:
/// what is checked is exactly what the guest gets.
pub(super) fn load_with_crc(
    image: &ElfImage,
    source: &Source,
    memory: &GuestMemoryMmap<()>,
) -> Result<(u64, u32), PlacementError> {
    check_placement(image, memory)?;
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
            memory
                .write_slice(piece, GuestAddress(address))
                .map_err(|error| copy_error(address, io::Error::other(error)))?;
            done += count as u64;
        }
    }
    Ok((bytes(image), crc.finalize()))
}

/// The bytes that come from the file.
fn bytes(image: &ElfImage) -> u64 {
    image.segments.iter().map(|segment| segment.file_size).sum()
}

fn copy_error(address: u64, source: io::Error) -> PlacementError {
    PlacementError::Copy { address, source }
}
