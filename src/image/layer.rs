//! A layer onto the tree: its archive's entries, and what it takes away from those beneath (whiteouts: OCI image
//! specification, layer.md).

use std::io::{self, Read};

use super::erofs::Content;
use super::error::LayerError;
use super::tar::{Archive, Entry, EntryKind, Skip};
use super::tree::{Attributes, Kind, Tree, split};

/// Before the name of what goes.
const WHITEOUT: &[u8] = b".wh.";
/// In a folder whose content goes.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of a file system that layers were once made by.
const AUFS: &[u8] = b".wh..wh.";

/// The most bytes of attributes of one entry, as EROFS keeps them (four more for each).
const MOST_ATTRIBUTES: usize = 60 << 10;

/// Reads a layer to its end; `layer` counts from 1.
pub fn apply<R: Skip>(
    stream: R,
    tree: &mut Tree,
    content: &mut Content,
    layer: u32,
) -> Result<R, LayerError> {
    let mut archive = Archive::new(stream);
    while let Some(entry) = archive.entry()? {
        take(&entry, &mut archive, tree, content, layer)?;
        for (block, size) in tree.take_dead() {
            content.forget(block, size);
        }
    }
    Ok(archive.into_inner())
}

fn take<R: Skip>(
    entry: &Entry,
    archive: &mut Archive<R>,
    tree: &mut Tree,
    content: &mut Content,
    layer: u32,
) -> Result<(), LayerError> {
    let named = |what| LayerError::Entry {
        path: entry.path.clone(),
        what,
    };
    let (folder, name) = split(&entry.path)
        .ok_or_else(|| named("is no path that a file can have (too long, or ends in ..)"))?;
    if name == OPAQUE {
        return tree.opaque(folder, layer).map_err(named);
    }
    if name.starts_with(AUFS) {
        return Ok(());
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        return tree.whiteout(folder, gone, layer).map_err(named);
    }
    let of_each = |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len() + 4;
    if entry.attributes.iter().map(of_each).sum::<usize>() > MOST_ATTRIBUTES {
        return Err(named("has more than 60 KiB of extended attributes"));
    }
    let (major, minor) = entry.device;
    let kind = match entry.kind {
        EntryKind::Hard => return tree.link(&entry.path, &entry.link, layer).map_err(named),
        EntryKind::Folder => Kind::Folder(Default::default()),
        EntryKind::Symbolic => {
            if entry.link.is_empty() || entry.link.len() >= 4096 {
                return Err(named("is a link with no target, or one that is too long"));
            }
            Kind::Link(entry.link.clone())
        }
        EntryKind::Character => Kind::Character(major, minor),
        EntryKind::Block => Kind::Block(major, minor),
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::File => Kind::File {
            block: content.write(&mut Rest(archive), entry.size)?,
            size: entry.size,
        },
    };
    let attributes = Attributes {
        mode: entry.mode,
        owner: entry.owner,
        modified: entry.modified,
        extended: entry.attributes.clone(),
    };
    tree.put(&entry.path, kind, attributes, layer)
        .map_err(named)
}

/// The content of the entry that was read last.
struct Rest<'a, R>(&'a mut Archive<R>);

impl<R: Skip> Read for Rest<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}
