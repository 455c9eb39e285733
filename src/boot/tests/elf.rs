//! ELF kernels: the good, the wrong and the hostile.

use vm_memory::GuestAddress;

use super::super::elf;
use super::super::notes::find_pvh_entry;
use super::super::source::Source;
use super::super::{
    Architecture, Entry, EntryPreference, FileFormat, KernelFile, KernelFormat, KernelOptions,
};
use super::{
    ElfBuilder, Fixture, LOAD, NOTE, TEXT, guest_bytes, load, load_kernel, memory, note, pvh_note,
    refusal,
};

#[test]
fn a_kernel_without_a_pvh_note_starts_by_the_64_bit_protocol() {
    let memory = memory(64);
    let fixture = Fixture::new(&ElfBuilder::new().build());
    let kernel = load_kernel(&fixture.path, &memory, &KernelOptions::default()).unwrap();
    assert_eq!(kernel.entry, Entry::Linux64(GuestAddress(TEXT + 16)));
    assert_eq!(kernel.start, GuestAddress(TEXT));
    assert_eq!(kernel.end, GuestAddress(TEXT + 512));
    assert_eq!(kernel.bytes_loaded, 256);
    assert_eq!(kernel.format, KernelFormat::Elf);
    let expected: Vec<u8> = (0..=255).chain([0; 256]).collect();
    assert_eq!(guest_bytes(&memory, TEXT, 512), expected);
}

#[test]
fn a_pvh_note_is_preferred_and_can_be_passed_over() {
    let fixture = Fixture::new(&ElfBuilder::new().notes(4, pvh_note(TEXT as u32)).build());
    let load = |prefer| {
        let options = KernelOptions {
            prefer,
            ..KernelOptions::default()
        };
        load_kernel(&fixture.path, &memory(64), &options)
            .unwrap()
            .entry
    };
    let pvh = Entry::Pvh(GuestAddress(TEXT));
    assert_eq!(load(EntryPreference::Auto), pvh);
    assert_eq!(load(EntryPreference::Pvh), pvh);
    assert_eq!(
        load(EntryPreference::Linux64),
        Entry::Linux64(GuestAddress(TEXT + 16))
    );
    let file = KernelFile::open(&fixture.path, Architecture::X86_64).unwrap();
    assert_eq!(file.format(), FileFormat::Elf);
}

#[test]
fn pvh_can_be_demanded() {
    let fixture = Fixture::new(&ElfBuilder::new().build());
    let options = KernelOptions {
        prefer: EntryPreference::Pvh,
        ..KernelOptions::default()
    };
    let error = load_kernel(&fixture.path, &memory(64), &options).unwrap_err();
    assert!(error.to_string().contains("CONFIG_PVH=y"), "{error}");
}

#[test]
fn segments_go_to_their_physical_addresses_in_any_order() {
    let mut elf = ElfBuilder::new();
    elf.headers.insert(0, [LOAD, 0x2000, 0x40_0000, 16, 16, 1]);
    elf.headers.push([LOAD, 0, 0x50_0000, 0, 0, 1]); // empty: ignored
    elf.parts.push((0x2000, vec![0xAB; 16]));
    let memory = memory(64);
    let kernel = load_kernel(
        &Fixture::new(&elf.build()).path,
        &memory,
        &KernelOptions::default(),
    )
    .unwrap();
    assert_eq!(kernel.start, GuestAddress(TEXT));
    assert_eq!(kernel.end, GuestAddress(0x40_0010));
    assert_eq!(guest_bytes(&memory, 0x40_0000, 16), [0xAB; 16]);
}

#[test]
fn notes_are_found_at_either_alignment() {
    let other = |alignment| note(b"GNU\0", 3, &[1; 20], alignment);
    let linux = |alignment| note(b"Linux\0", 0x101, &[2; 5], alignment);
    for alignment in [4, 8] {
        for desc in [&[0x40, 0, 0, 1][..], &[0x40, 0, 0, 1, 0, 0, 0, 0]] {
            let mut notes = [other(alignment), linux(alignment)].concat();
            notes.extend(note(b"Xen\0", 5, b"xen-3.0\0", alignment));
            notes.extend(note(b"Xen\0", 18, desc, alignment));
            let found = find_pvh_entry(&notes, alignment as u64).unwrap();
            assert_eq!(found, Some(0x100_0040), "alignment {alignment}");
        }
    }
    // The last note's padding may be missing; a note of another owner isn't ours.
    assert_eq!(
        find_pvh_entry(&note(b"Linux\0", 18, &[1], 4)[..21], 4).unwrap(),
        None
    );
    assert_eq!(
        find_pvh_entry(&note(b"Xen\0", 18, &[1, 0, 0, 0], 4), 0).unwrap(),
        Some(1)
    );
    assert_eq!(find_pvh_entry(&[], 4).unwrap(), None);
}

#[test]
fn broken_notes_are_refused() {
    let with_notes = |notes| refusal(&ElfBuilder::new().notes(4, notes).build());
    let mut huge_name = pvh_note(TEXT as u32);
    huge_name[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(with_notes(huge_name).contains("larger than the segment"));
    let mut huge_desc = pvh_note(TEXT as u32);
    huge_desc[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(with_notes(huge_desc).contains("larger than the segment"));
    assert!(with_notes(note(b"Xen\0", 18, &[1, 2], 4)).contains("PVH note of 2 bytes"));
    let high = note(b"Xen\0", 18, &(1u64 << 32).to_le_bytes(), 4);
    assert!(with_notes(high).contains("above 4 GiB"));
    // Entries in the BSS, after it and nowhere near.
    for entry in [TEXT + 256, TEXT + 512, 0, 0xFFFF_FFFF] {
        let message = with_notes(pvh_note(entry as u32));
        assert!(message.contains("outside of what it loads"), "{message}");
    }
    let mut beyond = ElfBuilder::new();
    beyond.headers.push([NOTE, u64::MAX, 0, 64, 0, 4]);
    assert!(refusal(&beyond.build()).contains("truncated"));
    let mut large = ElfBuilder::new();
    large.headers.push([NOTE, 0, 0, 1 << 40, 0, 4]);
    assert!(refusal(&large.build()).contains("bytes of notes"));
}

#[test]
fn other_files_are_told_apart() {
    for (contents, expected) in [
        (&b""[..], "is empty"),
        (b"#!/bin/sh\n", "is a script"),
        (b"\x1f\x8b\x08\0\0", "gzip -dc"),
        (b"\x28\xb5\x2f\xfd\0", "zstd -dc"),
        (b"\xfd7zXZ\0\0", "xz -dc"),
        (b"070701000", "--initrd"),
        (b"MZ\0\0", "EFI program"),
        (b"hello", "neither an ELF file nor a bzImage"),
        (b"\x7fELF\x02\x01\x01", "truncated"),
    ] {
        let message = refusal(contents);
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("/kernel"), "no path: {message}");
    }
    let mut arm64 = vec![0; 64];
    arm64[56..60].copy_from_slice(b"ARM\x64");
    assert!(refusal(&arm64).contains("arm64 Image"));
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let fixture = Fixture::new(b"");
    let folder = fixture.folder.path();
    let error = KernelFile::open(folder, Architecture::X86_64)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let fifo = folder.join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let error = KernelFile::open(&fifo, Architecture::X86_64)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let error = KernelFile::open(&folder.join("none"), Architecture::X86_64)
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn wrong_architectures_and_kinds_are_named() {
    let with = |change: fn(&mut ElfBuilder)| {
        let mut elf = ElfBuilder::new();
        change(&mut elf);
        refusal(&elf.build())
    };
    assert!(with(|elf| elf.machine = 183).contains("AArch64"));
    assert!(with(|elf| elf.machine = 243).contains("RISC-V"));
    assert!(with(|elf| elf.machine = 21).contains("machine 21"));
    assert!(with(|elf| elf.ident[4] = 1).contains("32-bit"));
    assert!(with(|elf| elf.ident[4] = 9).contains("unknown ELF class"));
    assert!(with(|elf| elf.ident[5] = 2).contains("big-endian"));
    assert!(with(|elf| elf.ident[6] = 0).contains("damaged"));
    assert!(with(|elf| elf.kind = 1).contains("kernel module"));
    assert!(with(|elf| elf.kind = 3).contains("shared object"));
    assert!(with(|elf| elf.kind = 4).contains("core dump"));
    assert!(with(|elf| elf.kind = 7).contains("unknown type"));
    assert!(with(|elf| elf.headers.push([3, 0, 0, 0, 0, 0])).contains("ordinary program"));
}

#[test]
fn a_position_independent_kernel_needs_a_pvh_note() {
    let mut elf = ElfBuilder::new().notes(4, pvh_note(TEXT as u32));
    elf.kind = 3;
    assert_eq!(
        load(&elf.build()).unwrap().entry,
        Entry::Pvh(GuestAddress(TEXT))
    );
}

#[test]
fn hostile_headers_are_refused() {
    let with = |change: fn(&mut ElfBuilder)| {
        let mut elf = ElfBuilder::new();
        change(&mut elf);
        refusal(&elf.build())
    };
    assert!(with(|elf| elf.table_offset = u64::MAX).contains("truncated"));
    assert!(with(|elf| elf.table_offset = 1 << 40).contains("truncated"));
    assert!(with(|elf| elf.header_size = 55).contains("of 55 bytes"));
    assert!(with(|elf| elf.header_count = Some(0)).contains("0 program headers"));
    assert!(with(|elf| elf.header_count = Some(u16::MAX)).contains("65535 program headers"));
    assert!(with(|elf| elf.headers.clear()).contains("0 program headers"));
    assert!(with(|elf| elf.headers[0][0] = 6).contains("nothing to load"));
    assert!(with(|elf| elf.entry = TEXT + 256).contains("64-bit entry"));
    assert!(with(|elf| elf.entry = 0xFFFF_FFFF_8020_0010).contains("64-bit entry"));
}

#[test]
fn hostile_segments_are_refused() {
    let with = |field, value| refusal(&ElfBuilder::new().segment_field(field, value).build());
    const OFFSET: usize = 1;
    const ADDRESS: usize = 2;
    const FILE_SIZE: usize = 3;
    const SIZE: usize = 4;
    assert!(with(OFFSET, 0x1001).contains("truncated"));
    assert!(with(OFFSET, u64::MAX).contains("truncated"));
    assert!(with(SIZE, 255).contains("256 bytes in the file but only 255"));
    assert!(with(FILE_SIZE, u64::MAX).contains("bytes in the file but only"));
    for low in [0, 0xF_FFFF] {
        assert!(with(ADDRESS, low).contains("below 1 MiB"));
    }
    for high in [0xC000_0000 - 511, 1 << 32, u64::MAX - 256, u64::MAX] {
        let message = with(ADDRESS, high);
        assert!(message.contains("below 0xc0000000 only"), "{message}");
    }
    for size in [1 << 40, u64::MAX] {
        assert!(with(SIZE, size).contains("below 0xc0000000 only"));
    }
    let mut file_size = ElfBuilder::new().segment_field(FILE_SIZE, 1 << 30);
    file_size.headers[0][SIZE] = 1 << 30;
    assert!(refusal(&file_size.build()).contains("truncated"));

    let mut overlap = ElfBuilder::new();
    overlap.headers.push([LOAD, 0x1000, TEXT + 511, 1, 1, 1]);
    assert!(refusal(&overlap.build()).contains("overlap"));
    overlap.headers[1][2] = TEXT + 512;
    assert!(load(&overlap.build()).is_ok());
}

#[test]
fn too_little_memory_is_told_with_the_need() {
    // Ends 512 bytes after 100 MiB: 101 MiB hold it.
    let elf = ElfBuilder::new().segment_field(4, (98 << 20) + 512);
    let message = refusal(&elf.build());
    assert!(message.contains("--memory 101M"), "{message}");
    assert!(message.contains("it has 64M"), "{message}");
    let fixture = Fixture::new(&elf.build());
    load_kernel(&fixture.path, &memory(101), &KernelOptions::default()).unwrap();
}

#[test]
fn every_truncation_is_an_error() {
    let elf = ElfBuilder::new().notes(4, pvh_note(TEXT as u32)).build();
    for length in 0..elf.len() {
        let elf = &elf[..length];
        assert!(elf::parse(elf, &Source::Bytes(elf)).is_err(), "{length}");
    }
}

#[test]
fn segments_may_cross_regions_of_ram() {
    let regions = [
        (GuestAddress(0), 0x20_0000 + 0x1000),
        (GuestAddress(0x20_1000), 0x10_0000),
    ];
    let memory = vm_memory::GuestMemoryMmap::<()>::from_ranges(&regions).unwrap();
    let mut elf = ElfBuilder::new().segment_field(2, 0x20_1000 - 100);
    elf.entry = 0x20_1000;
    let fixture = Fixture::new(&elf.build());
    load_kernel(&fixture.path, &memory, &KernelOptions::default()).unwrap();
    let expected: Vec<u8> = (0..=255).collect();
    assert_eq!(guest_bytes(&memory, 0x20_1000 - 100, 256), expected);
}
