//! Sorting with made-up mappings: each kind is recognised, and no KiB gets lost.

use super::*;
use crate::footprint::smaps;

const MIB: u64 = 1 << 20;

fn place(kind: Kind, vm: u32, range: Range<u64>) -> Place {
    Place {
        kind,
        vm,
        range,
        detail: 3,
    }
}

/// The text of a mapping with so many KiB resident, all of them private and dirty.
fn mapping(range: Range<u64>, permissions: &str, inode: u64, name: &str, kib: u64) -> String {
    format!(
        "{:x}-{:x} {permissions} 00000000 00:00 {inode} {name}\n\
         Rss: {kib} kB\nPss: {kib} kB\nPrivate_Dirty: {kib} kB\n",
        range.start, range.end
    )
}

fn sorted(text: &str, known: &Known) -> Vec<(What, Option<String>, u64)> {
    let (rows, _) = sort(&smaps::parse(text), known, None);
    let row = |row: Row| (row.what, row.name, row.amounts.resident_kib);
    rows.into_iter().map(row).collect()
}

#[test]
fn each_mapping_has_a_use() {
    let known = Known {
        exe: "/bin/mote".to_owned(),
        stacks: vec![(0x7000_0800, "mote-vda".to_owned())],
        places: vec![place(Kind::Stack, 0, 0x7100_0800..0x7100_0801)],
        ..Known::default()
    };
    let text = [
        mapping(0x1000..0x2000, "r--p", 5, "/bin/mote", 1),
        mapping(0x2000..0x3000, "r-xp", 5, "/bin/mote", 2),
        mapping(0x3000..0x4000, "rw-p", 5, "/bin/mote", 3),
        mapping(0x4000..0x5000, "rw-p", 0, "", 4), // the program's zeros
        mapping(0x9000..0xa000, "rw-p", 0, "[heap]", 5),
        mapping(0x7000_0000..0x7000_1000, "rw-p", 0, "", 6),
        mapping(0x7100_0000..0x7100_1000, "rw-p", 0, "", 7),
        mapping(
            0x7200_0000..0x7200_1000,
            "rw-s",
            9,
            "anon_inode:kvm-vcpu:0",
            8,
        ),
        mapping(
            0x7300_0000..0x7300_1000,
            "rw-s",
            9,
            "anon_inode:[io_uring]",
            9,
        ),
        mapping(
            0x7400_0000..0x7400_1000,
            "rw-s",
            7,
            "/memfd:x (deleted)",
            10,
        ),
        mapping(0x7500_0000..0x7500_1000, "r--p", 7, "/etc/a file", 11),
        mapping(0x7600_0000..0x7600_1000, "rw-p", 0, "", 12),
        mapping(0x7700_0000..0x7700_1000, "rw-p", 0, "[anon: glibc: x]", 13),
        mapping(0x7800_0000..0x7800_1000, "rw-p", 0, "[stack]", 14),
        mapping(0x7880_0000..0x7880_1000, "---p", 0, "", 0),
        mapping(0x7880_1000..0x7880_2000, "rw-p", 0, "", 16),
        mapping(0x7900_0000..0x7900_1000, "r-xp", 0, "[vdso]", 15),
    ];
    let name = |text: &str| Some(text.to_owned());
    let expected = [
        (What::Code, None, 2),
        (What::ReadOnlyData, None, 1),
        (What::Data, None, 7),
        (What::Heap, None, 5),
        (What::Stack, name("another thread"), 16),
        (What::Stack, name("main"), 14),
        (What::Stack, name("mote-vcpu3"), 7),
        (What::Stack, name("mote-vda"), 6),
        (What::Kvm, None, 8),
        (What::IoUring, None, 9),
        (What::SharedMemory, name("/memfd:x (deleted)"), 10),
        (What::MappedFile, name("/etc/a file"), 11),
        (What::Vdso, None, 15),
        (What::Anonymous, None, 25),
    ];
    assert_eq!(sorted(&text.concat(), &known), expected);
}

#[test]
fn what_the_process_tells_comes_before_what_it_looks_like() {
    let known = Known {
        places: vec![
            place(Kind::Ram, 1, 0x1000..0x9000),
            place(Kind::KernelText, 1, 0x3000..0x5000),
            place(Kind::Ram, 2, 0x9000..0xa000),
            place(Kind::MappedDrive, 1, 0x20_0000..0x40_0000),
            place(Kind::Registers, 2, 0xa000..0xb000),
        ],
        ..Known::default()
    };
    // A kernel that is mapped from its file; RAM of two VMs in one mapping with a page of registers; a
    // drive, and what fills it up.
    let text = [
        mapping(0x1000..0x3000, "rw-p", 0, "", 4),
        mapping(0x3000..0x5000, "rw-p", 8, "/boot/vmlinux", 8),
        mapping(0x5000..0x9000, "rw-p", 0, "", 16),
        mapping(0x9000..0xa000, "rw-s", 3, "/memfd:mote-guest (deleted)", 4),
        mapping(0x20_0000..0x30_0000, "r--s", 4, "/a/root.img", 12),
        mapping(0x30_0000..0x40_0000, "r--p", 0, "", 4),
    ];
    let (rows, unparted) = sort(&smaps::parse(&text.concat()), &known, None);
    assert_eq!(unparted, 0);
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.what,
                row.vm,
                row.amounts.resident_kib,
                row.page_cache_kib,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (What::GuestKernelText, 1, 8, 8),
            (What::GuestMemory, 1, 20, 0),
            (What::GuestMemory, 2, 4, 0),
            (What::MappedDrive, 1, 16, 12),
        ]
    );
    assert_eq!(rows[3].name.as_deref(), Some("/a/root.img"));
}

#[test]
fn a_part_of_a_mapping_needs_the_pagemap_or_is_counted_as_not_parted() {
    let known = Known {
        places: vec![
            place(Kind::Ram, 1, 0..128 * MIB),
            place(Kind::KernelText, 1, 16 * MIB..20 * MIB),
        ],
        ..Known::default()
    };
    let text = mapping(0..128 * MIB, "rw-p", 0, "", 30_000);
    let (rows, unparted) = sort(&smaps::parse(&text), &known, None);
    assert_eq!((rows.len(), unparted), (1, 1));
    assert_eq!(rows[0].amounts.resident_kib, 30_000);

    // Pages 16 to 20 MiB: half of them present, of which a quarter is private.
    let folder = tempfile::tempdir().unwrap();
    let page = crate::footprint::pagemap::page_size();
    let word = |n: u64| match n * page / MIB {
        16 => 1u64 << 63 | 1 << 56,
        17 => 1 << 63,
        _ => 0,
    };
    let words = (0..128 * MIB / page).flat_map(|n| word(n).to_ne_bytes());
    std::fs::write(folder.path().join("pagemap"), words.collect::<Vec<_>>()).unwrap();
    let pagemap = Pagemap::open(folder.path()).unwrap();
    let text =
        text.replace("Private_Dirty: 30000", "Private_Dirty: 20000") + "Shared_Clean: 10000 kB\n";
    let (rows, unparted) = sort(&smaps::parse(&text), &known, Some(&pagemap));
    assert_eq!(unparted, 0);
    let text = &rows[0];
    assert_eq!(
        (text.what, text.amounts.resident_kib),
        (What::GuestKernelText, 2048)
    );
    assert_eq!(text.amounts.private_dirty_kib, 1024);
    assert_eq!(text.amounts.shared_clean_kib, 1024);
    let mut sum = rows[0].amounts;
    sum += &rows[1].amounts;
    assert_eq!((sum.resident_kib, sum.proportional_kib), (30_000, 30_000));
    assert_eq!(
        (sum.private_dirty_kib, sum.shared_clean_kib),
        (20_000, 10_000)
    );
}

#[test]
fn nothing_is_taken_that_is_not_there() {
    let counts = Counts {
        present_kib: 100,
        private_kib: 60,
        huge_kib: 90,
        swapped_kib: 10,
    };
    let mut rest = Amounts {
        resident_kib: 80,
        proportional_kib: 50,
        private_dirty_kib: 40,
        shared_clean_kib: 40,
        ..Amounts::default()
    };
    let before = rest;
    let part = take(&mut rest, &counts);
    assert_eq!((part.resident_kib, rest.resident_kib), (80, 0));
    assert_eq!(part.huge_kib() + part.swap_kib, 0);
    rest += &part;
    assert_eq!(rest, before);
}

#[test]
fn a_process_that_may_not_be_asked_is_told_by_how_its_memory_looks() {
    let known = Known {
        exe: "/bin/mote".to_owned(),
        unasked: true,
        ..Known::default()
    };
    let dd = "VmFlags: rd wr mr mw me ac dd\n";
    let text = [
        mapping(0x1000..0x2000, "r-xp", 5, "/bin/mote", 1),
        mapping(0x10_0000..0x20_0000, "rw-p", 0, "", 4) + dd,
        mapping(0x30_0000..0x40_0000, "rw-s", 4, "/a.img", 8) + dd,
        mapping(0x50_0000..0x60_0000, "rw-p", 0, "", 16),
    ];
    let whats: Vec<_> = sorted(&text.concat(), &known)
        .into_iter()
        .map(|(what, _, kib)| (what, kib))
        .collect();
    assert_eq!(
        whats,
        [
            (What::GuestMemory, 4),
            (What::MappedDrive, 8),
            (What::Code, 1),
            (What::Anonymous, 16)
        ]
    );
}

#[test]
fn ranges_that_overlap_or_lie_anywhere_lose_nothing() {
    let anywhere = [0, 1, 0xfff, 0x1000, 0x1800, 0x2000, 0x2001, u64::MAX];
    let kinds = [Kind::Ram, Kind::KernelText, Kind::MappedDrive, Kind::Stack];
    let mut places = Vec::new();
    for start in anywhere {
        for end in anywhere.into_iter().filter(|end| *end > start) {
            places.push(place(kinds[places.len() % 4], end as u32, start..end));
        }
    }
    let known = Known {
        places,
        ..Known::default()
    };
    let text =
        mapping(0x1000..0x2000, "rw-p", 0, "", 4) + &mapping(0x2000..0x8000, "rw-p", 0, "", 8);
    let rows = sorted(&text, &known);
    assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 12);
}
