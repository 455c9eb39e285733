//! An EROFS image (Linux: fs/erofs/erofs_fs.h): blocks of 4 KiB, not compressed, so that what the guest reads is what
//! is in the host's page cache.
//!
//! ```text
//! block 0        the superblock, at byte 1024
//! blocks 1..     files' content, in the order in which it came, each file from a block on; then folders' and links'
//!                that is too long to be behind their inodes
//! the last ones  inodes, with their attributes and with what is short enough behind them
//! ```
//!
//! Blocks of zeros are holes in the image's file; so are those of files that a later layer replaces.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::tree::{Index, Kind, Node, ROOT, Tree};

const BLOCK: usize = 4096;
const BLOCK_BITS: u8 = 12;
/// Of an inode in the longer form.
const INODE: usize = 64;
/// Inodes are at multiples of it, which their numbers count.
const SLOT: usize = 32;

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPERBLOCK: u64 = 1024;

/// Where an inode's content is (erofs_fs.h, EROFS_INODE_FLAT_*): in blocks of its own, or its end behind the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;

/// The most bytes of attributes of one file.
const MOST_ATTRIBUTES: usize = 60 << 10;

/// The most bytes of an image that aren't holes.
const MOST_WRITTEN: u64 = 64 << 30;

/// The content of files, as it goes into the image.
#[derive(Debug)]
pub struct Content {
    file: File,
    /// The next free one.
    block: u32,
    /// Bytes that may still be written, and what is wrong where they aren't enough.
    room: u64,
    too_large: &'static str,
}

impl Content {
    /// Into an empty file. A tenth of what is free on its file system now stays free: a few bytes of a layer can be
    /// unpacked to any number.
    pub fn new(file: File) -> Self {
        let (room, too_large) = match free(&file) {
            Some(free) if free - free / 10 < MOST_WRITTEN => (
                free - free / 10,
                "the image needs more than nine tenths of what was free on the file system where it is kept: make \
                 room there, or set MOTE_CACHE to a folder elsewhere",
            ),
            _ => (MOST_WRITTEN, "the image is larger than 64 GiB"),
        };
        Content {
            file,
            block: 1,
            room,
            too_large,
        }
    }

    /// The same, with this much room.
    #[cfg(test)]
    pub(super) fn with_room(self, room: u64) -> Self {
        Content { room, ..self }
    }

    /// Writes `size` bytes out of a stream; the first block.
    ///
    /// # Errors
    ///
    /// The stream is shorter, or the image's file can't be written.
    pub fn write(&mut self, stream: &mut impl Read, size: u64) -> io::Result<u32> {
        let first = self.block;
        let after = u64::from(first) + size.div_ceil(BLOCK as u64);
        if after >= u32::MAX.into() {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                "the image is larger than 16 TiB",
            ));
        }
        let mut left = size;
        let mut offset = u64::from(first) * BLOCK as u64;
        let mut bytes = vec![0; (size.min(64 << 10)) as usize];
        while left > 0 {
            let most = left.min(bytes.len() as u64) as usize;
            let piece = &mut bytes[..most];
            stream.read_exact(piece)?;
            self.write_all(piece, offset)?;
            offset += most as u64;
            left -= most as u64;
        }
        self.block = after as u32;
        Ok(first)
    }

    /// Whole blocks of zeros aren't written.
    fn write_all(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // What isn't written yet of what has been looked at.
        let (mut start, mut end) = (0, 0);
        for block in bytes.chunks(BLOCK) {
            if is_zero(block) {
                self.put(&bytes[start..end], offset + start as u64)?;
                start = end + block.len();
            }
            end += block.len();
        }
        if start < end {
            self.put(&bytes[start..end], offset + start as u64)?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let left = self
            .room
            .checked_sub(bytes.len().next_multiple_of(BLOCK) as u64);
        let too_large = || io::Error::new(ErrorKind::StorageFull, self.too_large);
        self.room = left.ok_or_else(too_large)?;
        self.file.write_all_at(bytes, offset)
    }

    /// Gives the place of content that nobody needs back to the host, where its file system can.
    pub fn forget(&self, block: u32, size: u64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let length = size.next_multiple_of(BLOCK as u64);
        let (start, length) = (i64::from(block) * BLOCK as i64, length as i64);
        // SAFETY: takes no pointer.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, start, length) };
    }

    /// Writes the tree behind the content; the image is complete then.
    ///
    /// # Errors
    ///
    /// The file can't be written, or a file has more attributes than there is room for.
    pub fn finish(mut self, tree: &Tree) -> io::Result<File> {
        let mut inodes = Inodes::place(tree)?;
        inodes.number();
        for place in 0..inodes.order.len() {
            let content = inodes.content(tree, place);
            let whole = content.len() - inodes.inline[place] as usize;
            if whole > 0 {
                let block = self.write(&mut &content[..whole], whole as u64)?;
                inodes.blocks[place] = block;
            }
        }
        let start = self.block;
        let offset = u64::from(start) * BLOCK as u64;
        let mut bytes = Vec::new();
        let mut written = 0;
        for place in 0..inodes.order.len() {
            inodes.write(tree, place, written, &mut bytes)?;
            if bytes.len() >= 1 << 20 {
                let whole = bytes.len() - bytes.len() % BLOCK;
                self.put(&bytes[..whole], offset + written as u64)?;
                bytes.drain(..whole);
                written += whole;
            }
        }
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        self.put(&bytes, offset + written as u64)?;
        let length = offset + (written + bytes.len()) as u64;
        let blocks = u32::try_from(length / BLOCK as u64).map_err(io::Error::other)?;
        self.file.set_len(length)?;
        let head = superblock(blocks, start, inodes.order.len() as u64);
        self.file.write_all_at(&head, SUPERBLOCK)?;
        Ok(self.file)
    }
}

/// Bytes that are free on a file's file system, where that knows it: one in memory may not.
fn free(file: &File) -> Option<u64> {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor that is open, and room for the answer.
    let result = unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut found) };
    let known = result == 0 && found.f_blocks > 0;
    known.then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// struct erofs_super_block. The root's inode is the first.
fn superblock(blocks: u32, inodes_at: u32, count: u64) -> [u8; 128] {
    let mut head = [0; 128];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &0u16.to_le_bytes()); // the root's number
    put(16, &count.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(40, &inodes_at.to_le_bytes());
    head
}

/// Where inodes are.
struct Inodes {
    /// Each node once, with the folder that it was found in; folders before what is in them.
    order: Vec<(Index, Index)>,
    /// A node's place in `order`.
    place: Vec<u32>,
    /// By place: where the inode is, counted in slots.
    slots: Vec<u64>,
    /// By place: bytes of attributes, bytes behind them, and the content's first block.
    attributes: Vec<u32>,
    inline: Vec<u32>,
    blocks: Vec<u32>,
}

impl Inodes {
    fn place(tree: &Tree) -> io::Result<Self> {
        let mut inodes = Inodes {
            order: Vec::new(),
            place: Vec::new(),
            slots: Vec::new(),
            attributes: Vec::new(),
            inline: Vec::new(),
            blocks: Vec::new(),
        };
        let mut queue = VecDeque::from([(ROOT, ROOT)]);
        while let Some((index, parent)) = queue.pop_front() {
            if inodes.place.len() <= index {
                inodes.place.resize(index + 1, u32::MAX);
            }
            if inodes.place[index] != u32::MAX {
                continue; // another name of it
            }
            inodes.place[index] = inodes.order.len() as u32;
            inodes.order.push((index, parent));
            queue.extend(tree.children(index).map(|(_, child)| (child, index)));
            let node = tree.node(index);
            let attributes = attributes(node)?.len();
            // What has to be in the inode's own block, with which it may not be longer than one.
            let end = match &node.kind {
                Kind::Folder(_) => names_length(tree, index) % BLOCK,
                Kind::Link(target) => target.len(),
                _ => 0,
            };
            let fits = INODE + attributes + end <= BLOCK;
            inodes.attributes.push(attributes as u32);
            inodes.inline.push(if fits { end as u32 } else { 0 });
            inodes.blocks.push(0);
        }
        Ok(inodes)
    }

    /// Gives them their places: what is behind an inode is in the block where it begins.
    fn number(&mut self) {
        let mut offset = 0usize;
        for (attributes, inline) in self.attributes.iter().zip(&self.inline) {
            let length = INODE + *attributes as usize;
            let all = length + *inline as usize;
            if *inline > 0 && offset % BLOCK + all > BLOCK {
                offset = offset.next_multiple_of(BLOCK);
            }
            self.slots.push((offset / SLOT) as u64);
            offset = (offset + all).next_multiple_of(SLOT);
        }
    }

    fn is_inline(&self, place: usize) -> bool {
        self.inline[place] > 0
    }

    fn number_of(&self, index: Index) -> u64 {
        self.slots[self.place[index] as usize]
    }

    /// What a folder or a link has in place of a file's content.
    fn content<'a>(&self, tree: &'a Tree, place: usize) -> Cow<'a, [u8]> {
        let (index, parent) = self.order[place];
        match &tree.node(index).kind {
            Kind::Folder(_) => self.names(tree, index, parent).into(),
            Kind::Link(target) => target.into(),
            _ => Cow::default(),
        }
    }

    /// A folder's content: blocks, each with the entries in front and their names behind them, all in the names'
    /// order.
    fn names(&self, tree: &Tree, index: Index, parent: Index) -> Vec<u8> {
        let mut all: Vec<(&[u8], Index)> = tree.children(index).collect();
        all.push((b".", index));
        all.push((b"..", parent));
        all.sort_unstable();
        let mut bytes = Vec::new();
        for block in blocks_of(&all) {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            let mut at = block.len() * 12;
            for (name, child) in block {
                bytes.extend(self.number_of(*child).to_le_bytes());
                bytes.extend((at as u16).to_le_bytes());
                bytes.extend([file_type(&tree.node(*child).kind), 0]);
                at += name.len();
            }
            block.iter().for_each(|(name, _)| bytes.extend(*name));
        }
        bytes
    }

    /// struct erofs_inode_extended, its attributes, and what is behind them. `before` bytes of all inodes are written
    /// already.
    fn write(
        &self,
        tree: &Tree,
        place: usize,
        before: usize,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        let node = tree.node(self.order[place].0);
        bytes.resize(self.slots[place] as usize * SLOT - before, 0);
        let attributes = attributes(node)?;
        let content = self.content(tree, place);
        let end = &content[content.len() - self.inline[place] as usize..];
        let (size, word) = match &node.kind {
            Kind::Folder(_) | Kind::Link(_) => (content.len() as u64, self.blocks[place]),
            Kind::File { block, size } => (*size, *block),
            Kind::Character(major, minor) | Kind::Block(major, minor) => {
                // new_encode_dev of linux/kdev_t.h.
                (0, minor & 0xff | major << 8 | (minor & !0xff) << 12)
            }
            Kind::Fifo => (0, 0),
        };
        let layout = if self.is_inline(place) { INLINE } else { PLAIN };
        let count = match attributes.len() {
            0 => 0,
            length => ((length - 12) / 4 + 1) as u16,
        };
        let of = &node.attributes;
        let links = match &node.kind {
            Kind::Folder(children) => {
                let folder = |index: &&Index| matches!(tree.node(**index).kind, Kind::Folder(_));
                2 + children.values().filter(folder).count() as u32
            }
            _ => node.links,
        };
        let start = bytes.len();
        bytes.extend((1 | layout << 1).to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend((of.mode & 0o7777 | mode_of(&node.kind)).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(size.to_le_bytes());
        bytes.extend(word.to_le_bytes());
        bytes.extend((place as u32 + 1).to_le_bytes());
        bytes.extend(of.owner.0.to_le_bytes());
        bytes.extend(of.owner.1.to_le_bytes());
        bytes.extend((of.modified.max(0) as u64).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(links.to_le_bytes());
        bytes.resize(start + INODE, 0);
        bytes.extend(attributes);
        bytes.extend(end);
        Ok(())
    }
}

/// Entries that are in one block together.
fn blocks_of<'a, 'b>(
    mut all: &'a [(&'b [u8], Index)],
) -> impl Iterator<Item = &'a [(&'b [u8], Index)]> {
    std::iter::from_fn(move || {
        let mut room = BLOCK;
        let fitting = all.iter().take_while(|(name, _)| {
            let left = room.checked_sub(12 + name.len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        let count = fitting.count();
        let (block, rest) = all.split_at(count);
        all = rest;
        (count > 0).then_some(block)
    })
}

/// Of a folder's content.
fn names_length(tree: &Tree, index: Index) -> usize {
    let mut all: Vec<(&[u8], Index)> = tree.children(index).collect();
    all.push((b".", index));
    all.push((b"..", index));
    all.sort_unstable();
    let length = |block: &[(&[u8], Index)]| block.iter().map(|(name, _)| 12 + name.len()).sum();
    let lengths: Vec<usize> = blocks_of(&all).map(length).collect();
    match lengths.split_last() {
        Some((last, whole)) => whole.len() * BLOCK + last,
        None => 0,
    }
}

fn mode_of(kind: &Kind) -> u16 {
    let mode = match kind {
        Kind::Folder(_) => libc::S_IFDIR,
        Kind::File { .. } => libc::S_IFREG,
        Kind::Link(_) => return (libc::S_IFLNK | 0o777) as u16,
        Kind::Character(..) => libc::S_IFCHR,
        Kind::Block(..) => libc::S_IFBLK,
        Kind::Fifo => libc::S_IFIFO,
    };
    mode as u16
}

/// EROFS_FT_*, which are those of other file systems (linux/fs_types.h).
fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Folder(_) => 2,
        Kind::Character(..) => 3,
        Kind::Block(..) => 4,
        Kind::Fifo => 5,
        Kind::Link(_) => 7,
    }
}

/// struct erofs_xattr_ibody_header and its entries. Attributes of other kinds than there are numbers for are left
/// out: EROFS has none.
fn attributes(node: &Node) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 12];
    for (name, value) in &node.attributes.extended {
        const KINDS: [(u8, &[u8]); 5] = [
            (1, b"user."),
            (2, b"system.posix_acl_access"),
            (3, b"system.posix_acl_default"),
            (4, b"trusted."),
            (6, b"security."),
        ];
        let kind =
            |(number, prefix): &(u8, &[u8])| Some((*number, name.strip_prefix(*prefix)?.to_vec()));
        let Some((number, rest)) = KINDS.iter().find_map(kind) else {
            continue;
        };
        let (Ok(length), Ok(size)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a file's extended attribute is too long for the image",
            ));
        };
        bytes.extend([length, number]);
        bytes.extend(size.to_le_bytes());
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if bytes.len() > MOST_ATTRIBUTES {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a file has more than 60 KiB of extended attributes",
            ));
        }
    }
    if bytes.len() == 12 {
        bytes.clear();
    }
    Ok(bytes)
}
