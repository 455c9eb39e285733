//! What the kernel reads first.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::{
    BootTableError, Cmdline, InitrdRange, MemoryKind, MemoryMapEntry, write_cmdline, write_pvh,
    write_zero_page,
};
use super::{guest_bytes, memory};

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
