//! Archives that lie.

use super::*;
use crate::image::fuzzing::image_layer;

fn error(entries: &[Packed]) -> String {
    image(&[archive(entries)]).unwrap_err().to_string()
}

#[test]
fn no_path_leads_out_of_the_root() {
    let (_, tree) = image(&[archive(&[
        folder("etc"),
        link(b'2', "up", "../../../etc"),
        link(b'2', "absolute", "/etc"),
        file("up/one", b"1"),
        file("absolute/two", b"2"),
        file("../../three", b"3"),
        file("/etc/../etc/./four", b"4"),
        link(b'1', "five", "../../etc/one"),
    ])])
    .unwrap();
    assert_eq!(names(&tree, "/etc"), ["four", "one", "two"]);
    assert_eq!(
        names(&tree, "/"),
        ["absolute", "etc", "five", "three", "up"]
    );
}

#[test]
fn links_in_circles_and_to_nowhere_are_refused() {
    let circle = [link(b'2', "a", "b"), link(b'2', "b", "a"), file("a/x", b"")];
    assert!(error(&circle).contains("too many links"));
    let itself = [link(b'2', "a", "a/a"), file("a/x", b"")];
    assert!(error(&itself).contains("too many links"));
    let nowhere = [link(b'2', "a", "/nothing"), file("a/x", b"")];
    assert!(error(&nowhere).contains("link to nowhere"));
    let through = [file("f", b""), file("f/x", b"")];
    assert!(error(&through).contains("no folder"));
    assert!(error(&[link(b'1', "a", "b")]).contains("isn't there"));
    assert!(error(&[folder("d"), link(b'1', "a", "d")]).contains("folder"));
    assert!(error(&[file("a/..", b"")]).contains("ends in .."));
    assert!(error(&[file(".", b"")]).contains("root"));
    assert!(error(&[link(b'1', "/", "a")]).contains("isn't there"));
    assert!(error(&[link(b'2', "a", "")]).contains("no target"));
    let long = "n".repeat(256);
    assert!(error(&[file(&long, b"")]).contains("too long"));
}

#[test]
fn a_file_is_linked_to_itself_and_replaced_by_its_twin() {
    let (image, tree) = image(&[archive(&[
        file("a", b"content"),
        link(b'1', "a", "a"),
        link(b'1', "b", "a"),
        file("a", b"other"),
        link(b'1', "a", "b"),
    ])])
    .unwrap();
    assert_eq!(content(&image, &tree, "a").unwrap(), b"content");
    assert_eq!(tree.node(tree.find(b"b").unwrap()).links, 2);
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let good = archive(&[file("a", b"content")]);
    let refused = |bytes: Vec<u8>| image(&[bytes]).unwrap_err().to_string();
    assert!(refused(good[..515].to_vec()).contains("cut"));
    assert!(refused(good[..100].to_vec()).contains("cut"));
    let mut damaged = good.clone();
    damaged[0] ^= 1;
    assert!(refused(damaged).contains("no header"));
    let sparse = Packed {
        kind: b'S',
        ..file("a", b"")
    };
    assert!(error(&[sparse]).contains("sparse"));
    let strange = Packed {
        kind: b'Z',
        ..file("a", b"")
    };
    assert!(error(&[strange]).contains("unknown type"));
    let endless = Packed {
        kind: b'L',
        ..file("a", b"name")
    };
    let many: Vec<u8> = (0..20).flat_map(|_| packed(&endless)).collect();
    assert!(refused(many).contains("too many headers"));
    let huge = vec![b'n'; (1 << 20) + 1];
    let huge = Packed {
        kind: b'L',
        content: &huge,
        ..file("a", b"")
    };
    assert!(error(&[huge]).contains("1 MiB"));
    for records in [
        &b"9"[..],
        b"9999 path=x\n",
        b"0 path=x\n",
        b"8 path\n",
        b"x",
        b"5 a=b",
    ] {
        let header = Packed {
            kind: b'x',
            content: records,
            ..file("a", b"")
        };
        assert!(error(&[header, file("b", b"")]).contains("extended header"));
    }
    let attributes = vec![b'v'; 50_000];
    let rich = Packed {
        extended: &[
            ("SCHILY.xattr.user.a", &attributes),
            ("SCHILY.xattr.user.b", &attributes),
        ],
        ..file("a", b"")
    };
    assert!(error(&[rich]).contains("60 KiB"));
}

/// Each byte of a small archive changed, and noise: an image or a refusal, never more.
#[test]
fn noise_is_an_image_or_refused() {
    let good = archive(&[
        folder("d"),
        Packed {
            extended: &[("SCHILY.xattr.user.c", b"v")],
            ..file("d/f", b"content")
        },
        link(b'1', "d/g", "d/f"),
        link(b'2', "d/h", "f"),
        file("d/.wh.f", b""),
    ]);
    image_layer(&good);
    // Not each byte of the padding.
    let worth = |at: &usize| good[*at] != 0 || at.is_multiple_of(32);
    for at in (0..good.len()).filter(worth) {
        for value in [0, b'7', 0xff] {
            let mut changed = good.clone();
            changed[at] = value;
            image_layer(&changed);
        }
    }
}
