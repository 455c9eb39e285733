//! What the kernel reads first, and the initrd.

use std::fs;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::{
    BootTableError, Cmdline, Entry, InitrdRange, KernelFormat, LoadedKernel, MemoryKind,
    MemoryMapEntry, load_initrd, write_cmdline, write_pvh, write_zero_page,
};
use super::{Fixture, guest_bytes, memory};

const MAP: [MemoryMapEntry; 3] = [
    entry(0, 0x9_FC00, MemoryKind::Ram),
    entry(0xE_0000, 0x2_0000, MemoryKind::Acpi),
    entry(0x1_0000_0000, 0x2_0000_0000, MemoryKind::Reserved),
];
const INITRD: InitrdRange = InitrdRange {
    start: GuestAddress(0xBFF0_0000),
    size: 0xF_FFFF,
};

const fn entry(addr: u64, size: u64, kind: MemoryKind) -> MemoryMapEntry {
    MemoryMapEntry { addr, size, kind }
}

fn u32_at(memory: &GuestMemoryMmap<()>, at: u64) -> u32 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

fn u64_at(memory: &GuestMemoryMmap<()>, at: u64) -> u64 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn pvh_start_info() {
    let memory = memory(2);
    let at = 0x6000;
    let end = write_pvh(
        &memory,
        &MAP,
        GuestAddress(0x2_0000),
        Some(INITRD),
        Some(GuestAddress(0xE_0000)),
        GuestAddress(at),
    )
    .unwrap();
    assert_eq!(end, GuestAddress(at + 56 + 32 + 3 * 24));
    let words: Vec<u32> = (0..14).map(|n| u32_at(&memory, at + 4 * n)).collect();
    let modules = at as u32 + 56;
    let map = modules + 32;
    assert_eq!(
        words,
        [
            0x336E_C578,
            1,
            0,
            1,
            modules,
            0,
            0x2_0000,
            0,
            0xE_0000,
            0,
            map,
            0,
            3,
            0
        ]
    );
    let module: Vec<u64> = (0..4)
        .map(|n| u64_at(&memory, u64::from(modules) + 8 * n))
        .collect();
    assert_eq!(module, [0xBFF0_0000, 0xF_FFFF, 0, 0]);
    for (n, (entry, kind)) in MAP.iter().zip([1, 3, 2]).enumerate() {
        let at = u64::from(map) + 24 * n as u64;
        assert_eq!(u64_at(&memory, at), entry.addr);
        assert_eq!(u64_at(&memory, at + 8), entry.size);
        assert_eq!(u64_at(&memory, at + 16), kind);
    }

    // Without an initrd and ACPI.
    write_pvh(
        &memory,
        &MAP,
        GuestAddress(0x2_0000),
        None,
        None,
        GuestAddress(at),
    )
    .unwrap();
    assert_eq!(u32_at(&memory, at + 12), 0);
    assert_eq!(u64_at(&memory, at + 16), 0);
    assert_eq!(u64_at(&memory, at + 32), 0);
    assert_eq!(u64_at(&memory, at + 40), at + 56);
}

#[test]
fn zero_page() {
    let memory = memory(2);
    let at = 0x7000;
    // Whatever was there is gone.
    memory.write_slice(&[0xFF; 4096], GuestAddress(at)).unwrap();
    let end = write_zero_page(
        &memory,
        &MAP,
        GuestAddress(0x2_0000),
        Some(INITRD),
        Some(GuestAddress(0xE_0000)),
        GuestAddress(at),
    )
    .unwrap();
    assert_eq!(end, GuestAddress(at + 4096));
    // The offsets are those of Documentation/arch/x86/boot.rst and zero-page.rst.
    assert_eq!(u64_at(&memory, at + 0x70), 0xE_0000);
    assert_eq!(guest_bytes(&memory, at + 0xC0, 12), [0; 12]);
    assert_eq!(guest_bytes(&memory, at + 0x1E8, 1), [3]);
    assert_eq!(guest_bytes(&memory, at + 0x1EF, 1), [0]);
    assert_eq!(guest_bytes(&memory, at + 0x1FE, 2), [0x55, 0xAA]);
    assert_eq!(guest_bytes(&memory, at + 0x202, 6), *b"HdrS\x0F\x02");
    assert_eq!(guest_bytes(&memory, at + 0x210, 2), [0xFF, 0x01]);
    assert_eq!(u32_at(&memory, at + 0x218), 0xBFF0_0000);
    assert_eq!(u32_at(&memory, at + 0x21C), 0xF_FFFF);
    assert_eq!(u32_at(&memory, at + 0x228), 0x2_0000);
    for (n, (entry, kind)) in MAP.iter().zip([1, 3, 2]).enumerate() {
        let at = at + 0x2D0 + 20 * n as u64;
        assert_eq!(u64_at(&memory, at), entry.addr);
        assert_eq!(u64_at(&memory, at + 8), entry.size);
        assert_eq!(u32_at(&memory, at + 16), kind);
    }
    assert_eq!(guest_bytes(&memory, at + 0x2D0 + 60, 20), [0; 20]);
}

#[test]
fn both_tables_refuse_the_same_mistakes() {
    let memory = memory(2);
    let write = |map: &[MemoryMapEntry], cmdline, initrd, at| {
        let (cmdline, at) = (GuestAddress(cmdline), GuestAddress(at));
        let pvh = write_pvh(&memory, map, cmdline, initrd, None, at);
        let zero_page = write_zero_page(&memory, map, cmdline, initrd, None, at);
        (pvh.unwrap_err(), zero_page.unwrap_err())
    };
    let many = [entry(0, 1, MemoryKind::Ram); 128];
    let (a, b) = write(&many, 0, None, 0);
    assert!(a == b && a == BootTableError::TooManyEntries(128));
    assert!(
        write_zero_page(
            &memory,
            &many[..127],
            GuestAddress(0),
            None,
            None,
            GuestAddress(0)
        )
        .is_ok()
    );
    for (addr, size) in [(0, 0), (u64::MAX, 2), (2, u64::MAX)] {
        let (a, b) = write(&[entry(addr, size, MemoryKind::Ram)], 0, None, 0);
        assert!(a == b && a == BootTableError::BadEntry(addr));
    }
    let (a, b) = write(&[], 1 << 32, None, 0);
    assert!(a == b && matches!(a, BootTableError::Above4GiB { .. }));
    let high = InitrdRange {
        start: GuestAddress(u64::MAX - 10),
        size: 100,
    };
    let (a, b) = write(&[], 0, Some(high), 0);
    assert!(a == b && matches!(a, BootTableError::Above4GiB { .. }));
    for at in [(2 << 20) - 8, 3 << 20, u64::MAX - 5] {
        let (a, b) = write(&[], 0, None, at);
        assert!(matches!(a, BootTableError::Write { .. }), "{a}");
        assert!(matches!(b, BootTableError::Write { .. }), "{b}");
    }
}

#[test]
fn the_command_line_ends_with_a_zero() {
    let memory = memory(2);
    let mut cmdline = Cmdline::default();
    cmdline.add("quiet");
    let at = GuestAddress(0x2_0000);
    memory.write_slice(&[0xFF; 16], at).unwrap();
    let end = write_cmdline(&memory, &cmdline.finish().unwrap(), at).unwrap();
    assert_eq!(end, GuestAddress(0x2_0006));
    assert_eq!(guest_bytes(&memory, at.0, 7), *b"quiet\0\xFF");
}

/// A kernel from 16 MiB to so many bytes after.
fn kernel(size: u64) -> LoadedKernel {
    LoadedKernel {
        text_end: GuestAddress(0x100_0000 + size),
        entry: Entry::Pvh(GuestAddress(16 << 20)),
        start: GuestAddress(16 << 20),
        end: GuestAddress((16 << 20) + size),
        bytes_loaded: size,
        bytes_mapped: 0,
        format: KernelFormat::Elf,
    }
}

#[test]
fn the_initrd_goes_as_high_as_it_may() {
    let contents: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let file = Fixture::new(&contents);
    for (highest, start) in [
        (u64::MAX, (64 << 20) - 25 * 4096),
        (64 << 20, (64 << 20) - 25 * 4096),
        (32 << 20, (32 << 20) - 25 * 4096),
        ((32 << 20) + 1, (32 << 20) - 25 * 4096),
        // Straight after the kernel.
        ((17 << 20) + 100_000, 17 << 20),
    ] {
        let memory = memory(64);
        let range = load_initrd(&file.path, &memory, &kernel(1 << 20), highest).unwrap();
        assert_eq!(range.start, GuestAddress(start), "{highest:#x}");
        assert_eq!(range.size, 100_000);
        assert!(guest_bytes(&memory, start, 100_000) == contents);
    }
}

#[test]
fn the_initrd_stays_below_the_gap() {
    let ranges = [
        (GuestAddress(0), 32 << 20),
        (GuestAddress(1 << 32), 32 << 20),
    ];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    let file = Fixture::new(b"070701");
    let range = load_initrd(&file.path, &memory, &kernel(4096), u64::MAX).unwrap();
    assert_eq!(range.start, GuestAddress((32 << 20) - 4096));
}

#[test]
fn an_initrd_that_does_not_fit_says_what_would_help() {
    let file = Fixture::new(&[1; 100_000]);
    let refusal = |mib, size, highest| {
        load_initrd(&file.path, &memory(mib), &kernel(size), highest)
            .unwrap_err()
            .to_string()
    };
    // One byte more than in the test above.
    let message = refusal(64, (1 << 20) + 1, (17 << 20) + 100_000);
    assert!(
        message.contains("make it smaller, or use a root"),
        "{message}"
    );
    let message = refusal(18, 2 << 20, u64::MAX);
    assert!(message.contains("--memory 19M"), "{message}");
    assert!(message.contains("100000 bytes"), "{message}");

    let big = file.folder.path().join("big");
    fs::File::create(&big).unwrap().set_len(1 << 40).unwrap();
    let error = load_initrd(&big, &memory(64), &kernel(4096), u64::MAX).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("use a root filesystem on a drive"),
        "{error}"
    );
}

#[test]
fn wrong_initrds_are_refused() {
    let file = Fixture::new(b"");
    let refusal = |path| {
        load_initrd(path, &memory(64), &kernel(4096), u64::MAX)
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(&file.path).contains("is empty"));
    assert!(refusal(file.folder.path()).contains("not a regular file"));
    assert!(refusal(&file.folder.path().join("none")).contains("cannot open"));
}
