//! The file format of an unpacked kernel in the cache: what the ordinary loaders read, with a
//! stamp in its first page that tells whether it is whole.
//!
//! | bytes | a vmlinux: a small ELF file | an arm64 Image |
//! | --- | --- | --- |
//! | 0 | ELF header, program headers, the PVH note; zeroes up to the stamp | zeroes |
//! | 4032 | [`Stamp`]: 64 bytes | the same |
//! | 4096 | the segments, each at a multiple of 4096 | the Image, up to the end of the file |
//!
//! Trailing zeroes are left out, in whole pages. An Image's own header tells its size in memory;
//! where it goes depends on the guest, and is in no entry.
//!
//! Distributions' vmlinux files hold their BSS as bytes: leaving trailing zeroes out saves
//! Debian's cloud kernel 11.6 of 51 MB of reading, and that many guest pages.
//!
//! The CRCs find what accidents do: a write cut short by a crash or a full disk, a bad block.
//! They are no defence against the owner of the cache, who may run any kernel anyway; other
//! users are kept out by [`super::cache`].

use std::io::{self, Write};

use super::architecture::Architecture;
use super::elf::{
    EM_X86_64, ET_EXEC, FILE_HEADER_SIZE, MAGIC, MAX_PROGRAM_HEADERS, PROGRAM_HEADER_SIZE, PT_LOAD,
    PT_NOTE,
};
use super::kernel_image::{KernelImage, Segment};
use super::notes::{XEN_ELFNOTE_PHYS32_ENTRY, XEN_NAME};

/// The size in bytes of the first page, which has everything but the segments.
pub(super) const HEAD_SIZE: usize = 4096;
const STAMP_OFFSET: usize = HEAD_SIZE - 64;
/// The last 4 bytes of the head are the CRC of the bytes before them.
const HEAD_CRC_OFFSET: usize = HEAD_SIZE - 4;
const STAMP_MAGIC: [u8; 8] = *b"motekrn1";
/// namesz, descsz, type, "Xen\0" and a 4-byte entry point.
const NOTE_SIZE: usize = 20;

// All the headers fit before the stamp: one header per segment and one for the note.
const _: () = assert!(
    FILE_HEADER_SIZE + (MAX_PROGRAM_HEADERS as usize + 1) * PROGRAM_HEADER_SIZE + NOTE_SIZE
        <= STAMP_OFFSET
);

/// The content that an entry is for: the BLAKE3 hash of the compressed payload.
pub(super) type Key = [u8; 32];

/// What an entry says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub key: Key,
    /// The length in bytes of the whole file.
    pub length: u64,
    /// The CRC-32 of the segments' bytes, in the order of their addresses.
    pub data_crc: u32,
}

impl Stamp {
    /// Reads the stamp in the first page of a file; `None` where it is missing or damaged.
    pub fn read(head: &[u8; HEAD_SIZE]) -> Option<Stamp> {
        let (content, crc) = head.split_last_chunk::<4>()?;
        let stamp = content.get(STAMP_OFFSET..)?;
        let (magic, rest) = stamp.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (data_crc, _) = rest.split_first_chunk::<4>()?;
        (*magic == STAMP_MAGIC && crc32fast::hash(content) == u32::from_le_bytes(*crc)).then(|| {
            Stamp {
                key: *key,
                length: u64::from_le_bytes(*length),
                data_crc: u32::from_le_bytes(*data_crc),
            }
        })
    }

    fn write(&self, head: &mut [u8; HEAD_SIZE]) {
        let mut stamp = Vec::with_capacity(64);
        stamp.extend(STAMP_MAGIC);
        stamp.extend(self.length.to_le_bytes());
        stamp.extend(self.key);
        stamp.extend(self.data_crc.to_le_bytes());
        head[STAMP_OFFSET..STAMP_OFFSET + stamp.len()].copy_from_slice(&stamp);
        let crc = crc32fast::hash(&head[..HEAD_CRC_OFFSET]);
        head[HEAD_CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Takes the zeroes off the ends of the segments of an unpacked kernel, in whole pages: in
/// fresh guest memory they are there already.
pub(super) fn trim(image: &mut KernelImage, unpacked: &[u8]) {
    for segment in &mut image.segments {
        let bytes = segment_bytes(segment, unpacked);
        let zero_pages = bytes
            .rchunks(HEAD_SIZE)
            .take_while(|page| page.iter().all(|byte| *byte == 0))
            .count();
        let used = bytes.len().saturating_sub(zero_pages * HEAD_SIZE);
        segment.file_size = used as u64;
    }
}

/// Writes `image`, whose bytes are in `unpacked`, as a cache entry for `key`.
pub(super) fn write(
    architecture: Architecture,
    image: &KernelImage,
    unpacked: &[u8],
    key: &Key,
    to: &mut impl Write,
) -> io::Result<()> {
    let mut crc = crc32fast::Hasher::new();
    let mut packed = Vec::with_capacity(image.segments.len());
    let mut end = HEAD_SIZE as u64;
    for segment in &image.segments {
        crc.update(segment_bytes(segment, unpacked));
        let offset = end.next_multiple_of(HEAD_SIZE as u64);
        packed.push(Segment { offset, ..*segment });
        end = offset + segment.file_size;
    }
    let stamp = Stamp {
        key: *key,
        length: end,
        data_crc: crc.finalize(),
    };
    let mut head = match architecture {
        Architecture::X86_64 => elf_head(image, &packed),
        Architecture::Aarch64 => [0; HEAD_SIZE],
    };
    stamp.write(&mut head);
    to.write_all(&head)?;
    let mut end = HEAD_SIZE as u64;
    for (segment, packed) in image.segments.iter().zip(&packed) {
        let padding = (packed.offset - end) as usize;
        to.write_all(&[0; HEAD_SIZE][..padding])?;
        to.write_all(segment_bytes(segment, unpacked))?;
        end = packed.offset + packed.file_size;
    }
    Ok(())
}

/// A segment's bytes; the segment was checked against `unpacked`.
fn segment_bytes<'a>(segment: &Segment, unpacked: &'a [u8]) -> &'a [u8] {
    let start = segment.offset as usize;
    &unpacked[start..start + segment.file_size as usize]
}

/// A vmlinux's first page without its stamp.
fn elf_head(image: &KernelImage, segments: &[Segment]) -> [u8; HEAD_SIZE] {
    let header_count = segments.len() + usize::from(image.pvh.is_some());
    let mut bytes = Vec::with_capacity(HEAD_SIZE);
    // e_ident: ELF-64, little-endian, version 1.
    bytes.extend(MAGIC);
    bytes.extend([2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(ET_EXEC.to_le_bytes());
    bytes.extend(EM_X86_64.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(image.entry.to_le_bytes());
    bytes.extend((FILE_HEADER_SIZE as u64).to_le_bytes()); // e_phoff
    bytes.extend(0u64.to_le_bytes()); // e_shoff
    bytes.extend(0u32.to_le_bytes()); // e_flags
    for half in [
        FILE_HEADER_SIZE as u16,
        PROGRAM_HEADER_SIZE as u16,
        header_count as u16,
        0, // e_shentsize
        0, // e_shnum
        0, // e_shstrndx
    ] {
        bytes.extend(half.to_le_bytes());
    }
    let mut program_header = |kind: u32, segment: &Segment, alignment: u64| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(7u32.to_le_bytes()); // readable, writable, executable
        for field in [
            segment.offset,
            segment.address, // p_vaddr
            segment.address,
            segment.file_size,
            segment.memory_size,
            alignment,
        ] {
            bytes.extend(field.to_le_bytes());
        }
    };
    for segment in segments {
        program_header(PT_LOAD, segment, HEAD_SIZE as u64);
    }
    if let Some(entry) = image.pvh {
        let note = Segment {
            offset: (FILE_HEADER_SIZE + header_count * PROGRAM_HEADER_SIZE) as u64,
            file_size: NOTE_SIZE as u64,
            address: 0,
            memory_size: NOTE_SIZE as u64,
        };
        program_header(PT_NOTE, &note, 4);
        bytes.extend((XEN_NAME.len() as u32).to_le_bytes());
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(XEN_ELFNOTE_PHYS32_ENTRY.to_le_bytes());
        bytes.extend(XEN_NAME);
        bytes.extend(entry.to_le_bytes());
    }
    let mut head = [0; HEAD_SIZE];
    head[..bytes.len()].copy_from_slice(&bytes);
    head
}
