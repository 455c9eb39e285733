//! Compressed arm64 Images, as far as finding the compressed bytes needs it: a file that is one
//! gzip stream, and the EFI zboot file (Linux drivers/firmware/efi/libstub/zboot-header.S).

use thiserror::Error;

use super::MAX_UNPACKED_SIZE;
use super::unpacked::Payload;

/// The end of the compression type, which is the last field that is read here.
const HEADER_END: usize = 0x38;
/// Where the compression type is: a string that ends with a zero.
const TYPE: usize = 24;
/// The size of the unpacked Image, which the build appends to what is not gzip and doesn't count
/// as payload (Makefile.zboot, `zboot-size-len`).
const SIZE_LENGTH: u64 = 4;

/// What is wrong with a compressed arm64 Image. The messages continue "the kernel PATH ".
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum ZbootError {
    #[error(
        "is truncated: its {what} ends at byte {end}, the file at byte {length}; \
         copy or build it again"
    )]
    Truncated {
        what: &'static str,
        end: u64,
        length: u64,
    },
    #[error("is an EFI zboot image with no compressed kernel in it: it is damaged")]
    NoPayload,
    #[error("has a compressed kernel of {0} bytes in it: mote accepts at most 1 GiB")]
    PayloadTooLarge(u64),
    #[error(
        "is an EFI zboot image compressed by \"{0}\", which mote doesn't unpack: build it with \
         gzip or zstd, or give its uncompressed Image"
    )]
    Compression(String),
}

/// Whether a file that starts with `head` is an EFI zboot image, of whatever processor.
pub(super) fn is_zboot(head: &[u8]) -> bool {
    head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg")
}

/// Finds the payload. `head` is the start of an EFI zboot file of `length` bytes.
pub(super) fn parse(head: &[u8], length: u64) -> Result<Payload, ZbootError> {
    let truncated = |what, end| ZbootError::Truncated { what, end, length };
    let Some(head) = head.get(..HEADER_END) else {
        return Err(truncated("EFI zboot header", HEADER_END as u64));
    };
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let name = head[TYPE..].split(|byte| *byte == 0).next();
    // What each of them is, its own first bytes say when it is unpacked. zstd has been `zstd22`.
    let behind = match name.unwrap_or_default() {
        b"gzip" => 0,
        b"zstd" | b"zstd22" | b"lz4" | b"lzma" | b"xz" | b"xzkern" => SIZE_LENGTH,
        other => return Err(ZbootError::Compression(other.escape_ascii().to_string())),
    };
    let size = u64::from(u32_at(12));
    if size == 0 {
        return Err(ZbootError::NoPayload);
    }
    let payload = Payload {
        offset: u64::from(u32_at(8)),
        length: size + behind,
    };
    check(payload, length)
}

/// The payload of a file that is a gzip stream from its first byte to its last.
pub(super) fn whole_file(length: u64) -> Result<Payload, ZbootError> {
    check(Payload { offset: 0, length }, length)
}

fn check(payload: Payload, length: u64) -> Result<Payload, ZbootError> {
    if payload.length > MAX_UNPACKED_SIZE {
        return Err(ZbootError::PayloadTooLarge(payload.length));
    }
    // No overflow: the offset is of 32 bits.
    let end = payload.offset + payload.length;
    if end > length {
        return Err(ZbootError::Truncated {
            what: "compressed kernel",
            end,
            length,
        });
    }
    Ok(payload)
}
