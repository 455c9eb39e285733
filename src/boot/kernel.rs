//! Opens a kernel file, recognises what it is and loads it: the recipe that the parts of this
//! module are used in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::architecture::Architecture;
use super::decompress::Compression;
use super::elf;
use super::error::{ElfError, KernelError};
use super::image;
use super::kernel_image::{HeaderError, KernelImage};
use super::packed::HEAD_SIZE;
use super::recognise::{Content, recognise};
use super::segments::{self, Loaded, PlacementError};
use super::source::Source;
use crate::handed::{self, Access};

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
    /// EL1, MMU off, X0 points to the device tree (Linux Documentation/arch/arm64/booting.rst).
    Arm64(GuestAddress),
}

/// Which of a kernel's entry points to take. An arm64 kernel has one only: anything but `Auto` is
/// an error with it.
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
    /// An arm64 Image.
    Image,
    /// An arm64 Image, compressed by gzip or inside of an EFI zboot file.
    PackedImage,
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
    /// An arm64 Image.
    Image,
    /// The arm64 Image out of a compressed one.
    PackedImage {
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
    /// The first address after the bytes of the lowest segment: a vmlinux's code and read-only data, all
    /// that an arm64 Image holds.
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
    /// a bzImage or a packed Image each time.
    pub cache: Option<PathBuf>,
    /// The lowest address that an arm64 Image may have; with 0 that is the start of RAM. x86_64
    /// kernels say themselves where they go.
    pub base: GuestAddress,
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
    pub(super) architecture: Architecture,
    length: u64,
    head: [u8; HEAD_SIZE],
    head_length: usize,
    content: Content,
}

/// Opens, recognises and loads a kernel: [`KernelFile::open`] and [`KernelFile::load`].
///
/// # Errors
///
/// See [`KernelError`].
pub fn load_kernel(
    path: &Path,
    architecture: Architecture,
    memory: &GuestMemoryMmap<()>,
    options: &KernelOptions,
) -> Result<LoadedKernel, KernelError> {
    KernelFile::open(path, architecture)?.load(memory, options)
}

impl KernelFile {
    /// Opens a kernel and reads its first 4 KiB, which tell what it is.
    ///
    /// # Errors
    ///
    /// It can't be read, or is no kernel for `architecture` that this loads: see [`KernelError`].
    pub fn open(path: &Path, architecture: Architecture) -> Result<Self, KernelError> {
        let path = path.to_path_buf();
        // O_NONBLOCK: opening a FIFO must not wait for a writer.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let opened = handed::open(&path, Access::Read, &options)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(source) => return Err(KernelError::Open { path, source }),
        };
        if !metadata.is_file() {
            return Err(KernelError::NotAFile { path, architecture });
        }
        let length = metadata.len();
        let (head, head_length) = match Source::File(&file, length).head() {
            Ok(head) => head,
            Err(source) => return Err(KernelError::Read { path, source }),
        };
        let content = recognise(&head[..head_length], length, &path, architecture)?;
        Ok(KernelFile {
            path,
            file,
            architecture,
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
            Content::Image => FileFormat::Image,
            Content::PackedImage(_) => FileFormat::PackedImage,
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
        let format = match self.content {
            Content::Elf => KernelFormat::Elf,
            Content::Image => KernelFormat::Image,
            Content::BzImage(payload) | Content::PackedImage(payload) => {
                return self.load_packed(payload, memory, options);
            }
        };
        let source = Source::File(&self.file, self.length);
        let image = self
            .parse(&self.head[..self.head_length], &source, 0, memory, options)
            .map_err(|source| self.header_error(source))?;
        let entry = self.entry(&image, options.prefer)?;
        let bytes = match options.map {
            true => segments::map(&image, &self.file, self.length, memory),
            false => segments::load(&image, &source, memory),
        };
        let bytes = bytes.map_err(|source| self.placement_error(source))?;
        Ok(loaded(&image, entry, bytes, format))
    }

    /// Reads the headers of a kernel that is all of `source` from `offset` on, and begins with `head`.
    pub(super) fn parse(
        &self,
        head: &[u8],
        source: &Source,
        offset: u64,
        memory: &GuestMemoryMmap<()>,
        options: &KernelOptions,
    ) -> Result<KernelImage, HeaderError> {
        match self.architecture {
            Architecture::X86_64 => Ok(elf::parse(head, source)?),
            Architecture::Aarch64 => {
                let header = image::Header::parse(head, source.len().saturating_sub(offset))?;
                Ok(header.place(offset, memory, options.base.0))
            }
        }
    }

    /// Chooses the entry point.
    pub(super) fn entry(
        &self,
        image: &KernelImage,
        prefer: EntryPreference,
    ) -> Result<Entry, KernelError> {
        if self.architecture == Architecture::Aarch64 {
            return match prefer {
                EntryPreference::Auto => Ok(Entry::Arm64(GuestAddress(image.entry))),
                EntryPreference::Pvh | EntryPreference::Linux64 => Err(KernelError::OneEntry {
                    path: self.path.clone(),
                }),
            };
        }
        match (prefer, image.pvh) {
            (EntryPreference::Auto | EntryPreference::Pvh, Some(entry)) => {
                Ok(Entry::Pvh(GuestAddress(u64::from(entry))))
            }
            (EntryPreference::Pvh, None) => Err(self.header_error(ElfError::NoPvh.into())),
            (EntryPreference::Auto | EntryPreference::Linux64, _) => image
                .linux64_entry()
                .map(|entry| Entry::Linux64(GuestAddress(entry)))
                .map_err(|source| self.header_error(source.into())),
        }
    }

    pub(super) fn header_error(&self, source: HeaderError) -> KernelError {
        let path = self.path.clone();
        match source {
            HeaderError::Elf(source) => KernelError::Elf { path, source },
            HeaderError::Image(source) => KernelError::Image { path, source },
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
}

/// Puts together what a load gives back.
pub(super) fn loaded(
    image: &KernelImage,
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
