//! The setup header of a bzImage, as far as finding the compressed vmlinux inside needs it
//! (Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").

use thiserror::Error;

use super::MAX_UNPACKED_SIZE;
use super::unpacked::Payload;

/// The protocol that brought `payload_offset` and `payload_length`: 2.08, Linux 2.6.26.
const OLDEST_VERSION: u16 = 0x0208;
/// The protocol that brought `xloadflags`: 2.12.
const XLOADFLAGS_VERSION: u16 = 0x020C;
/// `loadflags` bit 0: the protected-mode code is loaded at 1 MiB (a bzImage, not a zImage).
const LOADED_HIGH: u8 = 1;
/// `xloadflags` bit 0: the kernel has the 64-bit entry point.
const XLF_KERNEL_64: u16 = 1;
/// One sector; the setup code is measured in them.
const SECTOR: u64 = 512;
/// The end of the last field that is read here, `payload_length`.
const HEADER_END: usize = 0x250;

/// What is wrong with a bzImage. The messages continue "the kernel PATH ".
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum BzImageError {
    #[error(
        "is truncated: its {what} ends at byte {end}, the file at byte {length}; \
         copy or build it again"
    )]
    Truncated {
        what: &'static str,
        end: u64,
        length: u64,
    },
    #[error(
        "is a bzImage of boot protocol {}.{:02}: mote needs 2.08 (Linux 2.6.26) or newer",
        .0 >> 8, .0 & 0xFF
    )]
    OldProtocol(u16),
    #[error("is a zImage (it loads below 1 MiB): build a bzImage or vmlinux")]
    ZImage,
    #[error("is a 32-bit kernel: mote boots 64-bit kernels only")]
    Not64Bit,
    #[error("is a bzImage with no compressed kernel in it: it is damaged")]
    NoPayload,
    #[error("has a compressed kernel of {0} bytes in it: mote accepts at most 1 GiB")]
    PayloadTooLarge(u64),
}

/// Whether a file that starts with `head` is a Linux/x86 boot image: the boot sector's mark
/// and the magic `HdrS`.
pub(super) fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x1FE..0x200) == Some(&[0x55, 0xAA]) && head.get(0x202..0x206) == Some(b"HdrS")
}

/// Finds the payload. `head` is the start of a file of `length` bytes.
pub(super) fn parse(head: &[u8], length: u64) -> Result<Payload, BzImageError> {
    let truncated = |what, end| BzImageError::Truncated { what, end, length };
    let Some(head) = head.get(..HEADER_END) else {
        return Err(truncated("setup header", HEADER_END as u64));
    };
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);

    let version = u16_at(0x206);
    if version < OLDEST_VERSION {
        return Err(BzImageError::OldProtocol(version));
    }
    if head[0x211] & LOADED_HIGH == 0 {
        return Err(BzImageError::ZImage);
    }
    if version >= XLOADFLAGS_VERSION && u16_at(0x236) & XLF_KERNEL_64 == 0 {
        return Err(BzImageError::Not64Bit);
    }
    // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4";
    // the boot sector comes on top.
    let setup_sectors = match head[0x1F1] {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let offset = (setup_sectors + 1) * SECTOR + u64::from(u32_at(0x248));
    let payload = Payload {
        offset,
        length: u64::from(u32_at(0x24C)),
    };
    if payload.length == 0 {
        return Err(BzImageError::NoPayload);
    }
    if payload.length > MAX_UNPACKED_SIZE {
        return Err(BzImageError::PayloadTooLarge(payload.length));
    }
    // No overflow: all the numbers are of 32 bits.
    let end = payload.offset + payload.length;
    if end > length {
        return Err(truncated("compressed kernel", end));
    }
    Ok(payload)
}
