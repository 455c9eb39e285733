//! Loads the vmlinux out of a bzImage, or a packed arm64 Image: from the cache where it is there, else by unpacking it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;
use vm_memory::GuestMemoryMmap;

use super::MAX_UNPACKED_SIZE;
use super::architecture::Architecture;
use super::cache::Cache;
use super::decompress::{self, Compression};
use super::elf::MAGIC;
use super::error::KernelError;
use super::image::{self, HEADER_SIZE};
use super::kernel::{KernelFile, KernelFormat, KernelOptions, LoadedKernel, loaded};
use super::kernel_image::{HeaderError, KernelImage};
use super::packed::{self, HEAD_SIZE, Key, Stamp};
use super::segments::{self, Loaded, PlacementError};
use super::source::Source;

/// Where the compressed kernel lies in the file, in bytes; its unpacked size, in 4 bytes, is the
/// last of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    pub offset: u64,
    pub length: u64,
}

/// How much of a payload is hashed at once: what fits a second-level cache.
const HASH_PIECE: usize = 1 << 20;

impl KernelFile {
    /// Loads from the cache, or else unpacks and then fills the cache.
    pub(super) fn load_packed(
        &self,
        payload: Payload,
        memory: &GuestMemoryMmap<()>,
        options: &KernelOptions,
    ) -> Result<LoadedKernel, KernelError> {
        let cache = options.cache.as_deref().and_then(|folder| {
            Cache::open(folder)
                .inspect_err(|error| {
                    log::debug!("no cache for kernels in {}: {error}", folder.display());
                })
                .ok()
        });
        if let Some(cache) = &cache {
            let (key, compression) = self.hash(payload)?;
            if let Some((file, length)) = cache.find(&key) {
                match self.load_cached(&file, length, &key, memory, options) {
                    Ok((image, bytes)) => {
                        let entry = self.entry(&image, options.prefer)?;
                        let format = self.packed_format(compression, true);
                        return Ok(loaded(&image, entry, bytes, format));
                    }
                    Err(CachedError::Placement(source @ PlacementError::NeedsMemory { .. })) => {
                        return Err(self.placement_error(source));
                    }
                    Err(error) => cache.remove(&key, &error.to_string()),
                }
            }
        }

        // The key is computed from the bytes that are unpacked, not taken from above: the
        // file may have changed since, and the cache must never hold one content under the
        // name of another.
        let payload = self.read_payload(payload)?;
        let key = cache.as_ref().map(|_| *blake3::hash(&payload).as_bytes());
        let unpack_error = |source| KernelError::Unpack {
            path: self.path.clone(),
            source,
        };
        let compression = Compression::detect(&payload).map_err(unpack_error)?;
        let unpacked = decompress::unpack(payload, MAX_UNPACKED_SIZE).map_err(unpack_error)?;
        let source = Source::Bytes(&unpacked);
        let head = &unpacked[..unpacked.len().min(HEAD_SIZE)];
        if self.architecture == Architecture::X86_64 && !head.starts_with(&MAGIC) {
            return Err(KernelError::Unrecognised {
                path: self.path.clone(),
                what: "is a bzImage with something else than a vmlinux in it",
                remedy: self.architecture.advice(),
            });
        }
        let mut image = self
            .parse(head, &source, 0, memory, options)
            .map_err(|source| self.header_error(source))?;
        let entry = self.entry(&image, options.prefer)?;
        // An Image that doesn't tell its size has no other than its file's.
        if self.architecture == Architecture::X86_64 || !image::is_of_unknown_size(head) {
            packed::trim(&mut image, &unpacked);
        }
        let bytes = segments::load(&image, &source, memory)
            .map_err(|source| self.placement_error(source))?;
        if let (Some(cache), Some(key)) = (&cache, &key) {
            let stored = cache.store(key, |file| {
                packed::write(self.architecture, &image, &unpacked, key, file)
            });
            if let Err(error) = stored {
                log::debug!("the unpacked kernel is not kept: {error}");
            }
        }
        let format = self.packed_format(compression, false);
        Ok(loaded(&image, entry, bytes, format))
    }

    fn packed_format(&self, compression: Compression, cached: bool) -> KernelFormat {
        match self.architecture {
            Architecture::X86_64 => KernelFormat::BzImage {
                compression,
                cached,
            },
            Architecture::Aarch64 => KernelFormat::PackedImage {
                compression,
                cached,
            },
        }
    }

    /// The key of the payload, and how it is compressed. Reads a piece at a time, so that a
    /// start from the cache needs no memory for the whole payload.
    fn hash(&self, payload: Payload) -> Result<(Key, Compression), KernelError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; payload.length.min(HASH_PIECE as u64) as usize];
        let mut compression = None;
        let mut done = 0;
        while done < payload.length {
            let count = (payload.length - done).min(HASH_PIECE as u64) as usize;
            let piece = &mut buffer[..count];
            self.file
                .read_exact_at(piece, payload.offset + done)
                .map_err(|source| self.read_error(source))?;
            if compression.is_none() {
                let detected =
                    Compression::detect(piece).map_err(|source| KernelError::Unpack {
                        path: self.path.clone(),
                        source,
                    })?;
                compression = Some(detected);
            }
            hasher.update(piece);
            done += count as u64;
        }
        Ok((
            *hasher.finalize().as_bytes(),
            compression.unwrap_or(Compression::None),
        ))
    }

    fn read_payload(&self, payload: Payload) -> Result<Vec<u8>, KernelError> {
        // At most the length of the file: the header was checked against it.
        let mut bytes = vec![0; payload.length as usize];
        self.file
            .read_exact_at(&mut bytes, payload.offset)
            .map_err(|source| self.read_error(source))?;
        Ok(bytes)
    }

    /// Loads an entry of the cache. Its headers are checked before anything is loaded: where only
    /// the contents are damaged, loading the right ones afterwards overwrites every byte.
    fn load_cached(
        &self,
        file: &File,
        length: u64,
        key: &Key,
        memory: &GuestMemoryMmap<()>,
        options: &KernelOptions,
    ) -> Result<(KernelImage, Loaded), CachedError> {
        let source = Source::File(file, length);
        let (head, _) = source.head::<HEAD_SIZE>()?;
        let stamp = Stamp::read(&head)
            .filter(|stamp| stamp.key == *key && stamp.length == length)
            .ok_or(CachedError::Stamp)?;
        let image = match self.architecture {
            Architecture::X86_64 => self.parse(&head, &source, 0, memory, options)?,
            Architecture::Aarch64 => {
                let mut head = [0; HEADER_SIZE];
                let offset = HEAD_SIZE as u64;
                source.read_exact_at(&mut head, offset)?;
                self.parse(&head, &source, offset, memory, options)?
            }
        };
        let target = (!options.map).then_some(memory);
        let (mut loaded, crc) = segments::load_with_crc(&image, &source, target)?;
        if crc != stamp.data_crc {
            return Err(CachedError::Contents);
        }
        if options.map {
            loaded = segments::map(&image, file, length, memory)?;
        }
        Ok((image, loaded))
    }
}

/// Why an entry of the cache was not used.
#[derive(Debug, Error)]
enum CachedError {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is damaged, or for another content")]
    Stamp,
    #[error("it {0}")]
    Header(#[from] HeaderError),
    #[error("it {0}")]
    Placement(#[from] PlacementError),
    #[error("its contents are damaged")]
    Contents,
}
