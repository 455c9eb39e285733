//! Finds and reads the table of [`crate::memory::places`] in another process, by the program's ELF file.
//!
//! The process and its file may be anything, so every number of theirs is checked before it is used, and
//! nothing is read that is larger than what a mote has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::pagemap::page_size;
use super::smaps::Mapping;
use crate::memory::places::{self, ENTRY_SIZE, MAGIC, Place, SECTION, VERSION};

const HEADER_SIZE: usize = 32;
/// The largest table of names of sections that is read.
const MAX_NAMES: u64 = 1 << 20;
/// The most entries that are read.
const MAX_ENTRIES: u32 = 4096;
const PT_LOAD: u32 = 1;

/// Why there is no table to be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum TableError {
    #[error("its program has no section {SECTION}")]
    NoSection,
    #[error("its program can't be read: {0}")]
    Program(io::Error),
    #[error("its memory can't be read: {0}")]
    Memory(io::Error),
    #[error("its table has version {0}, and here it is {VERSION}")]
    Version(u32),
    #[error("its program isn't where its file is mapped")]
    NotMapped,
    #[error("what should be the table's head is something else")]
    Damaged,
}

/// What a process tells.
#[derive(Debug, Default)]
pub struct Table {
    pub places: Vec<Place>,
    /// How many ranges found no room in its table.
    pub lost: u64,
}

/// Reads the table of the process with the folder `proc`, whose program has the name `exe` in `mappings`.
pub fn read(proc: &Path, exe: &str, mappings: &[Mapping]) -> Result<Table, TableError> {
    let program = File::open(proc.join("exe")).map_err(TableError::Program)?;
    let place = find_section(&program)?;
    let page = page_size();
    let first = place.first_offset / page * page;
    let base = mappings
        .iter()
        .find(|mapping| mapping.name == exe && mapping.offset == first)
        .ok_or(TableError::NotMapped)?;
    // A program at a fixed address is mapped where it says; then this is 0.
    let bias = base
        .range
        .start
        .wrapping_sub(place.first_address / page * page);
    let memory = File::open(proc.join("mem")).map_err(TableError::Memory)?;
    read_table(&memory, bias.wrapping_add(place.address))
}

/// The table whose header is at an address of `memory`.
fn read_table(memory: &File, address: u64) -> Result<Table, TableError> {
    let mut header = [0; HEADER_SIZE];
    memory
        .read_exact_at(&mut header, address)
        .map_err(TableError::Memory)?;
    if header[..8] != MAGIC {
        return Err(TableError::Damaged);
    }
    let (version, capacity) = (u32_at(&header, 8), u32_at(&header, 12));
    if version != VERSION {
        return Err(TableError::Version(version));
    }
    if capacity > MAX_ENTRIES {
        return Err(TableError::Damaged);
    }
    let mut entries = vec![0; capacity as usize * ENTRY_SIZE];
    memory
        .read_exact_at(&mut entries, u64_at(&header, 16))
        .map_err(TableError::Memory)?;
    let words = |entry: &[u8]| [0, 8, 16, 24].map(|at| u64_at(entry, at));
    let places = entries.chunks_exact(ENTRY_SIZE);
    Ok(Table {
        places: places.map(words).filter_map(places::decode).collect(),
        lost: u64_at(&header, 24),
    })
}

/// Where the section is, and where the program's first part is, in the file and in memory.
#[derive(Debug, PartialEq, Eq)]
struct SectionPlace {
    address: u64,
    first_offset: u64,
    first_address: u64,
}

/// Looks the section up in an ELF-64 file of this machine's byte order.
fn find_section(program: &File) -> Result<SectionPlace, TableError> {
    let mut header = [0; 64];
    let read = |bytes: &mut [u8], at| {
        program
            .read_exact_at(bytes, at)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => TableError::NoSection,
                _ => TableError::Program(error),
            })
    };
    read(&mut header, 0)?;
    if header[..5] != *b"\x7fELF\x02" {
        return Err(TableError::NoSection);
    }
    let half = |at| u64::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (programs, program_size, program_count) = (u64_at(&header, 32), half(54), half(56));
    let (sections, section_size, section_count, names) =
        (u64_at(&header, 40), half(58), half(60), half(62));
    if program_size != 56 || section_size != 64 || names >= section_count {
        return Err(TableError::NoSection);
    }
    let mut heads = vec![0; (program_count * program_size) as usize];
    read(&mut heads, programs)?;
    let load = heads
        .chunks_exact(56)
        .find(|head| u32_at(head, 0) == PT_LOAD)
        .ok_or(TableError::NoSection)?;
    let mut table = vec![0; (section_count * section_size) as usize];
    read(&mut table, sections)?;
    let names = &table[(names * 64) as usize..][..64];
    let (at, size) = (u64_at(names, 24), u64_at(names, 32));
    if size > MAX_NAMES {
        return Err(TableError::NoSection);
    }
    let mut names = vec![0; size as usize];
    read(&mut names, at)?;
    let named = |section: &&[u8]| {
        let name = names.get(u32_at(section, 0) as usize..).unwrap_or(&[]);
        let name = name.strip_prefix(SECTION.as_bytes());
        name.is_some_and(|rest| rest.first() == Some(&0))
    };
    let section = table.chunks_exact(64).find(named);
    let section = section.ok_or(TableError::NoSection)?;
    Ok(SectionPlace {
        address: u64_at(section, 16),
        first_offset: u64_at(load, 8),
        first_address: u64_at(load, 16),
    })
}

/// A number in bytes that are long enough.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::smaps;
    use crate::memory::places::{Kind, Told};

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn the_table_of_this_process_is_found_from_outside() {
        let mut told = Told::of_a_vm();
        told.add(Kind::Ram, 0x1234_5000..0x1234_6000);
        let proc = Path::new("/proc/self");
        let exe = std::fs::read_link(proc.join("exe")).unwrap();
        let mappings = smaps::parse(&std::fs::read_to_string(proc.join("smaps")).unwrap());
        let table = read(proc, exe.to_str().unwrap(), &mappings).unwrap();
        let range = 0x1234_5000..0x1234_6000;
        assert!(table.places.iter().any(|place| place.range == range));
        assert!(matches!(
            read(proc, "/another", &mappings),
            Err(TableError::NotMapped)
        ));
    }

    #[test]
    fn a_program_that_is_none_of_ours_or_cut_off_has_no_section() {
        let shell = File::open("/bin/sh").unwrap();
        assert!(matches!(find_section(&shell), Err(TableError::NoSection)));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(find_section(&file(&own)).is_ok());
        for length in [0, 4, 63, 64, 100, 4096] {
            let cut = file(&own[..length]);
            assert!(
                matches!(find_section(&cut), Err(TableError::NoSection)),
                "{length}"
            );
        }
    }

    #[test]
    fn no_byte_of_a_programs_head_leads_astray() {
        let mut head = std::fs::read("/proc/self/exe").unwrap();
        head.truncate(4096);
        for at in 0..head.len().min(1024) {
            for value in [0, 1, 0x7f, 0xff] {
                let before = std::mem::replace(&mut head[at], value);
                let _ = find_section(&file(&head));
                head[at] = before;
            }
        }
        head[..64].fill(0xff);
        head[..5].copy_from_slice(b"\x7fELF\x02");
        assert!(find_section(&file(&head)).is_err());
    }

    #[test]
    fn a_table_is_checked_before_it_is_believed() {
        let header = |magic: &[u8; 8], version: u32, capacity: u32, table: u64| {
            let parts: [&[u8]; 5] = [
                magic,
                &version.to_ne_bytes(),
                &capacity.to_ne_bytes(),
                &table.to_ne_bytes(),
                &5u64.to_ne_bytes(),
            ];
            parts.concat()
        };
        let mut good = header(&MAGIC, VERSION, 2, 32);
        let words = [[1u64, 0x1000, 0x2000, 0], [u64::MAX, 1, 2, 3]];
        good.extend(words.concat().iter().flat_map(|word| word.to_ne_bytes()));
        let table = read_table(&file(&good), 0).unwrap();
        assert_eq!((table.places.len(), table.lost), (1, 5));
        let bad = [
            header(b"somethin", VERSION, 0, 32),
            header(&MAGIC, VERSION + 1, 0, 32),
            header(&MAGIC, VERSION, u32::MAX, 32),
            header(&MAGIC, VERSION, 2, 1 << 40),
            header(&MAGIC, VERSION, 2, u64::MAX),
            good[..60].to_vec(),
            Vec::new(),
        ];
        for (index, bytes) in bad.iter().enumerate() {
            assert!(read_table(&file(bytes), 0).is_err(), "{index}");
        }
    }
}
