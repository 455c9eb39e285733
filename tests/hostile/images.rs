//! arm64 Images that lie about themselves, as they are, in gzip, and in EFI zboot files. Where they can't be run they
//! are refused, whatever is in them.

use std::path::Path;

use crate::kernels::{boot, gzip, refused_or_run, start};
use crate::kvm;
use crate::monitor::{Ended, Monitor};
use crate::native;
use crate::random::Random;
use crate::script::Script;

// Offsets of the header's fields (Linux Documentation/arch/arm64/booting.rst).
const CODE: usize = 0;
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const RESERVED: usize = 32;
const MAGIC: usize = 56;
const HEADER: usize = 64;

/// An Image that says that it lives.
fn good() -> Vec<u8> {
    native::image(Script::new().end())
}

/// The same with another number in a field.
fn with(fields: &[(usize, u64)]) -> Vec<u8> {
    let mut image = good();
    for (field, number) in fields {
        image[*field..field + 8].copy_from_slice(&number.to_le_bytes());
    }
    image
}

/// It is run where it can be.
fn runs(ended: &Ended) {
    if native::RUNS_IMAGES {
        ended.survived();
    } else {
        ended.refused(&["kernel"]);
    }
}

const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    4,
    0xfff,
    0x8_0000,
    2 << 20,
    31 << 20,
    32 << 20,
    1 << 30,
    (1 << 30) + 1,
    1 << 31,
    1 << 40,
    1 << 52,
    1 << 63,
    !0 - 0xfff,
    !0 - 3,
    !0,
];

#[test]
fn an_image_cut_short() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = good();
    runs(&start(folder.path(), &image).end());
    for length in [0, 1, 4, 8, 16, 24, 32, 56, 59, 60, 63] {
        start(folder.path(), &image[..length])
            .end()
            .refused(&["kernel"]);
    }
    // What is behind its end may be missing, or its last instructions.
    for length in [HEADER, HEADER + 1, 4096, image.len() - 1] {
        let ended = boot(folder.path(), &image[..length.min(image.len())]);
        refused_or_run(&ended);
    }
}

#[test]
fn an_image_with_numbers_that_lie() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for number in NUMBERS {
        for field in [
            CODE,
            TEXT_OFFSET,
            IMAGE_SIZE,
            FLAGS,
            RESERVED,
            RESERVED + 8,
            MAGIC,
        ] {
            files.push(with(&[(field, number)]));
        }
        // Their sum is a small one, or none at all.
        files.push(with(&[
            (TEXT_OFFSET, number),
            (IMAGE_SIZE, number.wrapping_neg()),
        ]));
        files.push(with(&[(TEXT_OFFSET, number), (IMAGE_SIZE, 0)]));
        // Anywhere, and big-endian.
        files.push(with(&[(TEXT_OFFSET, number), (FLAGS, 0xa)]));
        files.push(with(&[(IMAGE_SIZE, number), (FLAGS, 0xb)]));
    }
    for file in Random::new().some(files) {
        refused_or_run(&boot(folder.path(), &file));
    }
    // More than there is of memory.
    for size in [32 << 20, 1 << 30, (1 << 30) + 1, 1 << 40, !0] {
        let file = with(&[(IMAGE_SIZE, size)]);
        start(folder.path(), &file).end().refused(&["kernel"]);
    }
}

#[test]
fn an_image_with_bytes_changed_at_random() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new();
    for _ in 0..48 / native::ONE_OF {
        let mut file = good();
        for _ in 0..=random.below(4) {
            file[random.below(HEADER as u64) as usize] = random.next() as u8;
        }
        refused_or_run(&boot(folder.path(), &file));
    }
}

/// In pages, as [`gzip`] takes it.
fn pages(image: &[u8]) -> Vec<[u8; 4096]> {
    let page = |chunk: &[u8]| {
        let mut page = [0; 4096];
        page[..chunk.len()].copy_from_slice(chunk);
        page
    };
    image.chunks(4096).map(page).collect()
}

/// An EFI zboot file of this payload, and where it says that is (drivers/firmware/efi/libstub/zboot-header.S).
fn zboot(payload: &[u8], offset: u32, length: u32, compression: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(4, b"zimg");
    put(8, &offset.to_le_bytes());
    put(12, &length.to_le_bytes());
    put(24, compression);
    file.extend(payload);
    file
}

#[test]
fn packed_images_that_lie_about_what_is_in_them() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let packed = gzip(pages(&good()).into_iter());
    runs(&start(folder.path(), &packed).end());
    let length = packed.len() as u32;
    runs(&start(folder.path(), &zboot(&packed, 4096, length, b"gzip")).end());
    let mut files = Vec::new();
    for cut in [
        2,
        3,
        10,
        11,
        packed.len() / 2,
        packed.len() - 8,
        packed.len() - 1,
    ] {
        files.push(packed[..cut].to_vec());
    }
    // Flags of gzip's own header, and nothing in it that is an Image.
    files.extend([0x02, 0x04, 0x08, 0x10, 0xe0, 0xff].map(|flags| {
        let mut file = packed.clone();
        file[3] = flags;
        file.resize(5000, 0xff);
        file
    }));
    files.push(gzip([[0; 4096], [0xff; 4096]].into_iter()));
    files.push(gzip(pages(&packed).into_iter()));
    for (offset, length) in [
        (0, 0),
        (0, length),
        (4096, 0),
        (4096, 1),
        (4096, length - 1),
        (4096, length + 1),
        (4097, length - 1),
        (4096, !0),
        (!0, 1),
        (!0, !0),
        (1 << 31, 1 << 31),
        (4096, (1 << 30) + 1),
    ] {
        files.push(zboot(&packed, offset, length, b"gzip"));
    }
    // Another compression than it says, one that there isn't, and a name without an end.
    for compression in [
        &b"zstd"[..],
        b"lz4",
        b"lzma",
        b"xz",
        b"",
        b"none",
        &[b'x'; 100],
    ] {
        files.push(zboot(&packed, 4096, length - 4, compression));
    }
    files.push(zboot(&packed, 4096, length, b"gzip")[..0x37].to_vec());
    // Some have a byte too many, or say of what isn't needed that it is there: those may run.
    for file in Random::new().some(files) {
        let ended = start(folder.path(), &file).end();
        match native::RUNS_IMAGES {
            true => refused_or_run(&ended),
            false => drop(ended.refused(&["kernel"])),
        }
    }
}

/// Runs it; the monitor may take so much memory in KiB.
fn bomb(folder: &Path, file: &[u8], kib: u64) -> Ended {
    let path = folder.join("kernel");
    std::fs::write(&path, file).unwrap();
    let words = ["run", "--memory", "32M", "--kernel", path.to_str().unwrap()];
    let monitor = Monitor::new(&words).memory_kib(kib);
    monitor
        .change(|command| {
            command
                .env("XDG_CACHE_HOME", folder)
                .env_remove("MOTE_CACHE");
        })
        .run()
}

#[test]
fn packed_images_that_unpack_to_far_more_than_memory() {
    if !kvm() {
        return;
    }
    const PARTS: usize = 1 << 14;
    let folder = tempfile::tempdir().unwrap();
    let mut bombs = Vec::new();
    // 64 MiB of zeros behind a header which says that they are all of it; or that they are no part of the Image, which
    // may then be run without them.
    let alone = good().len() as u64;
    for size in [(PARTS as u64) << 12, alone] {
        let head = pages(&with(&[(IMAGE_SIZE, size)]));
        let zeros = std::iter::repeat_n([0; 4096], PARTS);
        let honest = gzip(head.into_iter().chain(zeros));
        // Its last bytes say how much it is, and so what it is given.
        let place = honest.len() - 4;
        let saying = |size: u32| [&honest[..place], &size.to_le_bytes()].concat();
        let whole = (PARTS as u32 + 1) << 12;
        for (packed, extra) in [
            (saying(whole), whole >> 10),
            (saying(1 << 20), 0),
            (saying(!0), 0),
            (saying((1 << 30) + 1), 0),
        ] {
            let boxed = zboot(&packed, 4096, packed.len() as u32, b"gzip");
            bombs.extend([packed, boxed].map(|file| (file, extra, size == alone)));
        }
    }
    for (file, extra, may_run) in Random::new().some(bombs) {
        let ended = bomb(folder.path(), &file, (80 << 10) + u64::from(extra));
        match may_run {
            true => refused_or_run(&ended),
            false => drop(ended.refused(&["kernel"])),
        }
    }
}
