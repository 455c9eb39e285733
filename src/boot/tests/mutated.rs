//! Random changes to good files: anything may be refused, nothing may panic, hang or write
//! outside of what is then said to be the kernel.

use proptest::prelude::*;

use super::super::decompress::unpack;
use super::super::image::Header;
use super::super::kernel_image::KernelImage;
use super::super::notes::find_pvh_entry;
use super::super::packed::{HEAD_SIZE, Stamp};
use super::super::source::Source;
use super::super::{
    Cmdline, HIGHEST_KERNEL_ADDRESS, KernelOptions, LOWEST_KERNEL_ADDRESS, bzimage, elf, zboot,
};
use super::{COMPRESSED, ElfBuilder, TEXT, VMLINUX, memory, pvh_note};

/// Bytes to write over a file, where they go, and how much of it is left.
fn changes() -> impl Strategy<Value = (Vec<(usize, u64, usize)>, usize)> {
    let interesting = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(1 << 32),
        0..4096u64,
        (TEXT - 600)..(TEXT + 600),
    ];
    let change = (any::<usize>(), interesting, 1..=8usize);
    (prop::collection::vec(change, 0..6), any::<usize>())
}

/// Applies them to the first `area` bytes of a file.
fn apply(bytes: &mut Vec<u8>, area: usize, changes: &(Vec<(usize, u64, usize)>, usize)) {
    for (at, value, width) in &changes.0 {
        for (n, byte) in value.to_le_bytes().iter().take(*width).enumerate() {
            let at = (at % area + n).min(bytes.len() - 1);
            bytes[at] = *byte;
        }
    }
    // Cut off something in one of four cases.
    if changes.1.is_multiple_of(4) {
        bytes.truncate(changes.1 / 4 % bytes.len());
    }
}

/// What holds for every file that is accepted.
fn check_image(image: &KernelImage, length: u64) {
    let mut previous = LOWEST_KERNEL_ADDRESS;
    assert!(!image.segments.is_empty());
    for segment in &image.segments {
        assert!(segment.address >= previous);
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.offset.checked_add(segment.file_size).unwrap() <= length);
        previous = segment.address + segment.memory_size;
    }
    assert!(previous <= HIGHEST_KERNEL_ADDRESS);
    assert_eq!(image.end(), previous);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn elf_headers(changes in changes()) {
        let mut elf = ElfBuilder::new().notes(4, pvh_note(TEXT as u32)).build();
        // The headers, and in the other half of the cases the notes.
        let area = if changes.1 % 8 < 4 { 64 + 2 * 56 } else { 0x820 };
        apply(&mut elf, area, &changes);
        let source = Source::Bytes(&elf);
        if let Ok(image) = elf::parse(&elf[..elf.len().min(HEAD_SIZE)], &source) {
            check_image(&image, elf.len() as u64);
        }
    }

    #[test]
    fn notes(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8)], 0..200), alignment in 0..16u64) {
        let _ = find_pvh_entry(&bytes, alignment);
    }

    #[test]
    fn bzimage_headers(changes in changes()) {
        let mut image = super::bzimage(COMPRESSED[0].1);
        let length = image.len() as u64;
        apply(&mut image, 0x260, &changes);
        if bzimage::is_bzimage(&image)
            && let Ok(payload) = bzimage::parse(&image, length)
        {
            assert!(payload.length > 0);
            assert!(payload.offset + payload.length <= length);
        }
    }

    #[test]
    fn image_headers(changes in changes(), offset in any::<u64>(), base in any::<u64>()) {
        let mut bytes = super::image::image(0, 0x2_0000, 200);
        let length = bytes.len() as u64;
        apply(&mut bytes, 64, &changes);
        if let Ok(header) = Header::parse(&bytes, length) {
            assert!(header.file_size <= header.memory_size && header.file_size <= length);
            let image = header.place(offset, &memory(1), base);
            let below = image.start().checked_sub(header.text_offset).unwrap();
            assert!(below >= base.min(1 << 52) && below.is_multiple_of(2 << 20));
            assert_eq!(image.end(), image.start() + header.memory_size);
            assert_eq!(image.segments[0].offset, offset);
        }
    }

    #[test]
    fn zboot_headers(changes in changes()) {
        let mut file = super::packed_image::zboot(b"gzip\0", COMPRESSED[0].1, 0);
        let length = file.len() as u64;
        apply(&mut file, 0x38, &changes);
        if let Ok(payload) = zboot::parse(&file, length) {
            assert!(payload.length > 0 && payload.length <= 1 << 30);
            assert!(payload.offset + payload.length <= length);
        }
    }

    #[test]
    fn stamps(changes in changes()) {
        let mut head = [0x55; HEAD_SIZE].to_vec();
        apply(&mut head, HEAD_SIZE, &changes);
        head.resize(HEAD_SIZE, 0);
        let head: [u8; HEAD_SIZE] = head.try_into().unwrap();
        assert_eq!(Stamp::read(&head), None);
    }

    #[test]
    fn command_lines(texts in prop::collection::vec("[ -~\t]{0,40}", 0..5), odd in any::<String>()) {
        let mut cmdline = Cmdline::with_defaults(&["a=1", "b"]);
        for text in &texts {
            cmdline.add(text.as_str());
        }
        if let Ok(line) = cmdline.finish() {
            // Putting it through once more changes nothing.
            let mut again = Cmdline::default();
            again.add(line.to_str().unwrap());
            assert_eq!(again.finish().unwrap(), line);
        }
        cmdline.add(odd);
        let _ = cmdline.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn payloads(changes in changes()) {
        for (_, payload) in COMPRESSED {
            let mut payload = payload.to_vec();
            let area = if changes.1 % 8 < 4 { 32 } else { payload.len() };
            apply(&mut payload, area, &changes);
            if let Ok(unpacked) = unpack(payload, 1 << 20) {
                assert!(unpacked.len() <= 1 << 20);
            }
        }
    }

    #[test]
    fn whole_files(changes in changes()) {
        let mut elf = VMLINUX.to_vec();
        apply(&mut elf, 0x220, &changes);
        let mut fixture = super::Fixture::new(&elf);
        let memory = memory(32);
        let _ = super::load_kernel(&fixture.path, &memory, &Default::default());
        let mut image = super::bzimage(COMPRESSED[2].1);
        apply(&mut image, 0x700, &changes);
        fixture = super::Fixture::new(&image);
        let _ = super::load_kernel(&fixture.path, &memory, &Default::default());
    }

    #[test]
    fn whole_arm64_files(changes in changes(), map in any::<bool>()) {
        let plain = super::image::image(0, 0x2_0000, 0x3000);
        let mut zboot = super::packed_image::zboot(b"zstd\0", COMPRESSED[1].1, 4);
        apply(&mut zboot, 0x1240, &changes);
        let mut image = plain;
        apply(&mut image, 64, &changes);
        for file in [zboot, image] {
            let options = KernelOptions { map, ..super::image::options() };
            let fixture = super::Fixture::new(&file);
            let memory = super::image::memory(16);
            let loaded = super::image::load_at(&fixture.path, &memory, &options);
            if let Ok(kernel) = loaded {
                let ram = super::image::BASE..=super::image::RAM + (16 << 20);
                assert!(ram.contains(&kernel.start.0) && ram.contains(&kernel.end.0));
            }
        }
    }
}
