//! ELF notes, for the one that matters here: the entry point of the PVH boot protocol
//! (Xen docs/misc/pvh.pandoc; gABI "Note Section").

use super::error::ElfError;

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen public/elfnote.h): the 32-bit physical entry point.
pub(super) const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// The owner's name in the note, with its terminating zero.
pub(super) const XEN_NAME: &[u8] = b"Xen\0";
/// namesz, descsz and type, 4 bytes each.
pub(super) const NOTE_HEADER_SIZE: usize = 12;

/// The PVH entry point in the notes of one `PT_NOTE` segment, if it is there.
///
/// Name and description are padded to `alignment`, the segment's `p_align`: 8 where it says
/// so, else 4 (what Linux writes; 0 and 1 stand for "none" in older files).
pub(super) fn find_pvh_entry(notes: &[u8], alignment: u64) -> Result<Option<u32>, ElfError> {
    let alignment = if alignment == 8 { 8 } else { 4 };
    let mut at = 0;
    // Padding at the end may be shorter than a header.
    while let Some(header) = notes.get(at..at + NOTE_HEADER_SIZE) {
        let field = |n: usize| {
            u32::from_le_bytes([
                header[4 * n],
                header[4 * n + 1],
                header[4 * n + 2],
                header[4 * n + 3],
            ])
        };
        let (name_size, desc_size, kind) = (field(0) as usize, field(1) as usize, field(2));
        let name_at = at + NOTE_HEADER_SIZE;
        let desc_at = name_at
            .checked_add(name_size)
            .and_then(|end| end.checked_next_multiple_of(alignment));
        let end = desc_at.and_then(|desc_at| desc_at.checked_add(desc_size));
        let (Some(desc_at), Some(end)) = (desc_at, end) else {
            return Err(ElfError::NoteBeyondSegment);
        };
        let (Some(name), Some(desc)) = (
            notes.get(name_at..name_at + name_size),
            notes.get(desc_at..end),
        ) else {
            return Err(ElfError::NoteBeyondSegment);
        };
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && name == XEN_NAME {
            return pvh_entry(desc).map(Some);
        }
        // The last note needs no padding after it.
        at = match end.checked_next_multiple_of(alignment) {
            Some(next) if next < notes.len() => next,
            _ => break,
        };
    }
    Ok(None)
}

/// The note's value: 4 bytes, or 8 of which the upper 4 are zero.
fn pvh_entry(desc: &[u8]) -> Result<u32, ElfError> {
    let wide = match *desc {
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(ElfError::PvhNoteSize(desc.len())),
    };
    u32::try_from(wide).map_err(|_| ElfError::PvhEntryTooHigh(wide))
}
