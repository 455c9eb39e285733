//! The arm64 `Image`: its header, and where it goes in guest memory (Linux
//! Documentation/arch/arm64/booting.rst, "Call the kernel image").

use thiserror::Error;
use vm_memory::GuestMemoryMmap;

use super::architecture::Architecture;
use super::kernel_image::{KernelImage, Segment};
use super::segments::ram_start;

/// The size of the header in bytes.
pub(super) const HEADER_SIZE: usize = 64;
// Offsets of its fields: 8 bytes each, little-endian.
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
/// `magic`, at byte 56.
const MAGIC: &[u8; 4] = b"ARM\x64";
/// The Image lies `text_offset` bytes after a multiple of this.
const BASE_ALIGNMENT: u64 = 2 << 20;
/// "Where image_size is zero, text_offset can be assumed to be 0x80000."
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// `flags` bit 0: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1;
/// No RAM is above the 52 bits of a physical address: a base there is as bad, and no sum overflows.
const HIGHEST_BASE: u64 = 1 << 52;
/// The most memory in bytes from the aligned base to the kernel's end. Linux needs some tens of
/// MiB; the bound keeps sums of hostile numbers small.
const MAX_MEMORY: u64 = 1 << 30;

/// What is wrong with an arm64 Image. The messages continue "the kernel PATH ".
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum ImageError {
    #[error("has something else than an arm64 Image in it: {}", Architecture::Aarch64.advice())]
    NoImage,
    #[error("is truncated: {0} bytes can't be an arm64 Image; copy or build it again")]
    Truncated(u64),
    #[error(
        "is a big-endian arm64 kernel: mote boots little-endian ones; build it without \
         CONFIG_CPU_BIG_ENDIAN"
    )]
    BigEndian,
    #[error(
        "asks for {image_size} bytes of memory at {text_offset:#x}: mote accepts at most 1 GiB; \
         it is damaged"
    )]
    TooLarge { image_size: u64, text_offset: u64 },
    #[error("is damaged: its text_offset {0:#x} is no multiple of 4")]
    Unaligned(u64),
}

/// Whether a file that starts with `head` is an arm64 Image.
pub(super) fn is_image(head: &[u8]) -> bool {
    head.get(56..60) == Some(MAGIC)
}

/// Whether the Image that starts with `head` leaves open how much memory it takes (Linux before 3.17).
pub(super) fn is_of_unknown_size(head: &[u8]) -> bool {
    head.get(IMAGE_SIZE..IMAGE_SIZE + 8) == Some(&[0; 8])
}

/// What the header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where the Image starts, in bytes after a multiple of 2 MiB.
    pub text_offset: u64,
    /// How many bytes come from the file.
    pub file_size: u64,
    /// How many bytes of memory are the kernel's: at least `file_size`.
    pub memory_size: u64,
}

impl Header {
    /// Reads the header. `head` is the start of what should be an Image, of `length` bytes.
    pub fn parse(head: &[u8], length: u64) -> Result<Header, ImageError> {
        let Some(head) = head.first_chunk::<HEADER_SIZE>() else {
            return Err(ImageError::Truncated(length));
        };
        if !is_image(head) {
            return Err(ImageError::NoImage);
        }
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        // Before Linux 3.17 image_size was zero, text_offset of any byte order, and there were
        // no flags. How much memory such a kernel wants behind its file is not known: booting.rst
        // asks to leave what there is, which putting the initrd at the top does.
        let (text_offset, image_size) = match field(IMAGE_SIZE) {
            0 => (OLD_TEXT_OFFSET, length),
            _ if field(FLAGS) & BIG_ENDIAN != 0 => return Err(ImageError::BigEndian),
            size => (field(TEXT_OFFSET), size),
        };
        if !text_offset.is_multiple_of(4) {
            return Err(ImageError::Unaligned(text_offset));
        }
        match text_offset.checked_add(image_size) {
            Some(end) if end <= MAX_MEMORY => Ok(Header {
                text_offset,
                // A signature may follow what image_size counts.
                file_size: length.min(image_size),
                memory_size: image_size,
            }),
            _ => Err(ImageError::TooLarge {
                image_size,
                text_offset,
            }),
        }
    }

    /// The Image's place in `memory`: `text_offset` after the first multiple of 2 MiB that is RAM
    /// and not below `base`. Its bytes are at `offset` in what it is loaded from.
    pub fn place(&self, offset: u64, memory: &GuestMemoryMmap<()>, base: u64) -> KernelImage {
        let base = base.max(ram_start(memory)).min(HIGHEST_BASE);
        let address = base.next_multiple_of(BASE_ALIGNMENT) + self.text_offset;
        KernelImage {
            segments: vec![Segment {
                offset,
                file_size: self.file_size,
                address,
                memory_size: self.memory_size,
            }],
            entry: address,
            pvh: None,
        }
    }
}
