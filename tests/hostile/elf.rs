//! ELF files, right or wrong: every field is the test's to set.

/// PT_LOAD.
pub const LOAD: u32 = 1;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// A segment, as its program header has it.
#[derive(Clone)]
pub struct Segment {
    pub kind: u32,
    pub address: u64,
    /// Where in the file; where the bytes are, if nothing is said.
    pub offset: Option<u64>,
    /// As the header says; the bytes' number, if nothing is said.
    pub in_file: Option<u64>,
    pub in_memory: Option<u64>,
    pub bytes: Vec<u8>,
}

impl Segment {
    pub fn new(kind: u32, address: u64, bytes: Vec<u8>) -> Self {
        Segment {
            kind,
            address,
            offset: None,
            in_file: None,
            in_memory: None,
            bytes,
        }
    }
}

/// An executable for x86_64.
#[derive(Clone)]
pub struct Elf {
    pub entry: u64,
    pub headers_at: u64,
    pub header_size: u16,
    /// How many program headers it says it has; as many as there are, if nothing is said.
    pub count: Option<u16>,
    pub segments: Vec<Segment>,
}

impl Elf {
    pub fn new(entry: u64) -> Self {
        Elf {
            entry,
            headers_at: HEADER as u64,
            header_size: PROGRAM_HEADER as u16,
            count: None,
            segments: Vec::new(),
        }
    }

    pub fn file(&self) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, x86-64
        for value in [self.entry, self.headers_at, 0] {
            file.extend(value.to_le_bytes());
        }
        file.extend([0; 4]);
        let count = self.count.unwrap_or(self.segments.len() as u16);
        for value in [HEADER as u16, self.header_size, count, 64, 0, 0] {
            file.extend(value.to_le_bytes());
        }
        let mut at = (HEADER + self.segments.len() * PROGRAM_HEADER).next_multiple_of(4096) as u64;
        let start = at as usize;
        for segment in &self.segments {
            let length = segment.bytes.len() as u64;
            file.extend(segment.kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            let (in_file, in_memory) = (segment.in_file, segment.in_memory);
            for value in [
                segment.offset.unwrap_or(at),
                segment.address,
                segment.address,
                in_file.unwrap_or(length),
                in_memory.or(in_file).unwrap_or(length),
                4,
            ] {
                file.extend(value.to_le_bytes());
            }
            at += length;
        }
        file.resize(start, 0);
        for segment in &self.segments {
            file.extend(&segment.bytes);
        }
        file
    }
}
