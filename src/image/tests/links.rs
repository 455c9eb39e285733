//! Links whose targets have no room behind their inodes, read back as Linux reads them.

use super::*;
use crate::image::erofs::Content;
use crate::image::tree::{Attributes, Index, ROOT};

/// An image, byte for byte.
struct Reader(Vec<u8>);

impl Reader {
    fn number<const N: usize>(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.0[at..at + N]);
        u64::from_le_bytes(bytes)
    }

    /// The content of an inode by its number (struct erofs_inode_extended): all of it is in blocks, or its end behind
    /// the inode and what attributes it has, in the same block.
    fn content(&self, number: u64) -> Vec<u8> {
        let inode = self.number::<4>(1024 + 40) as usize * 4096 + number as usize * 32;
        let layout = self.number::<2>(inode) >> 1;
        let size = self.number::<8>(inode + 8) as usize;
        let block = self.number::<4>(inode + 16) as usize;
        let attributes = match self.number::<2>(inode + 2) as usize {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let end = match layout {
            2 => size % 4096,
            _ => 0,
        };
        assert!(size == end || block > 0, "in the superblock's block");
        let at = inode + 64 + attributes;
        assert!(end == 0 || inode / 4096 == (at + end - 1) / 4096);
        let whole = &self.0[block * 4096..][..size - end];
        [whole, &self.0[at..at + end]].concat()
    }

    /// The numbers of what is in the root, by name.
    fn root(&self) -> Vec<(Vec<u8>, u64)> {
        let content = self.content(0);
        let mut all = Vec::new();
        for block in content.chunks(4096) {
            let entry = |n: usize| &block[n * 12..][..12];
            let at = |n: usize| u16::from_le_bytes([entry(n)[8], entry(n)[9]]) as usize;
            let count = at(0) / 12;
            for n in 0..count {
                let end = if n + 1 < count {
                    at(n + 1)
                } else {
                    block.len()
                };
                let name = block[at(n)..end].split(|byte| *byte == 0).next().unwrap();
                let number = u64::from_le_bytes(entry(n)[..8].try_into().unwrap());
                all.push((name.to_vec(), number));
            }
        }
        all
    }
}

/// Reads every link of the root back.
fn check(tree: &Tree) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content = Content::new(file.reopen().unwrap());
    content.finish(tree).unwrap();
    let reader = Reader(fs::read(file.path()).unwrap());
    let found = reader.root();
    assert_eq!(found.len(), 2 + tree.children(ROOT).count());
    for (name, number) in found {
        if let Some(Kind::Link(target)) = tree.find(&name).map(|n: Index| &tree.node(n).kind) {
            assert!(reader.content(number) == *target, "{}", target.len());
        }
    }
    file
}

fn put(tree: &mut Tree, name: &str, target: usize, attribute: usize) {
    let attributes = Attributes {
        extended: match attribute {
            0 => Vec::new(),
            size => vec![(b"user.a".to_vec(), vec![b'v'; size])],
        },
        ..Attributes::default()
    };
    let target = name.bytes().cycle().take(target).collect();
    tree.put(name.as_bytes(), Kind::Link(target), attributes, 1)
        .unwrap();
}

#[test]
fn targets_of_any_length_are_read_back() {
    let mut tree = Tree::default();
    let lengths = [1, 4031, 4032, 4033, 4094, 4095];
    for (n, length) in lengths.into_iter().enumerate() {
        put(&mut tree, &format!("long-{n}"), length, 0);
        put(&mut tree, &format!("rich-{n}"), length, 4010);
        put(&mut tree, &format!("very-rich-{n}"), length, 50_000);
    }
    let image = check(&tree);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    if extracted(image.path(), &out) {
        let link = fs::read_link(out.join("long-5")).unwrap();
        assert_eq!(link.as_os_str().len(), 4095);
    }
}

/// More than are written at once.
#[test]
fn many_long_targets_are_read_back() {
    let mut tree = Tree::default();
    for n in 0..17_000 {
        put(&mut tree, &format!("{n}"), 4095, 0);
    }
    check(&tree);
}
