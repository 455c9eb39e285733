//! Kernels whose file becomes guest memory: the same bytes as copied ones, in every shape of segment.

use super::super::{KernelFormat, KernelOptions};
use super::{
    COMPRESSED, ElfBuilder, Fixture, LOAD, TEXT, bzimage, guest_bytes, load_kernel, memory,
};

const SIZE: usize = 0x10_0000;

/// Loads it both ways, compares a MiB from TEXT on, and gives what was mapped and what copied.
fn both_ways(elf: &[u8]) -> (u64, u64) {
    let fixture = Fixture::new(elf);
    let mut options = KernelOptions::default();
    let (copied, mapped) = (memory(64), memory(64));
    let copy = load_kernel(&fixture.path, &copied, &options).unwrap();
    options.map = true;
    let map = load_kernel(&fixture.path, &mapped, &options).unwrap();
    assert_eq!(
        (copy.entry, copy.start, copy.end, copy.bytes_mapped),
        (map.entry, map.start, map.end, 0)
    );
    assert_eq!(copy.bytes_loaded, map.bytes_loaded + map.bytes_mapped);
    assert!(guest_bytes(&copied, TEXT, SIZE) == guest_bytes(&mapped, TEXT, SIZE));
    (map.bytes_mapped, map.bytes_loaded)
}

#[test]
fn the_guest_sees_the_same_bytes_however_the_segments_lie() {
    let noise: Vec<u8> = (0..0x8000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    for (offset, address, size, mapped) in [
        (0x1000, TEXT, 0x4000, 0x4000),
        // A last page of which the kernel has a part only: the rest must be zeros.
        (0x1000, TEXT, 0x4321, 0x4000),
        (0x1234, TEXT + 0x234, 0x4000, 0x3000),
        (0x1234, TEXT + 0x234, 0x100, 0),
        (0x1fff, TEXT + 0xfff, 0x1001, 0x1000),
        // The file's pages lie across the guest's.
        (0x1200, TEXT, 0x4000, 0),
    ] {
        let mut elf = ElfBuilder::new();
        elf.entry = address;
        elf.headers = vec![[LOAD, offset, address, size, 2 * size, 0x1000]];
        elf.parts = vec![(0x1000, noise.clone())];
        assert_eq!(
            both_ways(&elf.build()).0,
            mapped,
            "{offset:#x} {address:#x}"
        );
    }
}

#[test]
fn segments_that_share_a_page_each_keep_their_bytes() {
    let mut elf = ElfBuilder::new();
    elf.headers = vec![
        [LOAD, 0x1000, TEXT, 0x2100, 0x2100, 0x1000],
        [LOAD, 0x3100, TEXT + 0x2100, 0x2f00, 0x2f00, 0x1000],
    ];
    elf.parts = vec![(0x1000, (0..0x5000u32).map(|n| (n / 7) as u8).collect())];
    assert_eq!(both_ways(&elf.build()), (0x4000, 0x1000));
}

#[test]
fn a_cached_kernel_is_mapped_from_the_cache_if_it_is_whole() {
    let kernel = Fixture::new(&bzimage(COMPRESSED[0].1));
    let folder = kernel.folder.path().join("cache/kernels");
    let options = KernelOptions {
        cache: Some(folder.clone()),
        map: true,
        ..KernelOptions::default()
    };
    let load = || {
        let memory = memory(32);
        let kernel = load_kernel(&kernel.path, &memory, &options).unwrap();
        let bytes = guest_bytes(&memory, 0x100_0000, 0x30_0000);
        let KernelFormat::BzImage { cached, .. } = kernel.format else {
            panic!("{kernel:?}");
        };
        (cached, kernel.bytes_mapped > 0, bytes)
    };
    let (cached, mapped, first) = load();
    assert!(!cached && !mapped);
    let (cached, mapped, second) = load();
    assert!(cached && mapped && first == second);
    let entry = std::fs::read_dir(&folder).unwrap().next().unwrap();
    let entry = entry.unwrap().path();
    let mut bytes = std::fs::read(&entry).unwrap();
    bytes[0x1800] ^= 1;
    std::fs::write(&entry, bytes).unwrap();
    let (cached, _, third) = load();
    assert!(!cached && first == third);
}
