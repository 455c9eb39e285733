//! What a kernel file is, by its first bytes; for what is none, what to give instead.

use std::path::Path;

use super::architecture::Architecture;
use super::elf::{EM_AARCH64, EM_X86_64, MAGIC as ELF_MAGIC};
use super::error::KernelError;
use super::unpacked::Payload;
use super::{bzimage, image, zboot};

/// A file that this loads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// A vmlinux for x86_64.
    Elf,
    /// A bzImage.
    BzImage(Payload),
    /// An arm64 Image.
    Image,
    /// An arm64 Image, compressed.
    PackedImage(Payload),
}

/// Recognises a kernel by the start of its file, which has `length` bytes.
pub(super) fn recognise(
    head: &[u8],
    length: u64,
    path: &Path,
    architecture: Architecture,
) -> Result<Content, KernelError> {
    let found = match architecture {
        Architecture::X86_64 => x86_64(head, length, path)?,
        Architecture::Aarch64 => arm64(head, length, path)?,
    };
    found.ok_or_else(|| {
        let (what, remedy) = other(head, architecture);
        KernelError::Unrecognised {
            path: path.to_path_buf(),
            what,
            remedy,
        }
    })
}

fn x86_64(head: &[u8], length: u64, path: &Path) -> Result<Option<Content>, KernelError> {
    if bzimage::is_bzimage(head) {
        return match bzimage::parse(head, length) {
            Ok(payload) => Ok(Some(Content::BzImage(payload))),
            Err(source) => Err(KernelError::BzImage {
                path: path.to_path_buf(),
                source,
            }),
        };
    }
    Ok(head.starts_with(&ELF_MAGIC).then_some(Content::Elf))
}

fn arm64(head: &[u8], length: u64, path: &Path) -> Result<Option<Content>, KernelError> {
    if image::is_image(head) {
        return Ok(Some(Content::Image));
    }
    let payload = if zboot::is_zboot(head) {
        zboot::parse(head, length)
    } else if head.starts_with(&[0x1F, 0x8B]) {
        zboot::whole_file(length)
    } else {
        return Ok(None);
    };
    match payload {
        Ok(payload) => Ok(Some(Content::PackedImage(payload))),
        Err(source) => Err(KernelError::Zboot {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// What something else is, and what to do.
fn other(head: &[u8], architecture: Architecture) -> (&'static str, &'static str) {
    let x86 = architecture == Architecture::X86_64;
    let machine = match head {
        [0x7F, b'E', b'L', b'F', ..] => head.get(18..20),
        _ => None,
    };
    let machine = machine.map(|field| u16::from_le_bytes([field[0], field[1]]));
    let advice = architecture.advice();
    match head {
        [] => ("is empty", "build or copy it again"),
        [b'#', b'!', ..] => ("is a script", advice),
        [0x1F, 0x8B, ..] => (
            "is compressed by gzip and no bzImage",
            "unpack it with `gzip -dc`",
        ),
        [0x28, 0xB5, 0x2F, 0xFD, ..] if x86 => (
            "is compressed by zstd and no bzImage",
            "unpack it with `zstd -dc`",
        ),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => ("is compressed by zstd", "unpack it with `zstd -dc`"),
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] if x86 => (
            "is compressed by xz and no bzImage",
            "unpack it with `xz -dc`",
        ),
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => ("is compressed by xz", "unpack it with `xz -dc`"),
        [b'0', b'7', b'0', b'7', b'0', b'1' | b'2' | b'7', ..] => (
            "is a cpio archive",
            match x86 {
                true => "give it as --initrd, and a vmlinux or a bzImage as the kernel",
                false => "give it as --initrd, and an arm64 Image as the kernel",
            },
        ),
        _ if image::is_image(head) => (
            "is an arm64 Image, and mote boots x86_64 kernels on this host",
            advice,
        ),
        _ if zboot::is_zboot(head) => (
            "is an EFI zboot image, and mote boots x86_64 kernels on this host",
            advice,
        ),
        _ if bzimage::is_bzimage(head) => (
            "is an x86 bzImage, and mote boots arm64 kernels on this host",
            advice,
        ),
        [b'M', b'Z', ..] => ("is an EFI program and no Linux kernel", advice),
        _ => match machine {
            Some(EM_AARCH64) => (
                "is an arm64 vmlinux, whose addresses are virtual ones",
                advice,
            ),
            Some(EM_X86_64) => (
                "is an ELF file for x86_64, and mote boots arm64 kernels on this host",
                advice,
            ),
            Some(_) => ("is an ELF file and no arm64 Image", advice),
            None if x86 => ("is neither an ELF file nor a bzImage", advice),
            None => ("is no arm64 Image, nor one compressed by gzip", advice),
        },
    }
}
