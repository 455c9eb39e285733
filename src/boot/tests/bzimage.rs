//! bzImages with every compression, and hostile ones.

use vm_memory::GuestAddress;

use super::super::decompress::unpack;
use super::super::{
    Architecture, Compression, DecompressError, Entry, FileFormat, KernelFile, KernelFormat,
    KernelOptions,
};
use super::{COMPRESSED, Fixture, VMLINUX, bzimage, guest_bytes, load, memory, refusal};

const LIMIT: u64 = 1 << 20;

#[test]
fn every_compression_loads_the_same_kernel() {
    for (name, payload) in COMPRESSED.into_iter().chain([("none", VMLINUX)]) {
        let memory = memory(64);
        let fixture = Fixture::new(&bzimage(payload));
        let file = KernelFile::open(&fixture.path, Architecture::X86_64).unwrap();
        assert_eq!(file.format(), FileFormat::BzImage);
        let kernel = file.load(&memory, &KernelOptions::default()).unwrap();
        assert_eq!(kernel.entry, Entry::Pvh(GuestAddress(0x100_0040)));
        assert_eq!(kernel.end, GuestAddress(0x120_8400));
        // The data's trailing zeroes, 3 pages, are not copied.
        assert_eq!(kernel.bytes_loaded, 0x2000 + 0x400, "{name}");
        let KernelFormat::BzImage {
            compression,
            cached,
        } = kernel.format
        else {
            panic!("{:?}", kernel.format);
        };
        assert_eq!((compression.to_string().as_str(), cached), (name, false));
        assert_eq!(
            guest_bytes(&memory, 0x100_0000, 0x2000),
            VMLINUX[0x1000..0x3000]
        );
        let mut data = VMLINUX[0x3000..].to_vec();
        data.resize(0x8400, 0);
        assert_eq!(guest_bytes(&memory, 0x120_0000, 0x8400), data);
    }
}

#[test]
fn the_fixtures_ask_for_what_the_kernel_build_asks_for() {
    // zstd: a window of 128 MiB (RFC 8878 §3.1.1.1.2: exponent 17 in the upper five bits).
    let zstd = COMPRESSED[1].1;
    assert_eq!((zstd[4], zstd[5] >> 3), (0x04, 17));
    // xz: the x86 filter (xz file format §5.3.2: id 4) before LZMA2.
    let xz = COMPRESSED[3].1;
    assert_eq!((xz[13], xz[14]), (0x01, 0x04));
}

#[test]
fn lz4_frames_of_many_blocks_unpack() {
    let contents: Vec<u8> = (0..(20u32 << 20) / 4)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    let mut payload = 0x184C_2102u32.to_le_bytes().to_vec();
    for block in contents.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        payload.extend((block.len() as u32).to_le_bytes());
        payload.extend(block);
    }
    payload.extend((contents.len() as u32).to_le_bytes());
    assert!(unpack(payload, 1 << 30).unwrap() == contents);
}

#[test]
fn many_tiny_lz4_blocks_end_at_once() {
    let mut payload = 0x184C_2102u32.to_le_bytes().to_vec();
    for _ in 0..100_000 {
        payload.extend(2u32.to_le_bytes());
        payload.extend([0x10, 0]); // one literal byte
    }
    payload.extend((512u32 << 20).to_le_bytes());
    let error = unpack(payload, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("too short"), "{error}");
}

/// Replaces the size at the end of a payload.
fn with_size(payload: &[u8], size: u32) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let at = payload.len() - 4;
    payload[at..].copy_from_slice(&size.to_le_bytes());
    payload
}

#[test]
fn the_size_is_a_bound_and_a_check() {
    let size = VMLINUX.len() as u32;
    for (name, payload) in COMPRESSED {
        let smaller = unpack(with_size(payload, size - 1), LIMIT).unwrap_err();
        match (name, smaller) {
            // gzip's own check of the size, lz4's of its block.
            ("gzip" | "lz4", DecompressError::Damaged { .. }) => {}
            (_, DecompressError::WrongSize { actual, expected }) => {
                assert!(actual > expected, "{name}");
            }
            (_, error) => panic!("{name}: {error}"),
        }
        assert!(
            unpack(with_size(payload, size + 1), LIMIT).is_err(),
            "{name}"
        );
        let bomb = unpack(with_size(payload, LIMIT as u32 + 1), LIMIT).unwrap_err();
        assert!(matches!(bomb, DecompressError::TooLarge { .. }), "{name}");
        // A size that the limit allows is no reason to write that much.
        assert!(
            unpack(with_size(payload, 1 << 30), 1 << 30).is_err(),
            "{name}"
        );
    }
}

#[test]
fn damaged_payloads_are_errors() {
    for (name, payload) in COMPRESSED {
        for length in 0..payload.len() {
            let mut cut = payload[..length].to_vec();
            cut.extend((VMLINUX.len() as u32).to_le_bytes());
            // Without its last bytes a stream may still hold all the kernel, and only its
            // own end mark is missing: what comes out is then the kernel or an error.
            if let Ok(unpacked) = unpack(cut, LIMIT) {
                assert!(unpacked == VMLINUX, "{name} cut at {length}");
            }
        }
        let mut flipped = payload.to_vec();
        flipped[payload.len() / 2] ^= 0x10;
        match unpack(flipped, LIMIT) {
            // lz4's legacy frame and lzma have no checksum.
            Ok(_) => assert!(matches!(name, "lz4" | "lzma"), "{name}"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("damaged"), "{message}");
            }
        }
    }
}

#[test]
fn unknown_compressions_are_named() {
    let message = refusal(&bzimage(b"\x89LZO\0\r\n\x1a\n"));
    assert!(message.contains("lzo"), "{message}");
    let message = refusal(&bzimage(b"abcdefgh"));
    assert!(message.contains("[61, 62, 63, 64, 65, 66]"), "{message}");
    assert!(matches!(
        Compression::detect(&[]),
        Err(DecompressError::UnknownFormat(_))
    ));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"not a kernel").unwrap();
    let message = refusal(&bzimage(&gzip.finish().unwrap()));
    assert!(
        message.contains("something else than a vmlinux"),
        "{message}"
    );
}

#[test]
fn no_setup_sectors_means_four() {
    let mut image = bzimage(COMPRESSED[0].1);
    image[0x1F1] = 0;
    image.splice(1024..1024, [0; 3 * 512]);
    assert!(load(&image).is_ok());
}

#[test]
fn hostile_headers_are_refused() {
    let with = |at: usize, bytes: &[u8]| {
        let mut image = bzimage(COMPRESSED[0].1);
        image[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&image)
    };
    assert!(with(0x206, &[7, 2]).contains("boot protocol 2.07"));
    assert!(with(0x211, &[0]).contains("zImage"));
    assert!(with(0x236, &[0, 0]).contains("32-bit"));
    assert!(with(0x24C, &[0; 4]).contains("no compressed kernel"));
    assert!(with(0x24C, &[0xFF; 4]).contains("at most 1 GiB"));
    assert!(with(0x24C, &[0, 0, 0, 1]).contains("truncated"));
    assert!(with(0x248, &[0xFF; 4]).contains("truncated"));
    assert!(with(0x1F1, &[0xFF]).contains("truncated"));
    let image = bzimage(COMPRESSED[0].1);
    for length in 0..1536 + COMPRESSED[0].1.len() {
        let message = refusal(&image[..length]);
        let expected = match length {
            0 => "empty",
            1..0x206 => "neither",
            _ => "truncated",
        };
        assert!(message.contains(expected), "{length}: {message}");
    }
}
