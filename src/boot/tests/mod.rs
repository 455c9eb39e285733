//! Tests of kernel loading: made-up kernels, hostile ones, and the outputs of the real
//! compressors (tests/fixtures/boot, made by the make.sh there).

mod bzimage;
mod cache;
mod cmdline;
mod elf;
mod image;
mod initrd;
mod mapped;
mod mutated;
mod packed_image;
mod tables;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Architecture, KernelError, KernelOptions, LoadedKernel};

/// The fixture kernel and its compressed forms, with the names of the compressors.
const VMLINUX: &[u8] = include_bytes!("../../../tests/fixtures/boot/vmlinux");
const COMPRESSED: [(&str, &[u8]); 6] = [
    (
        "gzip",
        include_bytes!("../../../tests/fixtures/boot/vmlinux.gz"),
    ),
    (
        "zstd",
        include_bytes!("../../../tests/fixtures/boot/vmlinux.zst"),
    ),
    (
        "lz4",
        include_bytes!("../../../tests/fixtures/boot/vmlinux.lz4"),
    ),
    (
        "xz",
        include_bytes!("../../../tests/fixtures/boot/vmlinux.xz"),
    ),
    (
        "lzma",
        include_bytes!("../../../tests/fixtures/boot/vmlinux.lzma"),
    ),
    (
        "bzip2",
        include_bytes!("../../../tests/fixtures/boot/vmlinux.bz2"),
    ),
];

/// Fresh guest memory of so many MiB.
fn memory(mib: usize) -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), mib << 20)]).unwrap()
}

/// `length` bytes of guest memory.
fn guest_bytes(memory: &GuestMemoryMmap<()>, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

/// A folder with one file in it.
struct Fixture {
    folder: TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new(contents: &[u8]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("kernel");
        std::fs::write(&path, contents).unwrap();
        Fixture { folder, path }
    }
}

/// Loads a kernel for x86_64.
fn load_kernel(
    path: &Path,
    memory: &GuestMemoryMmap<()>,
    options: &KernelOptions,
) -> Result<LoadedKernel, KernelError> {
    super::load_kernel(path, Architecture::X86_64, memory, options)
}

/// Loads a kernel file with these contents into 64 MiB.
fn load(contents: &[u8]) -> Result<LoadedKernel, KernelError> {
    load_kernel(
        &Fixture::new(contents).path,
        &memory(64),
        &KernelOptions::default(),
    )
}

/// The message for a kernel file with these contents, which must not load.
fn refusal(contents: &[u8]) -> String {
    load(contents).unwrap_err().to_string()
}

/// An ELF kernel to be, with the fields that tests spoil.
struct ElfBuilder {
    ident: [u8; 7],
    kind: u16,
    machine: u16,
    entry: u64,
    table_offset: u64,
    header_size: u16,
    header_count: Option<u16>,
    /// p_type, p_offset, p_paddr, p_filesz, p_memsz, p_align
    headers: Vec<[u64; 6]>,
    /// Bytes at an offset.
    parts: Vec<(usize, Vec<u8>)>,
}

const LOAD: u64 = 1;
const NOTE: u64 = 4;
/// Where the builder's one segment goes.
const TEXT: u64 = 0x20_0000;

impl ElfBuilder {
    /// A kernel of one segment of 256 bytes, with 256 more of BSS.
    fn new() -> Self {
        ElfBuilder {
            ident: *b"\x7fELF\x02\x01\x01",
            kind: 2,
            machine: 62,
            entry: TEXT + 16,
            table_offset: 64,
            header_size: 56,
            header_count: None,
            headers: vec![[LOAD, 0x1000, TEXT, 256, 512, 0x1000]],
            parts: vec![(0x1000, (0..=255).collect())],
        }
    }

    /// Adds a note segment with these bytes.
    fn notes(mut self, alignment: u64, notes: Vec<u8>) -> Self {
        self.headers
            .push([NOTE, 0x800, 0, notes.len() as u64, 0, alignment]);
        self.parts.push((0x800, notes));
        self
    }

    /// Changes one field of the first segment, by its place in `headers`.
    fn segment_field(mut self, field: usize, value: u64) -> Self {
        self.headers[0][field] = value;
        self
    }

    fn build(&self) -> Vec<u8> {
        let mut elf = Vec::new();
        elf.extend(self.ident);
        elf.resize(16, 0);
        elf.extend(self.kind.to_le_bytes());
        elf.extend(self.machine.to_le_bytes());
        elf.extend(1u32.to_le_bytes());
        elf.extend(self.entry.to_le_bytes());
        elf.extend(self.table_offset.to_le_bytes());
        elf.extend([0; 12]);
        elf.extend(64u16.to_le_bytes());
        elf.extend(self.header_size.to_le_bytes());
        let count = self.header_count.unwrap_or(self.headers.len() as u16);
        elf.extend(count.to_le_bytes());
        elf.extend([0; 6]);
        for [kind, offset, address, file_size, size, alignment] in &self.headers {
            elf.extend((*kind as u32).to_le_bytes());
            elf.extend(7u32.to_le_bytes());
            // p_vaddr is that of a kernel at -2 GiB, which must not be used.
            let virtual_address = address.wrapping_add(0xFFFF_FFFF_8000_0000);
            for field in [
                offset,
                &virtual_address,
                address,
                file_size,
                size,
                alignment,
            ] {
                elf.extend(field.to_le_bytes());
            }
        }
        for (offset, bytes) in &self.parts {
            elf.resize(elf.len().max(offset + bytes.len()), 0);
            elf[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        elf
    }
}

/// One ELF note, padded to `alignment`.
fn note(name: &[u8], kind: u32, desc: &[u8], alignment: usize) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32).to_le_bytes());
    note.extend((desc.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    note.extend(name);
    note.resize(note.len().next_multiple_of(alignment), 0);
    note.extend(desc);
    note.resize(note.len().next_multiple_of(alignment), 0);
    note
}

/// A PVH note with a 4-byte entry.
fn pvh_note(entry: u32) -> Vec<u8> {
    note(b"Xen\0", 18, &entry.to_le_bytes(), 4)
}

/// A bzImage with this payload: one boot sector, one of setup code, 512 bytes of something,
/// the payload, something.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0xCC; 1536];
    image[0x1F1] = 1; // setup_sects
    image[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020Fu16.to_le_bytes());
    image[0x211] = 1; // loadflags
    image[0x236..0x238].copy_from_slice(&0x7Fu16.to_le_bytes()); // xloadflags
    image[0x248..0x24C].copy_from_slice(&512u32.to_le_bytes());
    image[0x24C..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image.extend([0xCC; 700]);
    image
}
