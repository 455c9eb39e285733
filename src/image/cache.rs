//! Root file systems that were made before, in a folder of the user's, named by what is in them: the digests of their
//! layers, unpacked, which were compared when they were made.
//!
//! One is made at a time, by whoever has the lock; others wait and find it. It has its name once it is whole. What is
//! there is looked at as in `crate::kept`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use sha2::{Digest, Sha256};

use super::Root;
use super::erofs::Content;
use super::error::{ImageError, LayerError};
use super::layer;
use super::source::{LayerSource, Source, hex};
use super::tar::Stream;
use super::tree::Tree;
use crate::kept;

pub(super) const SUFFIX: &str = ".erofs";

/// An image of this age may have been found by a process that hasn't opened it yet.
const JUST_USED: Duration = Duration::from_secs(60);

/// Raised when the images that are made of the same layers are others.
const RECIPE: u32 = 2;

/// The largest window that a zstd layer may want: what `zstd --long` takes (27 bits).
const MAX_WINDOW: u64 = 128 << 20;

/// Tells how many of how many packed bytes are read.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64);

/// The image's root file system, made in `folder` if it isn't there.
///
/// # Errors
///
/// The folder can't be used, or the image is wrong.
pub fn root(source: Source, folder: &Path, progress: OnProgress) -> Result<Root, ImageError> {
    let name = name(&source.layers);
    let (path, was_cached) = kept(folder, &name, SUFFIX, |temporary| {
        make(&source, temporary, progress)
    })?;
    Ok(Root {
        path,
        settings: source.settings,
        was_cached,
    })
}

/// The file of this name and ending in a folder of the user's, made by `make` if it isn't there; and whether it was.
///
/// # Errors
///
/// The folder can't be used, or the file can't be made.
pub fn kept<E: From<ImageError>>(
    folder: &Path,
    name: &str,
    suffix: &str,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(PathBuf, bool), E> {
    open_folder(folder)?;
    let path = folder.join(format!("{name}{suffix}"));
    if is_there(&path) {
        return Ok((path, true));
    }
    let lock_path = folder.join(format!("{name}.lock"));
    let _lock = lock(&lock_path).map_err(ImageError::io(&lock_path))?;
    let was_there = is_there(&path);
    let made = match was_there {
        true => Ok(()),
        false => {
            let temporary = folder.join(format!(".{name}{}", kept::TEMPORARY_SUFFIX));
            // Whoever made it has died: the lock is ours.
            let _ = fs::remove_file(&temporary);
            let made = make(&temporary).and_then(|()| Ok(rename(&temporary, &path)?));
            if made.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            made
        }
    };
    let _ = fs::remove_file(&lock_path);
    made.map(|()| (path, was_there))
}

/// Makes a folder that [`kept`] can have files in, or checks that nobody but this user can write to it.
///
/// # Errors
///
/// It can't be used.
pub fn open_folder(folder: &Path) -> Result<(), ImageError> {
    kept::open_folder(folder)
        .map_err(|error| ImageError::content(folder, format!("images aren't kept in it: {error}")))
}

/// Removes images, those used longest ago first, until the others are no more than `limit` bytes. This one stays, and what
/// has just been used. A VM that has one open keeps it.
pub fn clean(folder: &Path, limit: u64, used: &Path) {
    let mut total = fs::metadata(used).map_or(0, |metadata| metadata.len());
    kept::clean(folder, SUFFIX, |path, length, age| {
        if path == used {
            return true;
        }
        total = total.saturating_add(length);
        total <= limit || age < JUST_USED
    });
}

/// The lock on a file that has this name once it is locked: whoever had it removes it.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.lock()?;
        let named = fs::symlink_metadata(path);
        let locked = file.metadata()?;
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
            return Ok(file);
        }
    }
}

/// A name that it has after a power failure is one for all of it: what is renamed is synced.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::rename(from, to).map_err(ImageError::io(to))
}

fn name(layers: &[LayerSource]) -> String {
    let mut hash = Sha256::new();
    hash.update(RECIPE.to_le_bytes());
    for layer in layers {
        hash.update(&layer.digest);
    }
    hex(&hash.finalize())
}

/// Whether it is there and this user's own; it counts as used then.
pub(super) fn is_there(path: &Path) -> bool {
    match kept::open_entry(path) {
        Ok((file, metadata)) => {
            kept::note_use(&file, &metadata, Duration::ZERO);
            true
        }
        Err(_) => false,
    }
}

/// A new file, for this user alone.
pub(super) fn create(path: &Path) -> Result<File, ImageError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.map_err(ImageError::io(path))
}

fn make(source: &Source, path: &Path, progress: OnProgress) -> Result<(), ImageError> {
    let mut content = Content::new(create(path)?);
    let mut tree = Tree::default();
    let total = source.layers.iter().map(|layer| layer.size).sum();
    let mut done = 0;
    for (index, layer) in source.layers.iter().enumerate() {
        let packed = Counted {
            stream: source.open_layer(layer)?,
            done,
            total,
            progress,
        };
        let stream = unpack(packed, &layer.media_type);
        let number = index as u32 + 1;
        let applied =
            stream.and_then(|stream| apply(stream, &layer.digest, &mut tree, &mut content, number));
        applied.map_err(|error| ImageError::Layer {
            path: source.path().to_owned(),
            digest: layer.digest.clone(),
            error,
        })?;
        done += layer.size;
    }
    let file = content.finish(&tree).map_err(ImageError::io(path))?;
    // A name that it has after a power failure is one for all of it.
    file.sync_all().map_err(ImageError::io(path))
}

/// The layer onto the tree, and that it is the one that it is said to be.
fn apply(
    stream: Box<dyn Read + '_>,
    digest: &str,
    tree: &mut Tree,
    content: &mut Content,
    number: u32,
) -> Result<(), LayerError> {
    let hashed = Hashed {
        stream: BufReader::with_capacity(64 << 10, stream),
        hash: Sha256::new(),
    };
    let mut rest = layer::apply(Stream(hashed), tree, content, number)?.0;
    // What is behind the archive's end is in the digest too.
    io::copy(&mut rest, &mut io::sink())?;
    let found = format!("sha256:{}", hex(&rest.hash.finalize()));
    match found == digest {
        true => Ok(()),
        false => Err(LayerError::Digest(found)),
    }
}

/// The archive in a layer's blob: the media type says how it is packed, and where there is none, its first bytes.
pub(super) fn unpack<'a>(
    stream: impl Read + 'a,
    media_type: &str,
) -> Result<Box<dyn Read + 'a>, LayerError> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let base = media_type
        .rsplit_once('.')
        .map_or(media_type, |(_, end)| end);
    let known = ["", "tar", "tar+gzip", "tar+zstd", "gzip"].contains(&base);
    if !known {
        return Err(LayerError::MediaType(media_type.to_owned()));
    }
    let first = io::BufRead::fill_buf(&mut stream)?;
    if first.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stream)));
    }
    if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || first.get(1..4) == Some(&[0x2a, 0x4d, 0x18])
    {
        return Ok(Box::new(Frames::Between(Some(stream))));
    }
    Ok(Box::new(stream))
}

/// A zstd stream of any number of frames. Their checksums aren't looked at: the layer has a digest.
enum Frames<R: io::BufRead> {
    Between(Option<R>),
    In(Box<StreamingDecoder<R, FrameDecoder>>),
}

impl<R: io::BufRead> Read for Frames<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            match self {
                Frames::Between(stream) => {
                    let Some(mut stream) = stream.take() else {
                        return Ok(0);
                    };
                    if stream.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    *self = match skip_frame(&mut stream)? {
                        true => Frames::Between(Some(stream)),
                        false => {
                            let frame =
                                StreamingDecoder::new_with_max_window_size(stream, MAX_WINDOW);
                            Frames::In(Box::new(frame.map_err(io::Error::other)?))
                        }
                    };
                }
                Frames::In(frame) => {
                    let count = frame.read(bytes)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    if let Frames::In(frame) = std::mem::replace(self, Frames::Between(None)) {
                        *self = Frames::Between(Some(frame.into_inner()));
                    }
                }
            }
        }
    }
}

/// Passes over a frame that isn't data (RFC 8878 section 3.1.2).
fn skip_frame(stream: &mut impl io::BufRead) -> io::Result<bool> {
    let first = stream.fill_buf()?;
    if first.get(1..4) != Some(&[0x2a, 0x4d, 0x18]) || first[0] & 0xf0 != 0x50 {
        return Ok(false);
    }
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    io::copy(&mut stream.take(length.into()), &mut io::sink())?;
    Ok(true)
}

/// Tells how far it is read.
struct Counted<'a, 'b, R> {
    stream: R,
    done: u64,
    total: u64,
    progress: &'a mut (dyn FnMut(u64, u64) + 'b),
}

impl<R: Read> Read for Counted<'_, '_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.done += count as u64;
        (self.progress)(self.done, self.total);
        Ok(count)
    }
}

struct Hashed<R> {
    stream: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }
}
