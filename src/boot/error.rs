//! What can be wrong with a kernel: the messages that a user sees.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::HIGHEST_KERNEL_ADDRESS;
use super::architecture::Architecture;
use super::bzimage::BzImageError;
use super::decompress::DecompressError;
use super::elf::{MAX_NOTES_SIZE, MAX_PROGRAM_HEADERS};
use super::image::ImageError;
use super::segments::PlacementError;
use super::zboot::ZbootError;

/// Why a kernel can't be booted. Each message is one whole line with the path in it.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum KernelError {
    #[error("cannot open the kernel {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("the kernel {path} is not a regular file: {}", .architecture.advice())]
    NotAFile {
        path: PathBuf,
        architecture: Architecture,
    },
    #[error("cannot read the kernel {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the kernel {path} {what}: {remedy}")]
    Unrecognised {
        path: PathBuf,
        what: &'static str,
        remedy: &'static str,
    },
    #[error("the kernel {path} {source}")]
    Elf { path: PathBuf, source: ElfError },
    #[error("the kernel {path} {source}")]
    BzImage { path: PathBuf, source: BzImageError },
    #[error("the kernel {path} {source}")]
    Image { path: PathBuf, source: ImageError },
    #[error("the kernel {path} {source}")]
    Zboot { path: PathBuf, source: ZbootError },
    #[error(
        "the kernel {path} is an arm64 kernel, which has one entry point: leave --protocol out \
         (or give auto)"
    )]
    OneEntry { path: PathBuf },
    #[error("the kernel {path} {source}")]
    Unpack {
        path: PathBuf,
        source: DecompressError,
    },
    #[error("the kernel {path} {source}")]
    Placement {
        path: PathBuf,
        source: PlacementError,
    },
}

/// What is wrong with an ELF file as a kernel. The messages continue "the kernel PATH ".
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum ElfError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error(
        "is truncated: its {what} ends at byte {end}, the file at byte {length}; \
         copy or build it again"
    )]
    Truncated {
        what: &'static str,
        end: u64,
        length: u64,
    },
    #[error("is a 32-bit ELF file: mote boots 64-bit kernels only")]
    Class32,
    #[error("has an unknown ELF class ({0}): it is damaged or no kernel")]
    UnknownClass(u8),
    #[error("is a big-endian ELF file: mote boots x86_64 kernels here")]
    BigEndian,
    #[error("has an unknown ELF version or byte order: it is damaged or no kernel")]
    UnknownIdent,
    #[error("is built for {0}: mote boots x86_64 kernels on this host")]
    Machine(String),
    #[error("is {0}, not a kernel: give a vmlinux or a bzImage")]
    NotExecutable(&'static str),
    #[error("is an ordinary program (it asks for an interpreter): give a vmlinux or a bzImage")]
    UserProgram,
    #[error("has program headers of {0} bytes instead of 56: it is damaged")]
    ProgramHeaderSize(u16),
    #[error("has {0} program headers: mote accepts 1 to {MAX_PROGRAM_HEADERS}")]
    ProgramHeaderCount(u16),
    #[error("has nothing to load: no PT_LOAD segment has a size")]
    NoSegments,
    #[error(
        "is damaged: segment {index} has {file} bytes in the file but only {memory} bytes in memory"
    )]
    SegmentSizes {
        index: usize,
        file: u64,
        memory: u64,
    },
    #[error(
        "asks for segment {index} at {address:#x}, below 1 MiB, where the boot tables are: \
         link it higher"
    )]
    SegmentTooLow { index: usize, address: u64 },
    #[error(
        "asks for segment {index} at {address:#x} with {size:#x} bytes: mote loads kernels \
         below {HIGHEST_KERNEL_ADDRESS:#x} only"
    )]
    SegmentTooHigh {
        index: usize,
        address: u64,
        size: u64,
    },
    #[error("is damaged: its segments at {first:#x} and {second:#x} overlap")]
    Overlap { first: u64, second: u64 },
    #[error("has {0} bytes of notes: mote reads at most {MAX_NOTES_SIZE}")]
    NotesTooLarge(u64),
    #[error("is damaged: an ELF note is larger than the segment it is in")]
    NoteBeyondSegment,
    #[error("has a PVH note of {0} bytes instead of 4 or 8: it is damaged")]
    PvhNoteSize(usize),
    #[error("has its PVH entry at {0:#x}, above 4 GiB: PVH starts in 32-bit mode")]
    PvhEntryTooHigh(u64),
    #[error(
        "has its {protocol} entry at {entry:#x}, outside of what it loads: \
         build it with CONFIG_PVH=y, or as a vmlinux whose entry is a physical address"
    )]
    EntryOutside { protocol: &'static str, entry: u64 },
    #[error(
        "has no PVH entry point: build it with CONFIG_PVH=y, or start it by the 64-bit protocol"
    )]
    NoPvh,
}
