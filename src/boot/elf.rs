//! Reads the headers of an ELF kernel (ELF-64, little-endian, x86_64) and checks every
//! number in them, so that loading its segments needs no further check against the file.

use super::error::ElfError;
use super::kernel_image::{KernelImage, Segment};
use super::notes::find_pvh_entry;
use super::source::Source;
use super::{HIGHEST_KERNEL_ADDRESS, LOWEST_KERNEL_ADDRESS};

/// The size in bytes of the ELF-64 file header.
pub(super) const FILE_HEADER_SIZE: usize = 64;
/// The size in bytes of one ELF-64 program header.
pub(super) const PROGRAM_HEADER_SIZE: usize = 56;
/// The most program headers that are accepted; Linux has 5, the first 4 KiB hold 64.
pub(super) const MAX_PROGRAM_HEADERS: u16 = 64;
pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
pub(super) const ET_EXEC: u16 = 2;
pub(super) const EM_X86_64: u16 = 62;
pub(super) const EM_AARCH64: u16 = 183;
pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_NOTE: u32 = 4;
const ET_REL: u16 = 1;
const ET_DYN: u16 = 3;
const ET_CORE: u16 = 4;
const PT_INTERP: u32 = 3;
/// Linux's notes are some 500 bytes.
pub(super) const MAX_NOTES_SIZE: u64 = 64 << 10;

/// Reads and checks the headers. `head` is the start of `source`, already read. The segments lie
/// between [`LOWEST_KERNEL_ADDRESS`] and [`HIGHEST_KERNEL_ADDRESS`].
pub(super) fn parse(head: &[u8], source: &Source) -> Result<KernelImage, ElfError> {
    let length = source.len();
    let header = Fields(head.get(..FILE_HEADER_SIZE).ok_or(ElfError::Truncated {
        what: "ELF header",
        end: FILE_HEADER_SIZE as u64,
        length,
    })?);
    check_ident(&header)?;
    let kind = header.u16(16);
    match kind {
        ET_EXEC | ET_DYN => {}
        ET_REL => return Err(ElfError::NotExecutable("an object file or kernel module")),
        ET_CORE => return Err(ElfError::NotExecutable("a core dump")),
        _ => return Err(ElfError::NotExecutable("an ELF file of unknown type")),
    }

    let table = read_program_headers(&header, head, source)?;
    let mut segments = Vec::with_capacity(8);
    let mut pvh = None;
    for (index, raw) in table.chunks_exact(PROGRAM_HEADER_SIZE).enumerate() {
        let raw = Fields(raw);
        match raw.u32(0) {
            PT_LOAD => segments.extend(segment(index, &raw, length)?),
            PT_NOTE if pvh.is_none() => pvh = read_pvh_note(&raw, head, source)?,
            PT_INTERP => return Err(ElfError::UserProgram),
            _ => {}
        }
    }
    if kind == ET_DYN && pvh.is_none() {
        return Err(ElfError::NotExecutable("a shared object or a program"));
    }
    if segments.is_empty() {
        return Err(ElfError::NoSegments);
    }
    segments.sort_unstable_by_key(|segment| segment.address);
    for pair in segments.windows(2) {
        // No overflow: both numbers are below HIGHEST_KERNEL_ADDRESS.
        if pair[0].address + pair[0].memory_size > pair[1].address {
            return Err(ElfError::Overlap {
                first: pair[0].address,
                second: pair[1].address,
            });
        }
    }
    let image = KernelImage {
        segments,
        entry: header.u64(24),
        pvh,
    };
    if let Some(entry) = pvh {
        image.check_entry("PVH", u64::from(entry))?;
    }
    Ok(image)
}

impl KernelImage {
    /// The entry of the 64-bit boot protocol.
    pub fn linux64_entry(&self) -> Result<u64, ElfError> {
        self.check_entry("64-bit", self.entry)
    }

    /// An entry point must be in bytes that come from the file.
    fn check_entry(&self, protocol: &'static str, entry: u64) -> Result<u64, ElfError> {
        let inside = |segment: &Segment| {
            entry >= segment.address && entry - segment.address < segment.file_size
        };
        if self.segments.iter().any(inside) {
            Ok(entry)
        } else {
            Err(ElfError::EntryOutside { protocol, entry })
        }
    }
}

/// Checks `e_ident`, `e_machine` and `e_version`.
fn check_ident(header: &Fields) -> Result<(), ElfError> {
    match header.0[4] {
        2 => {}
        1 => return Err(ElfError::Class32),
        class => return Err(ElfError::UnknownClass(class)),
    }
    match (header.0[5], header.0[6]) {
        (1, 1) => {}
        (2, _) => return Err(ElfError::BigEndian),
        _ => return Err(ElfError::UnknownIdent),
    }
    match header.u16(18) {
        EM_X86_64 => Ok(()),
        EM_AARCH64 => Err(ElfError::Machine("AArch64".into())),
        243 => Err(ElfError::Machine("RISC-V".into())),
        3 => Err(ElfError::Machine("32-bit x86".into())),
        other => Err(ElfError::Machine(format!(
            "another processor (ELF machine {other})"
        ))),
    }
}

/// The program header table, as raw bytes.
fn read_program_headers(
    header: &Fields,
    head: &[u8],
    source: &Source,
) -> Result<Vec<u8>, ElfError> {
    let (offset, size, count) = (header.u64(32), header.u16(54), header.u16(56));
    if !(1..=MAX_PROGRAM_HEADERS).contains(&count) {
        return Err(ElfError::ProgramHeaderCount(count));
    }
    if usize::from(size) != PROGRAM_HEADER_SIZE {
        return Err(ElfError::ProgramHeaderSize(size));
    }
    let size = u64::from(size) * u64::from(count);
    read_part("program header table", offset, size, head, source)
}

/// Checks one `PT_LOAD` header; `None` where it has no size.
fn segment(index: usize, raw: &Fields, length: u64) -> Result<Option<Segment>, ElfError> {
    let segment = Segment {
        offset: raw.u64(8),
        address: raw.u64(24),
        file_size: raw.u64(32),
        memory_size: raw.u64(40),
    };
    let (address, size) = (segment.address, segment.memory_size);
    if segment.file_size > size {
        return Err(ElfError::SegmentSizes {
            index,
            file: segment.file_size,
            memory: size,
        });
    }
    if size == 0 {
        return Ok(None);
    }
    check_part("segment", segment.offset, segment.file_size, length)?;
    if address < LOWEST_KERNEL_ADDRESS {
        return Err(ElfError::SegmentTooLow { index, address });
    }
    match address.checked_add(size) {
        Some(end) if end <= HIGHEST_KERNEL_ADDRESS => Ok(Some(segment)),
        _ => Err(ElfError::SegmentTooHigh {
            index,
            address,
            size,
        }),
    }
}

/// Looks for the PVH entry in one `PT_NOTE` segment.
fn read_pvh_note(raw: &Fields, head: &[u8], source: &Source) -> Result<Option<u32>, ElfError> {
    let (offset, size, alignment) = (raw.u64(8), raw.u64(32), raw.u64(48));
    if size > MAX_NOTES_SIZE {
        return Err(ElfError::NotesTooLarge(size));
    }
    find_pvh_entry(&read_part("notes", offset, size, head, source)?, alignment)
}

/// Checks that a part of the file lies inside the file.
fn check_part(what: &'static str, offset: u64, size: u64, length: u64) -> Result<(), ElfError> {
    match offset.checked_add(size) {
        Some(end) if end <= length => Ok(()),
        end => Err(ElfError::Truncated {
            what,
            end: end.unwrap_or(u64::MAX),
            length,
        }),
    }
}

/// A small part of the file: out of `head` where that holds it, else read.
fn read_part(
    what: &'static str,
    offset: u64,
    size: u64,
    head: &[u8],
    source: &Source,
) -> Result<Vec<u8>, ElfError> {
    check_part(what, offset, size, source.len())?;
    let in_head = usize::try_from(offset)
        .ok()
        .and_then(|start| head.get(start..start.checked_add(size as usize)?));
    if let Some(part) = in_head {
        return Ok(part.to_vec());
    }
    let mut part = vec![0; size as usize];
    source.read_exact_at(&mut part, offset)?;
    Ok(part)
}

/// Little-endian fields of a header whose size is known to hold them.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.0[at..at + N]);
        field
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
