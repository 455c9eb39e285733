//! Opens a kernel file, recognises what it is and loads it: the recipe that the parts of this
//! module are used in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::bzimage::{self, Payload};
use super::decompress::Compression;
use super::elf::ElfImage;
use super::error::{ElfError, KernelError};
use super::packed::HEAD_SIZE;
use super::segments::{self, Loaded, PlacementError};
use super::source::Source;

/// For which processor a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86_64.
    X86_64,
    /// AArch64, which Linux calls arm64.
    Aarch64,
}

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, paging off, EBX points to what [`super::write_pvh`] wrote
    /// (Xen docs/misc/pvh.pandoc).
    Pvh(GuestAddress),
    /// 64-bit mode, identity-mapped page tables, RSI points to what
    /// [`super::write_zero_page`] wrote (Linux Documentation/arch/x86/boot.rst, "64-bit Boot
    /// Protocol").
    Linux64(GuestAddress),
    /// MMU off, X0 points to the device tree (Linux Documentation/arch/arm64/booting.rst).
    Arm64(GuestAddress),
}

/// Which of a kernel's entry points to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryPreference {
    /// PVH where the kernel has it, else the 64-bit protocol.
    #[default]
    Auto,
    /// PVH, or an error.
    Pvh,
    /// The 64-bit protocol.
    Linux64,
}

/// What a kernel file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// An uncompressed vmlinux.
    Elf,
    /// A bzImage, as distributions ship it.
    BzImage,
}

/// What was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFormat {
    /// An uncompressed vmlinux.
    Elf,
    /// The vmlinux out of a bzImage.
    BzImage {
        /// How it was compressed.
        compression: Compression,
        /// Whether it came from the cache, so that nothing had to be unpacked.
        cached: bool,
    },
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Where and how the first vCPU starts.
    pub entry: Entry,
    /// The address of the lowest segment.
    pub start: GuestAddress,
    /// The first address after the highest segment, its BSS included.
    pub end: GuestAddress,
    /// The first address after the bytes of the lowest segment, which is Linux's code and read-only data.
    pub text_end: GuestAddress,
    /// How many bytes were copied into guest memory.
    pub bytes_loaded: u64,
    /// How many bytes of guest memory are pages of the file.
    pub bytes_mapped: u64,
    /// Where they came from.
    pub format: KernelFormat,
}

/// How to load a kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelOptions {
    /// The folder for unpacked kernels (see [`super::default_cache_folder`]); `None` unpacks
    /// a bzImage each time.
    pub cache: Option<PathBuf>,
    /// Which entry point to take.
    pub prefer: EntryPreference,
    /// Map whole pages of the file, or of its copy in the cache, instead of copying them, where that
    /// can be: see [`crate::memory::over_ram::map_private`] for what the file must not do then.
    pub map: bool,
}

/// An opened kernel file that was recognised, but not loaded yet.
#[derive(Debug)]
pub struct KernelFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    length: u64,
    head: [u8; HEAD_SIZE],
    head_length: usize,
    content: Content,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Elf,
    BzImage(Payload),
}

/// Opens, recognises and loads a kernel: [`KernelFile::open`] and [`KernelFile::load`].
///
/// # Errors
///
/// See [`KernelError`].
pub fn load_kernel(
    path: &Path,
    memory: &GuestMemoryMmap<()>,
    options: &KernelOptions,
) -> Result<LoadedKernel, KernelError> {
    KernelFile::open(path)?.load(memory, options)
}

impl KernelFile {
    /// Opens a kernel and reads its first 4 KiB, which tell what it is.
    ///
    /// # Errors
    ///
    /// It can't be read, or is no kernel that this loads: see [`KernelError`].
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let path = path.to_path_buf();
        // O_NONBLOCK: opening a FIFO must not wait for a writer.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(source) => return Err(KernelError::Open { path, source }),
        };
        if !metadata.is_file() {
            return Err(KernelError::NotAFile { path });
        }
        let length = metadata.len();
        let (head, head_length) = match Source::File(&file, length).head() {
            Ok(head) => head,
            Err(source) => return Err(KernelError::Read { path, source }),
        };
        let content = recognise(&head[..head_length], length, &path)?;
        Ok(KernelFile {
            path,
            file,
            length,
            head,
            head_length,
            content,
        })
    }

    /// What the file is.
    pub fn format(&self) -> FileFormat {
        match self.content {
            Content::Elf => FileFormat::Elf,
            Content::BzImage(_) => FileFormat::BzImage,
        }
    }

    /// Loads the kernel into fresh guest memory (see the [module](super) for what that means).
    ///
    /// # Errors
    ///
    /// It is damaged, doesn't fit into `memory`, or lacks the entry asked for: see [`KernelError`].
    pub fn load(
        self,
        memory: &GuestMemoryMmap<()>,
        options: &KernelOptions,
    ) -> Result<LoadedKernel, KernelError> {
        match self.content {
            Content::Elf => {
                let source = Source::File(&self.file, self.length);
                let image = ElfImage::parse(&self.head[..self.head_length], &source)
                    .map_err(|source| self.elf_error(source))?;
                let entry = self.entry(&image, options.prefer)?;
                let bytes = match options.map {
                    true => segments::map(&image, &self.file, self.length, memory),
                    false => segments::load(&image, &source, memory),
                };
                let bytes = bytes.map_err(|source| self.placement_error(source))?;
                Ok(loaded(&image, entry, bytes, KernelFormat::Elf))
            }
            Content::BzImage(payload) => self.load_bzimage(payload, memory, options),
        }
    }

    /// Chooses the entry point.
    pub(super) fn entry(
        &self,
        image: &ElfImage,
        prefer: EntryPreference,
    ) -> Result<Entry, KernelError> {
        match (prefer, image.pvh) {
            (EntryPreference::Auto | EntryPreference::Pvh, Some(entry)) => {
                Ok(Entry::Pvh(GuestAddress(u64::from(entry))))
            }
            (EntryPreference::Pvh, None) => Err(self.elf_error(ElfError::NoPvh)),
            (EntryPreference::Auto | EntryPreference::Linux64, _) => image
                .linux64_entry()
                .map(|entry| Entry::Linux64(GuestAddress(entry)))
                .map_err(|source| self.elf_error(source)),
        }
    }

    pub(super) fn elf_error(&self, source: ElfError) -> KernelError {
        KernelError::Elf {
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn placement_error(&self, source: PlacementError) -> KernelError {
        KernelError::Placement {
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn read_error(&self, source: io::Error) -> KernelError {
        KernelError::Read {
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn unrecognised(&self, what: &'static str) -> KernelError {
        KernelError::Unrecognised {
            path: self.path.clone(),
            what,
        }
    }
}

/// Recognises a kernel by the start of its file.
fn recognise(head: &[u8], length: u64, path: &Path) -> Result<Content, KernelError> {
    if bzimage::is_bzimage(head) {
        return match bzimage::parse(head, length) {
            Ok(payload) => Ok(Content::BzImage(payload)),
            Err(source) => Err(KernelError::BzImage {
                path: path.to_path_buf(),
                source,
            }),
        };
    }
    let what = match head {
        [] => "is empty: build or copy it again",
        [0x7F, b'E', b'L', b'F', ..] => return Ok(Content::Elf),
        [b'#', b'!', ..] => "is a script: give a vmlinux or a bzImage",
        [0x1F, 0x8B, ..] => "is compressed by gzip and no bzImage: unpack it with `gzip -dc`",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            "is compressed by zstd and no bzImage: unpack it with `zstd -dc`"
        }
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => {
            "is compressed by xz and no bzImage: unpack it with `xz -dc`"
        }
        [b'0', b'7', b'0', b'7', b'0', b'1' | b'2' | b'7', ..] => {
            "is a cpio archive: give it as --initrd, and a vmlinux or a bzImage as the kernel"
        }
        _ if head.get(56..60) == Some(b"ARM\x64") => {
            "is an arm64 Image: mote boots x86_64 kernels on this host"
        }
        [b'M', b'Z', ..] => "is an EFI program and no Linux kernel: give a vmlinux or a bzImage",
        _ => "is neither an ELF file nor a bzImage: give a vmlinux or a bzImage",
    };
    Err(KernelError::Unrecognised {
        path: path.to_path_buf(),
        what,
    })
}

/// Puts together what a load gives back.
pub(super) fn loaded(
    image: &ElfImage,
    entry: Entry,
    bytes: Loaded,
    format: KernelFormat,
) -> LoadedKernel {
    LoadedKernel {
        entry,
        start: GuestAddress(image.start()),
        end: GuestAddress(image.end()),
        text_end: GuestAddress(image.text_end()),
        bytes_loaded: bytes.copied,
        bytes_mapped: bytes.mapped,
        format,
    }
}
