//! What an image may take of the host.

use super::*;

/// Applies layers to a tree that keeps no more than this.
fn tree_of(room: usize, layers: &[Vec<u8>]) -> Result<Tree, LayerError> {
    let mut tree = Tree::of_at_most(room);
    let mut content = Content::new(tempfile::tempfile().unwrap());
    for (index, layer) in layers.iter().enumerate() {
        let stream = Stream(layer.as_slice());
        layer::apply(stream, &mut tree, &mut content, index as u32 + 1)?;
    }
    Ok(tree)
}

#[test]
fn names_links_and_attributes_are_kept_up_to_a_limit() {
    let long = "t".repeat(1000);
    let names: Vec<String> = (0..100).map(|n| format!("{n:0200}")).collect();
    let value = [b'v'; 1000];
    let extended: &[(&str, &[u8])] = &[("SCHILY.xattr.user.a", &value)];
    let links: Vec<_> = names.iter().map(|n| link(b'2', n, &long)).collect();
    let rich = names.iter().map(|n| Packed {
        extended,
        ..file(n, b"")
    });
    // Other names of a file are no nodes.
    let twins = names.iter().map(|name| link(b'1', name, "f"));
    let twins: Vec<_> = [file("f", b"")].into_iter().chain(twins).collect();
    for (entries, each) in [(links, 1200), (rich.collect(), 1200), (twins, 200)] {
        let layer = [archive(&entries)];
        assert!(tree_of(100 * (each + 150), &layer).is_ok());
        let error = tree_of(100 * each, &layer).unwrap_err().to_string();
        assert!(error.contains("1 GiB"), "{error}");
    }
}

#[test]
fn what_is_gone_is_kept_no_longer() {
    let target = "t".repeat(1000);
    let value = [b'v'; 1000];
    let extended: &[(&str, &[u8])] = &[("SCHILY.xattr.user.a", &value)];
    let rich = |of| Packed { extended, ..of };
    let again = |_| {
        [
            rich(folder("d")),
            rich(folder("d/deep")),
            rich(link(b'2', "d/deep/link", &target)),
            rich(file("d/file", b"content")),
            link(b'1', "d/twin", "d/file"),
            // Each in place of another.
            file("d/deep", b""),
            rich(link(b'2', "d/twin", &target)),
        ]
    };
    let entries: Vec<_> = (0..50).flat_map(again).collect();
    let once = archive(&entries);
    let gone = archive(&[file(".wh.d", b"")]);
    let all = [once.clone(), gone.clone(), once.clone(), gone];
    let room = 10_000;
    assert_eq!(tree_of(room, &all).unwrap().whole_room(), room);
    let error = tree_of(room / 2, &[once]).unwrap_err().to_string();
    assert!(error.contains("1 GiB"), "{error}");
}

#[test]
fn an_entry_has_no_more_attributes_than_an_image_has_room_for() {
    // Those too that would be left out.
    let value = [b'v'; 61 << 10];
    let strange = Packed {
        extended: &[("SCHILY.xattr.strange.kind", &value)],
        ..file("a", b"")
    };
    let error = image(&[archive(&[strange])]).unwrap_err().to_string();
    assert!(error.contains("a: has more than 60 KiB"), "{error}");
}

#[test]
fn what_layers_unpack_to_is_bounded() {
    let content = vec![b'x'; 100_000];
    let zeros = vec![0; 1 << 20];
    let entries = [file("a", &content), file("a", &content), file("z", &zeros)];
    let made = |room| {
        let mut tree = Tree::default();
        let content = Content::new(tempfile::tempfile().unwrap());
        let mut content = content.with_room(room);
        let archive = archive(&entries);
        layer::apply(Stream(archive.as_slice()), &mut tree, &mut content, 1)?;
        Ok::<_, LayerError>(content.finish(&tree)?)
    };
    // Twice 25 blocks, and one of inodes; holes are none.
    assert!(made(51 << 12).is_ok());
    for room in [10 << 12, 49 << 12, 50 << 12] {
        let error = made(room).unwrap_err().to_string();
        assert!(error.starts_with("the image"), "{error}");
    }
}
