//! Tar archives as a stream: the POSIX format with its extended headers (pax), and GNU's long names. Whatever may be
//! in them is taken for hostile; sparse files of GNU's are refused, which no tool puts into images.

use std::io::{self, BufReader, ErrorKind, Read};

use super::error::LayerError;

const BLOCK: usize = 512;
/// The longest extended header, or long name. Extended attributes are in them.
const MOST_EXTENDED: u64 = 1 << 20;
/// The most of them before one entry.
const MOST_HEADERS: usize = 8;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of a file.
    Hard,
    /// A symbolic link.
    Symbolic,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A folder.
    Folder,
    /// A pipe with a name.
    Fifo,
}

/// An entry's header. Its content is read from the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its path, as it stands there.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permissions.
    pub mode: u16,
    /// Whose it is.
    pub owner: (u32, u32),
    /// Seconds since 1970.
    pub modified: i64,
    /// Of its content, in bytes.
    pub size: u64,
    /// A device's numbers.
    pub device: (u32, u32),
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Passes over bytes.
pub trait Skip: Read {
    /// Passes over `count` bytes, or as many as there are.
    ///
    /// # Errors
    ///
    /// The stream's.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

impl Skip for BufReader<std::fs::File> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match i64::try_from(count) {
            Ok(count) => self.seek_relative(count),
            Err(_) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A stream that has to be read to be passed over.
#[derive(Debug)]
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl<R: Read> Skip for Stream<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut (&mut self.0).take(count), &mut io::sink()).map(drop)
    }
}

/// An archive.
#[derive(Debug)]
pub struct Archive<R> {
    stream: R,
    /// Bytes before the stream's place.
    position: u64,
    /// Of the entry's content.
    left: u64,
    /// Behind it.
    padding: u64,
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    user: Option<u32>,
    group: Option<u32>,
    modified: Option<i64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Skip> Archive<R> {
    /// Reads the archive that begins here.
    pub fn new(stream: R) -> Self {
        Archive {
            stream,
            position: 0,
            left: 0,
            padding: 0,
        }
    }

    /// How many bytes are before the next one; right after [`Archive::entry`], where the content begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The stream, of which all entries have been read.
    pub fn into_inner(self) -> R {
        self.stream
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, LayerError> {
        Err(LayerError::Tar(self.position, what))
    }

    /// The next entry, after what wasn't read of the last one's content.
    ///
    /// # Errors
    ///
    /// The archive is cut or damaged, or has what isn't read.
    pub fn entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extended = Extended::default();
        for _ in 0..MOST_HEADERS {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = self.number(&header[124..136])?;
            self.left = size;
            self.padding = size.wrapping_neg() % BLOCK as u64;
            match header[156] {
                b'x' => read_records(&self.extended()?, &mut extended)
                    .or_else(|what| self.wrong(what))?,
                b'g' => drop(self.extended()?), // of all entries: comments, in what is seen
                b'L' => extended.path = Some(until_nul(&self.extended()?).to_vec()),
                b'K' => extended.link = Some(until_nul(&self.extended()?).to_vec()),
                b'S' => return self.wrong("a sparse file of GNU tar's, which isn't read"),
                kind => return self.finish(&header, kind, extended).map(Some),
            }
        }
        self.wrong("too many headers before one entry")
    }

    /// Reads from the entry's content.
    ///
    /// # Errors
    ///
    /// The stream's, or it ends before the content does.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.stream.read(&mut bytes[..most])?;
        if count == 0 {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the archive is cut",
            ));
        }
        self.left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let skipped = self.left.checked_add(self.padding);
        let Some(skipped) = skipped else {
            return self.wrong("an entry's size makes no sense");
        };
        self.stream.skip(skipped)?;
        self.position += skipped;
        (self.left, self.padding) = (0, 0);
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                // Some leave the two blocks out that mark the end.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return self.wrong("is cut"),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let unsigned: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
        let sum = unsigned - own + 8 * u64::from(b' ');
        if self.number(&block[148..156])? != sum {
            return self.wrong("no header of a tar archive");
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    /// Octal digits, or bytes where the first has its highest bit.
    fn number(&self, field: &[u8]) -> Result<u64, LayerError> {
        let number = match field {
            [0x80, rest @ ..] => rest.iter().try_fold(0u64, |number, byte| {
                (number >> 56 == 0).then_some(number << 8 | u64::from(*byte))
            }),
            _ => {
                let text = until_nul(field).trim_ascii();
                text.iter().try_fold(0u64, |number, byte| match byte {
                    b'0'..=b'7' if number >> 61 == 0 => Some(number << 3 | u64::from(byte - b'0')),
                    _ => None,
                })
            }
        };
        number.map_or_else(|| self.wrong("a number that is none"), Ok)
    }

    fn extended(&mut self) -> Result<Vec<u8>, LayerError> {
        if self.left > MOST_EXTENDED {
            return self.wrong("an extended header of more than 1 MiB");
        }
        let mut bytes = vec![0; self.left as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }

    fn finish(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        extended: Extended,
    ) -> Result<Entry, LayerError> {
        let mut path = until_nul(&header[..100]).to_vec();
        let prefix = until_nul(&header[345..500]);
        if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let path = extended.path.unwrap_or(path);
        let is_folder = path.ends_with(b"/");
        let kind = match kind {
            b'0' | 0 | b'7' if is_folder => EntryKind::Folder, // before POSIX
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::Hard,
            b'2' => EntryKind::Symbolic,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Folder,
            b'6' => EntryKind::Fifo,
            _ => return self.wrong("an entry of an unknown type"),
        };
        let id = |field: &[u8]| self.number(field).map(|number| number as u32);
        let mut entry = Entry {
            kind,
            path,
            link: extended
                .link
                .unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            mode: (self.number(&header[100..108])? & 0o7777) as u16,
            owner: (id(&header[108..116])?, id(&header[116..124])?),
            // Before 1970 in bytes; such times are none of an image's.
            modified: match header[136] {
                0xff => 0,
                _ => i64::try_from(self.number(&header[136..148])?).unwrap_or(0),
            },
            size: 0,
            device: (0, 0),
            attributes: extended.attributes,
        };
        if matches!(kind, EntryKind::Character | EntryKind::Block) {
            entry.device = (id(&header[329..337])?, id(&header[337..345])?);
        }
        entry.owner.0 = extended.user.unwrap_or(entry.owner.0);
        entry.owner.1 = extended.group.unwrap_or(entry.owner.1);
        entry.modified = extended.modified.unwrap_or(entry.modified);
        if let Some(size) = extended.size {
            self.left = size;
            self.padding = size.wrapping_neg() % BLOCK as u64;
        }
        if kind == EntryKind::File {
            entry.size = self.left;
        } else if kind == EntryKind::Hard {
            // Some writers give the size of what it leads to, and no content.
            (self.left, self.padding) = (0, 0);
        }
        Ok(entry)
    }
}

/// Records of an extended header: `LENGTH NAME=VALUE\n`, the length with itself and the end.
fn read_records(mut bytes: &[u8], extended: &mut Extended) -> Result<(), &'static str> {
    const WRONG: &str = "an extended header that is none";
    while !bytes.is_empty() {
        let space = bytes.iter().take(8).position(|byte| *byte == b' ');
        let space = space.ok_or(WRONG)?;
        let length = std::str::from_utf8(&bytes[..space]).ok();
        let length: usize = length.and_then(|text| text.parse().ok()).ok_or(WRONG)?;
        let record = bytes.get(space + 1..length).ok_or(WRONG)?;
        bytes = &bytes[length..];
        let record = record.strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
        let (name, value) = (&record[..equals], &record[equals + 1..]);
        let text = || std::str::from_utf8(value).map_err(|_| WRONG);
        match name {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => extended.size = Some(text()?.parse().map_err(|_| WRONG)?),
            b"uid" => extended.user = Some(text()?.parse().map_err(|_| WRONG)?),
            b"gid" => extended.group = Some(text()?.parse().map_err(|_| WRONG)?),
            b"mtime" => {
                let whole = text()?.split('.').next().unwrap_or_default();
                extended.modified = Some(whole.parse().unwrap_or(0).max(0));
            }
            _ if name.starts_with(b"GNU.sparse.") => {
                return Err("a sparse file of GNU tar's, which isn't read");
            }
            _ => {
                if let Some(name) = name.strip_prefix(b"SCHILY.xattr.") {
                    extended.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}
