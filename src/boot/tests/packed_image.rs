//! Compressed arm64 Images: gzip'd files and EFI zboot files, hostile ones, and the cache.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use vm_memory::GuestAddress;

use super::super::{
    Architecture, Compression, FileFormat, KernelFile, KernelFormat, KernelOptions,
};
use super::image::{BASE, image, load_at, memory, options, refusal};
use super::{COMPRESSED, Fixture, VMLINUX, guest_bytes};

/// The Image that these tests compress: a part of a last page, and BSS behind it.
fn plain() -> Vec<u8> {
    image(0x8_0000, 0x2_0000, 0x6123)
}

/// Where it goes, its length in the file and in memory.
const START: u64 = BASE + 0x8_0000;
const LENGTH: u64 = 0x6123;
const SIZE: u64 = 0x2_0000;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// As the kernel's build does it, with the size behind it.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut zstd =
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    zstd.extend((bytes.len() as u32).to_le_bytes());
    zstd
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(bytes);
    let mut lz4 = 0x184C_2102u32.to_le_bytes().to_vec();
    lz4.extend((block.len() as u32).to_le_bytes());
    lz4.extend(block);
    lz4.extend((bytes.len() as u32).to_le_bytes());
    lz4
}

/// An EFI zboot file with this payload, whose last `behind` bytes it doesn't count.
pub(super) fn zboot(kind: &[u8], payload: &[u8], behind: usize) -> Vec<u8> {
    let mut file = vec![0; 0x1200];
    file[..8].copy_from_slice(b"MZ\0\0zimg");
    file[8..12].copy_from_slice(&0x1200u32.to_le_bytes());
    file[12..16].copy_from_slice(&((payload.len() - behind) as u32).to_le_bytes());
    file[24..24 + kind.len()].copy_from_slice(kind);
    file[0x38..0x3C].copy_from_slice(&0x8182_23CDu32.to_le_bytes());
    file.extend(payload);
    // The decompressor.
    file.extend([0xCC; 700]);
    file
}

#[test]
fn every_form_loads_the_same_image() {
    // A zboot file's Image is padded to its size in memory.
    let mut padded = plain();
    padded.resize(SIZE as usize, 0);
    for (name, contents, compression) in [
        ("gzip", gzip(&plain()), Compression::Gzip),
        (
            "zboot gzip",
            zboot(b"gzip\0", &gzip(&padded), 0),
            Compression::Gzip,
        ),
        (
            "zboot zstd",
            zboot(b"zstd22\0", &zstd(&padded), 4),
            Compression::Zstd,
        ),
        (
            "zboot lz4",
            zboot(b"lz4\0", &lz4(&padded), 4),
            Compression::Lz4,
        ),
    ] {
        let fixture = Fixture::new(&contents);
        let memory = memory(16);
        let file = KernelFile::open(&fixture.path, Architecture::Aarch64).unwrap();
        assert_eq!(file.format(), FileFormat::PackedImage, "{name}");
        let kernel = file.load(&memory, &options()).unwrap();
        assert_eq!(
            (kernel.start, kernel.end),
            (GuestAddress(START), GuestAddress(START + SIZE)),
            "{name}"
        );
        // Trailing zeroes are not copied, in whole pages.
        assert!(kernel.bytes_loaded < LENGTH + 4096, "{name}: {kernel:?}");
        let format = KernelFormat::PackedImage {
            compression,
            cached: false,
        };
        assert_eq!(kernel.format, format);
        assert!(
            guest_bytes(&memory, START, SIZE as usize) == padded,
            "{name}"
        );
    }
}

#[test]
fn every_compression_of_the_kernel_build_is_unpacked_from_a_zboot_file() {
    // What comes out is a vmlinux: it is seen to be none that this processor boots.
    for (name, payload) in COMPRESSED {
        let (kind, behind) = match name {
            "gzip" => (&b"gzip\0"[..], 0),
            "zstd" => (&b"zstd\0"[..], 4),
            "lz4" => (&b"lz4\0"[..], 4),
            "xz" => (&b"xzkern\0"[..], 4),
            "lzma" => (&b"lzma\0"[..], 4),
            _ => continue,
        };
        let message = refusal(&zboot(kind, payload, behind));
        assert!(
            message.contains("something else than an arm64 Image"),
            "{name}: {message}"
        );
    }
    assert!(refusal(&gzip(VMLINUX)).contains("something else"));
    assert!(refusal(&gzip(b"short")).contains("truncated"));
    // Nobody packs twice.
    assert!(refusal(&gzip(&gzip(&plain()))).contains("something else"));
}

#[test]
fn hostile_zboot_headers_are_refused() {
    let good = zboot(b"gzip\0", &gzip(&plain()), 0);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&file)
    };
    assert!(with(8, &[0xFF; 4]).contains("compressed kernel ends at byte"));
    assert!(with(12, &[0, 0, 0, 1]).contains("truncated"));
    assert!(with(12, &[0xFF; 4]).contains("at most 1 GiB"));
    assert!(with(12, &[0; 4]).contains("no compressed kernel"));
    // The payload is the header itself, or begins in the middle of itself.
    assert!(with(8, &[0; 4]).contains("compressed in a way"));
    assert!(with(8, &0x1201u32.to_le_bytes()).contains("compressed in a way"));
    for (kind, named) in [
        (&b"lzo\0"[..], "by \"lzo\""),
        (b"bzip2\0", "by \"bzip2\""),
        (b"\0", "by \"\""),
        (b"gzip2\0", "by \"gzip2\""),
        (b"\xff\n\x1b[2J\0", "by \"\\xff\\n\\x1b[2J\""),
        // Without an end: up to the next field, and no further.
        (&[b'A'; 32], &"A".repeat(32)),
    ] {
        let message = with(24, kind);
        assert!(message.contains(named), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    // One name with the bytes of another: the size is looked for in the wrong place.
    let message = with(24, b"zstd\0");
    assert!(message.contains("unpack"), "{message}");
    for length in 0..0x38 {
        let message = refusal(&good[..length]);
        let expected = match length {
            0 => "is empty",
            1 => "no arm64 Image",
            2..8 => "EFI program",
            _ => "truncated",
        };
        assert!(message.contains(expected), "{length}: {message}");
    }
    assert!(refusal(&good[..0x1300]).contains("truncated"));
}

#[test]
fn gzip_bombs_and_damage_are_refused() {
    let good = gzip(&plain());
    let with_size = |size: u32| {
        let mut file = good.clone();
        let at = file.len() - 4;
        file[at..].copy_from_slice(&size.to_le_bytes());
        refusal(&file)
    };
    // It says so.
    let message = with_size((1 << 30) + 1);
    assert!(message.contains("accepts at most 1073741824"), "{message}");
    // It doesn't say so: 16 MiB out of 16 KiB.
    let mut bomb = gzip(&vec![0; 16 << 20]);
    let at = bomb.len() - 4;
    bomb[at..].copy_from_slice(&100u32.to_le_bytes());
    assert!(refusal(&bomb).contains("101 bytes or more"));
    assert!(with_size(LENGTH as u32 - 1).contains("damaged"));
    assert!(with_size(LENGTH as u32 + 1).contains("damaged"));
    for length in (2..good.len()).step_by(7) {
        let message = refusal(&good[..length]);
        let expected = ["damaged", "accepts at most", "host doesn't have"];
        assert!(
            expected.iter().any(|text| message.contains(text)),
            "{length}: {message}"
        );
    }
    // A file of holes.
    let fixture = Fixture::new(&good);
    let file = fs::OpenOptions::new().write(true).open(&fixture.path);
    file.unwrap().set_len((1 << 30) + 1).unwrap();
    let error = load_at(&fixture.path, &memory(16), &options()).unwrap_err();
    assert!(error.to_string().contains("at most 1 GiB"), "{error}");
}

/// A compressed Image and a folder for the cache.
struct Setup {
    kernel: Fixture,
    options: KernelOptions,
    plain: Vec<u8>,
}

impl Setup {
    fn new(plain: Vec<u8>) -> Self {
        let kernel = Fixture::new(&gzip(&plain));
        let options = KernelOptions {
            cache: Some(kernel.folder.path().join("kernels")),
            ..options()
        };
        Setup {
            kernel,
            options,
            plain,
        }
    }

    /// Loads, checks what is in guest memory, and tells whether it came from the cache, how much
    /// of it is mapped, and where it ends.
    fn load(&self) -> (bool, u64, u64) {
        let memory = memory(16);
        let kernel = load_at(&self.kernel.path, &memory, &self.options).unwrap();
        let KernelFormat::PackedImage { cached, .. } = kernel.format else {
            panic!("{kernel:?}");
        };
        let mut expected = self.plain.clone();
        expected.resize(0x3_0000, 0);
        assert!(guest_bytes(&memory, kernel.start.0, 0x3_0000) == expected);
        (cached, kernel.bytes_mapped, kernel.end.0)
    }

    /// The one entry.
    fn entry(&self) -> PathBuf {
        let folder = fs::read_dir(self.options.cache.as_ref().unwrap());
        let mut files = folder.unwrap().map(|entry| entry.unwrap().path());
        let entry = files.next().unwrap();
        assert_eq!(files.next(), None);
        entry
    }
}

#[test]
fn the_second_start_is_from_the_cache_and_goes_where_it_is_told() {
    let mut setup = Setup::new(plain());
    assert_eq!(setup.load(), (false, 0, START + SIZE));
    assert_eq!(setup.load(), (true, 0, START + SIZE));
    // The entry is of no address.
    setup.options.base = GuestAddress(BASE + (4 << 20));
    assert_eq!(setup.load(), (true, 0, START + (4 << 20) + SIZE));
    setup.options.map = true;
    assert_eq!(setup.load(), (true, 0x6000, START + (4 << 20) + SIZE));
}

#[test]
fn zeroes_at_the_end_are_not_kept() {
    let mut padded = plain();
    padded.resize(SIZE as usize, 0);
    let mut setup = Setup::new(padded);
    assert_eq!(setup.load(), (false, 0, START + SIZE));
    let length = fs::metadata(setup.entry()).unwrap().len();
    assert!(length < 4096 + LENGTH + 4096, "{length:#x}");
    assert_eq!(setup.load(), (true, 0, START + SIZE));
    setup.options.map = true;
    let (cached, mapped, end) = setup.load();
    assert!(cached && mapped >= 0x6000 && end == START + SIZE);
    // Before Linux 3.17 nothing else tells the size: they are.
    let mut old = image(0, 0, 0x3000);
    old.resize(0x2_0000, 0);
    let setup = Setup::new(old);
    assert_eq!(setup.load(), (false, 0, START + 0x2_0000));
    assert_eq!(setup.load(), (true, 0, START + 0x2_0000));
}

#[test]
fn any_damage_of_an_entry_is_found_and_mended() {
    for map in [false, true] {
        let mut setup = Setup::new(plain());
        setup.load();
        setup.options.map = map;
        let entry = setup.entry();
        let good = fs::read(&entry).unwrap();
        assert_eq!(good.len() as u64, 4096 + LENGTH);
        // The first page, its stamp, the Image's header (text_offset, size, magic), its end.
        for at in [
            0, 64, 4032, 4040, 4048, 4080, 4092, 4096, 4104, 4112, 4118, 4152, 0x3000, 0x7122,
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&entry, bad).unwrap();
            assert!(!setup.load().0, "a wrong byte at {at:#x} was not found");
            assert!(setup.load().0, "not mended after {at:#x}");
        }
        for length in [0, 1, 4095, 4096, 4100, 4160, good.len() - 1] {
            fs::write(&entry, &good[..length]).unwrap();
            assert!(!setup.load().0, "cut to {length} bytes");
            assert!(setup.load().0);
        }
        fs::write(&entry, [&good[..], b"x"].concat()).unwrap();
        assert!(!setup.load().0);
        assert_eq!(fs::read(setup.entry()).unwrap(), good);
    }
}

#[test]
fn too_little_memory_is_told_from_the_cache_too_and_the_entry_stays() {
    let setup = Setup::new(image(0, 20 << 20, 0x6000));
    for _ in 0..2 {
        let error = load_at(&setup.kernel.path, &memory(16), &setup.options).unwrap_err();
        assert!(error.to_string().contains("--memory 22M"), "{error}");
        load_at(&setup.kernel.path, &memory(22), &setup.options).unwrap();
        assert!(setup.entry().exists());
    }
}
