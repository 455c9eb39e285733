//! arm64 Images: where they go, in RAM at 1 GiB, and hostile headers.

use std::path::Path;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::image::{Header, ImageError};
use super::super::{
    Architecture, Entry, EntryPreference, FileFormat, KernelError, KernelFile, KernelFormat,
    KernelOptions, LoadedKernel,
};
use super::{ElfBuilder, Fixture, bzimage, guest_bytes};

/// Where RAM begins in these tests.
pub(super) const RAM: u64 = 1 << 30;
/// The lowest address that the kernel may have: a device tree is below.
pub(super) const BASE: u64 = RAM + (2 << 20);

/// Fresh guest memory of so many MiB from 1 GiB on.
pub(super) fn memory(mib: usize) -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), mib << 20)]).unwrap()
}

pub(super) fn options() -> KernelOptions {
    KernelOptions {
        base: GuestAddress(BASE),
        ..KernelOptions::default()
    }
}

pub(super) fn load_at(
    path: &Path,
    memory: &GuestMemoryMmap<()>,
    options: &KernelOptions,
) -> Result<LoadedKernel, KernelError> {
    super::super::load_kernel(path, Architecture::Aarch64, memory, options)
}

/// Loads a kernel file with these contents into 64 MiB.
fn load(contents: &[u8]) -> Result<LoadedKernel, KernelError> {
    load_at(&Fixture::new(contents).path, &memory(64), &options())
}

/// The message for a kernel file with these contents, which must not load.
pub(super) fn refusal(contents: &[u8]) -> String {
    load(contents).unwrap_err().to_string()
}

/// An Image of `length` bytes, none of them zero behind its header.
pub(super) fn image(text_offset: u64, image_size: u64, length: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..length).map(|n| (n / 16 % 255) as u8 + 1).collect();
    let header = [
        0x1400_0010,
        text_offset,
        image_size,
        0xA,
        0,
        0,
        0,
        0x644D_5241,
    ];
    for (field, bytes) in header.into_iter().zip(image.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&field.to_le_bytes());
    }
    image
}

#[test]
fn an_image_goes_text_offset_bytes_after_2_mib_at_or_above_the_base() {
    for (base, text_offset, start) in [
        (BASE, 0, BASE),
        (BASE, 0x8_0000, BASE + 0x8_0000),
        (BASE + 1, 0, BASE + (2 << 20)),
        (BASE, (3 << 20) + 4, BASE + (3 << 20) + 4),
        // Without a base, or with one below RAM: the start of RAM.
        (0, 0, RAM),
        (4096, 0x1000, RAM + 0x1000),
    ] {
        let contents = image(text_offset, 0x2_0000, 10_000);
        let fixture = Fixture::new(&contents);
        let memory = memory(16);
        let options = KernelOptions {
            base: GuestAddress(base),
            ..KernelOptions::default()
        };
        let file = KernelFile::open(&fixture.path, Architecture::Aarch64).unwrap();
        assert_eq!(file.format(), FileFormat::Image);
        let kernel = file.load(&memory, &options).unwrap();
        let expected = LoadedKernel {
            entry: Entry::Arm64(GuestAddress(start)),
            start: GuestAddress(start),
            // With its BSS.
            end: GuestAddress(start + 0x2_0000),
            text_end: GuestAddress(start + 10_000),
            bytes_loaded: 10_000,
            bytes_mapped: 0,
            format: KernelFormat::Image,
        };
        assert_eq!(kernel, expected, "{base:#x} {text_offset:#x}");
        let mut bytes = contents;
        bytes.resize(0x2_0000, 0);
        assert!(guest_bytes(&memory, start, 0x2_0000) == bytes);
    }
}

#[test]
fn what_follows_the_image_in_its_file_is_not_loaded() {
    let contents = image(0, 8192, 9000);
    let fixture = Fixture::new(&contents);
    let memory = memory(16);
    let kernel = load_at(&fixture.path, &memory, &options()).unwrap();
    assert_eq!(kernel.end, GuestAddress(BASE + 8192));
    assert_eq!(kernel.bytes_loaded, 8192);
    assert_eq!(guest_bytes(&memory, BASE + 8192, 808), [0; 808]);
}

#[test]
fn an_image_from_before_linux_3_17_has_the_size_of_its_file() {
    // text_offset is of any byte order then, and the flags don't exist.
    let mut contents = image(0x0000_0800_0000_0000, 0, 9000);
    contents[24] = 0xFF;
    let kernel = load(&contents).unwrap();
    assert_eq!(kernel.start, GuestAddress(BASE + 0x8_0000));
    assert_eq!(kernel.end, GuestAddress(BASE + 0x8_0000 + 9000));
}

#[test]
fn too_little_memory_is_told_before_anything_is_copied() {
    // 2 MiB below the base, and one byte more than 62 MiB: by its BSS, not by its file.
    let fixture = Fixture::new(&image(0, (62 << 20) + 1, 5000));
    let memory = memory(64);
    let message = load_at(&fixture.path, &memory, &options())
        .unwrap_err()
        .to_string();
    assert!(message.contains("--memory 65M"), "{message}");
    assert!(message.contains("it has 64M"), "{message}");
    assert_eq!(guest_bytes(&memory, BASE, 5000), [0; 5000]);
    load_at(&fixture.path, &self::memory(65), &options()).unwrap();
    // A base outside of RAM.
    for base in [RAM + (64 << 20), u64::MAX] {
        let options = KernelOptions {
            base: GuestAddress(base),
            ..KernelOptions::default()
        };
        let error = load_at(&fixture.path, &memory, &options).unwrap_err();
        assert!(error.to_string().contains("needs more memory"), "{error}");
    }
}

#[test]
fn hostile_headers_are_refused() {
    for (text_offset, image_size) in [
        (0, u64::MAX),
        (u64::MAX - 3, 4096),
        (u64::MAX - 3, u64::MAX),
        (0, (1 << 30) + 1),
        (1 << 30, 1),
        (1 << 52, 4096),
    ] {
        let message = refusal(&image(text_offset, image_size, 5000));
        assert!(message.contains("at most 1 GiB"), "{message}");
    }
    assert!(refusal(&image(0x8_0002, 4096, 5000)).contains("multiple of 4"));
    let mut big_endian = image(0, 4096, 5000);
    big_endian[24] |= 1;
    assert!(refusal(&big_endian).contains("CONFIG_CPU_BIG_ENDIAN"));
    // The file's size counts where the header has none.
    let header = Header::parse(&image(0, 0, 64), 1 << 40);
    assert!(matches!(header, Err(ImageError::TooLarge { .. })));
    let whole = image(0, 4096, 64);
    for length in 0..64 {
        let message = refusal(&whole[..length]);
        let expected = match length {
            0 => "is empty",
            1..60 => "no arm64 Image",
            _ => "truncated",
        };
        assert!(message.contains(expected), "{length}: {message}");
    }
    // Nothing but a header is still an Image: what is left out is zero.
    assert_eq!(load(&whole).unwrap().bytes_loaded, 64);
}

#[test]
fn there_is_one_entry_only() {
    let fixture = Fixture::new(&image(0, 4096, 100));
    for prefer in [EntryPreference::Linux64, EntryPreference::Pvh] {
        let options = KernelOptions {
            prefer,
            ..options()
        };
        let error = load_at(&fixture.path, &memory(16), &options).unwrap_err();
        assert!(error.to_string().contains("--protocol"), "{error}");
    }
}

#[test]
fn kernels_for_the_other_processor_and_other_files_are_named() {
    let x86 = ElfBuilder::new().build();
    let mut arm64 = ElfBuilder::new();
    arm64.machine = 183;
    let mut riscv = ElfBuilder::new();
    riscv.machine = 243;
    for (contents, expected) in [
        (&b""[..], "is empty"),
        (&bzimage(b"payload"), "is an x86 bzImage"),
        (&x86, "is an ELF file for x86_64"),
        (&arm64.build(), "is an arm64 vmlinux"),
        (&riscv.build(), "is an ELF file and no arm64 Image"),
        (b"\x7fELF", "no arm64 Image"),
        (b"#!/bin/sh\n", "is a script"),
        (b"\x28\xb5\x2f\xfd\0", "zstd -dc"),
        (b"\xfd7zXZ\0\0", "xz -dc"),
        (b"070701000", "--initrd"),
        (b"MZ\0\0", "EFI program"),
        (b"hello", "is no arm64 Image"),
    ] {
        let message = refusal(contents);
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("/kernel"), "no path: {message}");
    }
    assert!(refusal(&x86).contains("arch/arm64/boot/Image"));
    let folder = Fixture::new(b"");
    let error = load_at(folder.folder.path(), &memory(16), &options()).unwrap_err();
    assert!(error.to_string().contains("give an arm64 Image"), "{error}");
    // And on x86_64.
    for contents in [image(0, 4096, 100), b"MZ\0\0zimg".to_vec()] {
        let message = super::refusal(&contents);
        assert!(message.contains("mote boots x86_64 kernels"), "{message}");
        assert!(message.contains("give a vmlinux or a bzImage"), "{message}");
    }
}

#[test]
fn a_mapped_image_has_the_same_bytes_as_a_copied_one() {
    for (text_offset, image_size, length, mapped) in [
        (0, 0x2_0000, 0x8000, 0x8000),
        // The page that the file shares with the BSS is copied.
        (0, 0x2_0000, 0x8123, 0x8000),
        (0x8_0000, 0x2_0000, 0x8123, 0x8000),
        // What is behind the Image in its file.
        (0, 0x7800, 0x8000, 0x7000),
        (0, 0x2_0000, 0xFFF, 0),
        // The file's pages lie across the guest's.
        (0x800, 0x2_0000, 0x8000, 0),
    ] {
        let fixture = Fixture::new(&image(text_offset, image_size, length));
        let (copied, mapped_memory) = (memory(16), memory(16));
        let copy = load_at(&fixture.path, &copied, &options()).unwrap();
        let with_map = KernelOptions {
            map: true,
            ..options()
        };
        let map = load_at(&fixture.path, &mapped_memory, &with_map).unwrap();
        assert_eq!(map.bytes_mapped, mapped, "{text_offset:#x} {length:#x}");
        assert_eq!(map.bytes_loaded + mapped, copy.bytes_loaded);
        assert_eq!(
            (copy.start, copy.end, copy.entry),
            (map.start, map.end, map.entry)
        );
        let all = |memory| guest_bytes(memory, BASE, 0x10_0000);
        assert!(all(&copied) == all(&mapped_memory));
    }
}
