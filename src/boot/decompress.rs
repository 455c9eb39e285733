//! Unpacks what a bzImage or a packed arm64 Image carries, with a bound on the size of the result.
//!
//! The kernel's build appends the unpacked size (4 bytes, little-endian) to every payload; in
//! gzip's own format it is there anyway (Linux scripts/Makefile.lib, `size_append`). It is the
//! bound for the decoder and is checked at the end; decoders stop at the end of their own
//! stream and so never see those bytes.

use std::fmt;
use std::io::{self, Read};

use thiserror::Error;

/// The largest history window, in bytes, that a payload may ask for: 128 MiB is what
/// `zstd --ultra -22` uses, and the kernel's `xz_wrap.sh`.
const MAX_WINDOW: u64 = 128 << 20;
/// The most memory in KiB for an xz or lzma decoder: its window and its tables.
const LZMA_MEMORY_KIB: u32 = 160 << 10;
/// The magic number at the start of an lz4 legacy frame, which `lz4 -l` writes.
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4C, 0x18];
/// The unpacked size of every block but the last in an lz4 legacy frame.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// How a kernel is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Compression {
    None,
    Gzip,
    Zstd,
    Lz4,
    Xz,
    Lzma,
    Bzip2,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Xz => "xz",
            Compression::Lzma => "lzma",
            Compression::Bzip2 => "bzip2",
        })
    }
}

/// Why a payload could not be unpacked. The messages continue "the kernel PATH ".
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum DecompressError {
    #[error(
        "is compressed in a way mote doesn't know (it begins with {0:02x?}): build it with \
         gzip, zstd, lz4, xz, lzma or bzip2, or give it uncompressed"
    )]
    UnknownFormat(Vec<u8>),
    #[error("is compressed with lzo, which mote doesn't unpack: give it uncompressed")]
    Lzo,
    #[error("is too short to hold a compressed kernel: it is damaged")]
    TooShort,
    #[error("says that it unpacks to {size} bytes: mote accepts at most {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("does not unpack ({compression}: {source}): it is damaged")]
    Damaged {
        compression: Compression,
        source: io::Error,
    },
    #[error("unpacks to {actual} bytes or more where it says {expected}: it is damaged")]
    WrongSize { actual: u64, expected: u64 },
    #[error("needs {0} bytes to be unpacked, which this host doesn't have")]
    OutOfMemory(u64),
}

impl Compression {
    /// Recognises a payload by its first bytes.
    pub(super) fn detect(payload: &[u8]) -> Result<Self, DecompressError> {
        Ok(match payload {
            [0x1F, 0x8B, ..] => Compression::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Compression::Zstd,
            [0x02, 0x21, 0x4C, 0x18, ..] => Compression::Lz4,
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            // Not a magic number: the default properties (lc=3, lp=0, pb=2) and the low bytes
            // of a dictionary size that is a multiple of 64 KiB.
            [0x5D, 0, 0, ..] => Compression::Lzma,
            [0x7F, b'E', b'L', b'F', ..] => Compression::None,
            [0x89, b'L', b'Z', b'O', ..] => return Err(DecompressError::Lzo),
            _ => {
                return Err(DecompressError::UnknownFormat(
                    payload.iter().take(6).copied().collect(),
                ));
            }
        })
    }
}

/// Unpacks `payload`; the result has the size that the payload ends with, at most `limit`.
pub(super) fn unpack(payload: Vec<u8>, limit: u64) -> Result<Vec<u8>, DecompressError> {
    let compression = Compression::detect(&payload)?;
    if compression == Compression::None {
        return Ok(payload);
    }
    let Some((stream, size)) = payload.split_last_chunk::<4>() else {
        return Err(DecompressError::TooShort);
    };
    let expected = u64::from(u32::from_le_bytes(*size));
    if expected > limit {
        return Err(DecompressError::TooLarge {
            size: expected,
            limit,
        });
    }
    let damaged = |source| DecompressError::Damaged {
        compression,
        source,
    };

    // One byte more than expected, so that the decoder is asked for its end, which is where
    // it verifies its checksum, and is found out when it has too much.
    let mut unpacked = Vec::new();
    unpacked
        .try_reserve_exact(expected as usize + 1)
        .map_err(|_| DecompressError::OutOfMemory(expected))?;
    let wanted = expected + 1;
    match compression {
        Compression::Gzip => flate2::bufread::GzDecoder::new(payload.as_slice())
            .take(wanted)
            .read_to_end(&mut unpacked),
        Compression::Zstd => zstd(stream, wanted, &mut unpacked),
        Compression::Lz4 => lz4_legacy(stream, expected as usize, &mut unpacked),
        Compression::Xz => lzma_rust2::XzReader::new_mem_limit(stream, false, LZMA_MEMORY_KIB)
            .take(wanted)
            .read_to_end(&mut unpacked),
        Compression::Lzma => lzma_rust2::LzmaReader::new_mem_limit(stream, LZMA_MEMORY_KIB, None)
            .and_then(|decoder| decoder.take(wanted).read_to_end(&mut unpacked)),
        Compression::Bzip2 => bzip2::bufread::BzDecoder::new(stream)
            .take(wanted)
            .read_to_end(&mut unpacked),
        Compression::None => Ok(0),
    }
    .map_err(damaged)?;

    let actual = unpacked.len() as u64;
    if actual != expected {
        return Err(DecompressError::WrongSize { actual, expected });
    }
    Ok(unpacked)
}

/// One zstd frame. The crate leaves it to its user to compare the checksum.
fn zstd(stream: &[u8], wanted: u64, unpacked: &mut Vec<u8>) -> io::Result<usize> {
    let mut decoder =
        ruzstd::decoding::StreamingDecoder::new_with_max_window_size(stream, MAX_WINDOW)
            .map_err(io::Error::other)?;
    let count = (&mut decoder).take(wanted).read_to_end(unpacked)?;
    let frame = decoder.into_frame_decoder();
    match (
        frame.get_checksum_from_data(),
        frame.get_calculated_checksum(),
    ) {
        (Some(stored), Some(computed)) if frame.is_finished() && stored != computed => {
            Err(io::Error::other("the checksum is wrong"))
        }
        _ => Ok(count),
    }
}

/// An lz4 legacy frame (lz4_Frame_format.md, "Legacy frame"): the magic number, then blocks
/// of a 4-byte compressed size and that many bytes.
fn lz4_legacy(mut stream: &[u8], expected: usize, unpacked: &mut Vec<u8>) -> io::Result<usize> {
    let truncated = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while unpacked.len() < expected {
        // A frame may be followed by another, which has its own magic number.
        if let Some(rest) = stream.strip_prefix(&LZ4_LEGACY_MAGIC) {
            stream = rest;
        }
        let (size, rest) = stream.split_first_chunk::<4>().ok_or_else(truncated)?;
        let (block, rest) = rest
            .split_at_checked(u32::from_le_bytes(*size) as usize)
            .ok_or_else(truncated)?;
        let start = unpacked.len();
        let block_size = LZ4_LEGACY_BLOCK.min(expected - start);
        unpacked.resize(start + block_size, 0);
        let count = lz4_flex::block::decompress_into(block, &mut unpacked[start..])
            .map_err(io::Error::other)?;
        // This also bounds the work: a hostile file can't have millions of tiny blocks.
        if count != block_size {
            return Err(io::Error::other("a block is too short"));
        }
        stream = rest;
    }
    Ok(unpacked.len())
}
