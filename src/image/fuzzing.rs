//! What fuzzing does to layers: any archive becomes an image or is refused, and what becomes of it holds together.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::cache::unpack;
use super::erofs::Content;
use super::layer;
use super::tar::Stream;
use super::tree::{Index, Kind, MOST_KEPT, ROOT, Tree};

/// Takes bytes for layers, cut at a mark, as they come from a registry.
pub fn image_layer(data: &[u8]) {
    let mut tree = Tree::default();
    let mut content = Content::new(memory());
    for (index, part) in layers(data).enumerate() {
        let Ok(stream) = unpack(part, "") else { return };
        let limited = std::io::Read::take(stream, 1 << 20);
        let applied = layer::apply(Stream(limited), &mut tree, &mut content, index as u32 + 1);
        if applied.is_err() {
            break;
        }
    }
    check(&tree);
    if let Ok(image) = content.finish(&tree) {
        check_image(&image);
    }
}

/// The mark is none that a header has.
fn layers(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    const MARK: &[u8] = b"\xffLAYER\xff";
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let all = rest?;
        let at = all.windows(MARK.len()).position(|bytes| bytes == MARK);
        rest = at.map(|at| &all[at + MARK.len()..]);
        Some(at.map_or(all, |at| &all[..at]))
    })
}

fn memory() -> File {
    use std::os::fd::FromRawFd;
    // SAFETY: a string; the descriptor is new.
    unsafe {
        let fd = libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    }
}

/// Each node that there is a way to has as many links as there are ways, and folders one. What is gone keeps nothing.
fn check(tree: &Tree) {
    let mut seen: HashMap<Index, u32> = HashMap::from([(ROOT, 1)]);
    let mut open = vec![ROOT];
    while let Some(folder) = open.pop() {
        for (name, child) in tree.children(folder) {
            assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
            assert!(name != b"." && name != b".." && !name.contains(&b'/'));
            let count = seen.entry(child).or_default();
            *count += 1;
            if *count == 1 {
                open.push(child);
            }
        }
    }
    for (index, count) in seen {
        let node = tree.node(index);
        assert_eq!(node.links, count, "{node:?}");
        assert!(count == 1 || !matches!(node.kind, Kind::Folder(_)));
    }
    assert_eq!(tree.whole_room(), MOST_KEPT);
}

/// The image begins as it must, and is as long as it says.
fn check_image(image: &File) {
    let mut head = [0; 128];
    image.read_exact_at(&mut head, 1024).unwrap();
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    assert_eq!(word(0), 0xe0f5_e1e2);
    assert_eq!(u64::from(word(36)) * 4096, image.metadata().unwrap().len());
    let mut mode = [0; 2];
    let root = u64::from(word(40)) * 4096;
    image.read_exact_at(&mut mode, root + 4).unwrap();
    assert_eq!(u16::from_le_bytes(mode) & 0o170_000, 0o040_000);
}
