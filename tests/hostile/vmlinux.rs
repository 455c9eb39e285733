//! Kernel files for x86_64 that lie about themselves: ELF files and bzImages.

use std::time::Duration;

use crate::elf::{Elf, LOAD, Segment};
use crate::kernels::{boot, gzip, refused_or_run, start};
use crate::kvm;
use crate::monitor::Monitor;
use crate::native::KERNEL;
use crate::random::Random;

/// PT_NOTE.
const NOTE: u32 = 4;

/// A kernel that says that it lives.
fn good() -> Elf {
    let mut elf = Elf::new(KERNEL);
    let code = [&print_alive()[..], &crate::native::power_off()].concat();
    elf.segments.push(Segment::new(LOAD, KERNEL, code));
    elf
}

fn print_alive() -> Vec<u8> {
    let one = |byte: u8| [0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee];
    b"alive".iter().flat_map(|byte| one(*byte)).collect()
}

#[test]
fn an_elf_file_cut_short_at_every_border() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = good().file();
    start(folder.path(), &file).end().survived();
    let borders = [
        0, 1, 4, 5, 15, 16, 24, 32, 40, 52, 58, 63, 64, 65, 119, 120, 4095, 4096,
    ];
    for length in borders.into_iter().chain([file.len() - 1]) {
        start(folder.path(), &file[..length])
            .end()
            .refused(&["kernel"]);
    }
}

#[test]
fn an_elf_file_with_numbers_that_lie() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let numbers = [
        0,
        1,
        0xfff,
        0x1_0000,
        KERNEL - 1,
        1 << 31,
        1 << 40,
        1 << 63,
        !0 - 0xfff,
        !0,
    ];
    let mut files = Vec::new();
    for number in numbers {
        files.push(Elf {
            entry: number,
            ..good()
        });
        files.push(Elf {
            headers_at: number,
            ..good()
        });
        files.push(Elf {
            header_size: number as u16,
            ..good()
        });
        files.push(Elf {
            count: Some(number as u16),
            ..good()
        });
        let changes: [fn(&mut Segment, u64); 5] = [
            |segment, number| segment.address = number,
            |segment, number| segment.offset = Some(number),
            |segment, number| segment.in_file = Some(number),
            |segment, number| segment.in_memory = Some(number),
            |segment, number| {
                segment.address = number;
                segment.in_memory = Some(!number);
            },
        ];
        for change in changes {
            let mut elf = good();
            change(&mut elf.segments[0], number);
            files.push(elf);
        }
        // A note that says how long its name, its content are, and where it ends.
        for field in 0..3 {
            let mut note = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), KERNEL as u32];
            note[field] = number as u32;
            let bytes = note.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut elf = good();
            elf.segments.push(Segment::new(NOTE, 0, bytes));
            files.push(elf.clone());
            elf.segments[1].in_file = Some(number);
            files.push(elf);
        }
        let mut elf = good();
        elf.segments.push(Segment::new(
            LOAD,
            KERNEL.wrapping_add(number),
            vec![0xf4; 64],
        ));
        files.push(elf);
    }
    for elf in files {
        refused_or_run(&boot(folder.path(), &elf.file()));
    }
}

#[test]
fn an_elf_file_with_bytes_changed_at_random() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new();
    for _ in 0..40 {
        let mut file = good().file();
        for _ in 0..=random.below(4) {
            // In its headers, where it has any.
            let place = random.below(120) as usize;
            file[place] = random.next() as u8;
        }
        refused_or_run(&boot(folder.path(), &file));
    }
}

/// A bzImage with this payload, and the length that it says it has.
fn bzimage(payload: &[u8], length: u32, offset: u32) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x236, &[1]);
    put(0x248, &offset.to_le_bytes());
    put(0x24c, &length.to_le_bytes());
    image.extend(payload);
    image
}

#[test]
fn a_bzimage_that_lies_about_what_is_in_it() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let payload = gzip([*b"\x7fELF"].iter().map(|word| {
        let mut part = [0; 4096];
        part[..4].copy_from_slice(word);
        part
    }));
    let length = payload.len() as u32;
    for (length, offset) in [
        (0, 0),
        (1, 0),
        (length - 1, 0),
        (length + 1, 0),
        (!0, 0),
        (length, 1),
        (length, 1 << 31),
        (!0, !0),
        (1 << 30, 0),
    ] {
        let image = bzimage(&payload, length, offset);
        start(folder.path(), &image).end().refused(&["kernel"]);
        // No end at all, or in the middle of the header.
        start(folder.path(), &image[..0x240])
            .end()
            .refused(&["kernel"]);
    }
    for magic in [
        &[0x1f, 0x8b, 8, 0xff, 0, 0, 0, 0][..],
        b"BZh91AY&SY",
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x5d, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x02, 0x21, 0x4c, 0x18, 0xff, 0xff, 0xff, 0x7f],
        &[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff],
    ] {
        for fill in [0, 0x55, 0xff] {
            let mut payload = magic.to_vec();
            payload.resize(5000, fill);
            let image = bzimage(&payload, 5000, 0);
            start(folder.path(), &image).end().refused(&["kernel"]);
        }
    }
}

#[test]
fn a_bzimage_that_unpacks_to_far_more_than_memory() {
    if !kvm() {
        return;
    }
    const PARTS: u32 = 1 << 14;
    let folder = tempfile::tempdir().unwrap();
    // 64 MiB of zeros behind an ELF header, which says that they are 3 GiB.
    let mut elf = good();
    elf.segments[0].in_file = Some(3 << 30);
    let mut head = [0; 4096];
    head.copy_from_slice(&elf.file()[..4096]);
    let honest = gzip((0..PARTS).map(|n| if n == 0 { head } else { [0; 4096] }));
    // The payload's last bytes say how much it is, and so what it is given.
    let size_at = honest.len() - 4;
    let saying = |size: u32| [&honest[..size_at], &size.to_le_bytes()].concat();
    let whole = PARTS << 12;
    for (payload, memory) in [
        (saying(1 << 20), 0),
        (saying(!0), 0),
        (saying((1 << 30) + 1), 0),
        (saying(whole), whole >> 10),
    ] {
        let path = folder.path().join("kernel");
        std::fs::write(&path, bzimage(&payload, payload.len() as u32, 0)).unwrap();
        let words = ["run", "--memory", "32M", "--kernel", path.to_str().unwrap()];
        let monitor = Monitor::new(&words);
        let monitor = monitor.memory_kib((32 << 10) + u64::from(memory));
        let ended = monitor.run();
        ended.refused(&["kernel"]);
        assert!(ended.took < Duration::from_secs(60), "{:?}", ended.took);
    }
}
