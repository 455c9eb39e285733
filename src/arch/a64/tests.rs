use vm_memory::Bytes;

use super::*;

#[test]
fn stores_are_known_by_what_they_do_to_their_base() {
    // As GNU as writes them.
    for (word, expected) in [
        (0xa900_0c22, Some(None)),            // stp x2, x3, [x1]
        (0xa93f_0c22, Some(None)),            // stp x2, x3, [x1, #-16]
        (0xa881_0c22, Some(Some((1, 16)))),   // stp x2, x3, [x1], #16
        (0xa9bf_7bfd, Some(Some((SP, -16)))), // stp x29, x30, [sp, #-16]!
        (0x2881_0c22, Some(Some((1, 8)))),    // stp w2, w3, [x1], #8
        (0xad00_8440, Some(None)),            // stp q0, q1, [x2, #16]
        (0xac82_0440, Some(Some((2, 64)))),   // stp q0, q1, [x2], #64
        (0x6d81_0440, Some(Some((2, 16)))),   // stp d0, d1, [x2, #16]!
        (0xa800_0c22, Some(None)),            // stnp x2, x3, [x1]
        (0xf800_8422, Some(Some((1, 8)))),    // str x2, [x1], #8
        (0xf81f_8c22, Some(Some((1, -8)))),   // str x2, [x1, #-8]!
        (0x3800_1422, Some(Some((1, 1)))),    // strb w2, [x1], #1
        (0xfd00_0020, Some(None)),            // str d0, [x1]
        (0x3d80_0020, Some(None)),            // str q0, [x1]
        (0x3c81_0420, Some(Some((1, 16)))),   // str q0, [x1], #16
        (0x3ca2_6820, Some(None)),            // str q0, [x1, x2]
        (0xf822_6820, Some(None)),            // str x0, [x1, x2]
        (0xd50b_7422, Some(None)),            // dc zva, x2
        (0xa940_0c22, None),                  // ldp x2, x3, [x1]
        (0xf840_8422, None),                  // ldr x2, [x1], #8
        (0x3cc1_0420, None),                  // ldr q0, [x1], #16
        (0xf820_0041, None),                  // ldadd x0, x1, [x2]
        (0xc803_7c22, None),                  // stxr w3, x2, [x1]
        (0x6900_0c22, None),                  // stgp x2, x3, [x1]
        (0x9100_0400, None),                  // add x0, x0, #1
        (0, None),
        (u32::MAX, None),
    ] {
        assert_eq!(store(word), expected, "{word:#010x}");
    }
}

const RAM: u64 = 0x4000_0000;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 1 << 20)]).unwrap()
}

/// TCR_EL1 with T1SZ and TG1, and with T0SZ and TG0.
fn upper(bits: u64, page: u64) -> u64 {
    (64 - bits) << 16 | page << 30
}

fn lower(bits: u64, page: u64) -> u64 {
    (64 - bits) | (page << 14)
}

#[test]
fn code_is_found_by_blocks_and_by_pages() {
    let memory = memory();
    let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(RAM + at)).unwrap();
    // 39 bits and 4 KiB: three levels. A block of 2 MiB, and a page, with attributes all around.
    let table = |at: u64| (RAM + at) | 3;
    let kernel = 0xffff_ff80_4000_0000_u64;
    put(0x1000 + 8, 0x60_0000_0000_0000 << 1 | table(0x2000));
    put(0x2000, 0x40_0000_4020_0705 & !3 | 1);
    put(0x2008, table(0x3000));
    put(0x3000 + 3 * 8, 0x40_0000_4567_8713 | 3);
    let tables = Tables::new(
        true,
        upper(39, 2),
        (0xb000_0000_0000 << 4) | (RAM + 0x1001),
        true,
    );
    let found = |address| tables.translate(&memory, address);
    assert_eq!(found(kernel + 0x1_2344), Some(GuestAddress(0x4021_2344)));
    let page = kernel + (2 << 20) + (3 << 12) + 0x10;
    assert_eq!(found(page), Some(GuestAddress(0x4567_8010)));
    for nothing in [kernel + (4 << 20), kernel + (1 << 30), page + 4096] {
        assert_eq!(found(nothing), None, "{nothing:#x}");
    }
    // 64 KiB and 42 bits: two levels, each of a page.
    put(0x1_0000 + 8, (RAM + 0x2_0000) | 3);
    put(0x2_0000 + 16, 0x5555_0000 | 0x703);
    let tables = Tables::new(true, lower(42, 1), RAM + 0x1_0000, false);
    let at = (1 << 29) + (2 << 16) + 0x4444;
    assert_eq!(
        tables.translate(&memory, at),
        Some(GuestAddress(0x5555_4444))
    );
    // None at all.
    let tables = Tables::new(false, 0, u64::MAX, false);
    assert_eq!(tables.translate(&memory, 0x123), Some(GuestAddress(0x123)));
}

#[test]
fn a_guests_wildest_tables_lead_nowhere() {
    let memory = memory();
    for at in (0..1 << 20).step_by(8) {
        memory.write_obj(RAM | 3, GuestAddress(RAM + at)).unwrap(); // each leads to the first
    }
    for tcr in [
        0,
        u64::MAX,
        upper(39, 3),
        lower(52, 0),
        lower(16, 1),
        upper(12, 1),
    ] {
        for root in [0, RAM, u64::MAX, 0xffff_ffff_f000] {
            for (half, address) in [(false, 0x1234), (true, u64::MAX)] {
                let tables = Tables::new(true, tcr, root, half);
                let found = tables.translate(&memory, address);
                let inside = |at: GuestAddress| at.0 < RAM + (1 << 20);
                assert!(found.is_none_or(inside), "{tables:x?}: {found:x?}");
            }
        }
    }
}
