//! Layers that are made here, byte by byte, and images of them; `fsck.erofs` looks at those, where this host has it.

mod bounds;
mod hostile;
mod links;
mod source;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use super::cache::unpack;
use super::erofs::Content;
use super::error::LayerError;
use super::layer;
use super::tar::Stream;
use super::tree::{Kind, Tree};

/// An entry of an archive.
pub(super) struct Packed<'a> {
    pub path: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub content: &'a [u8],
    pub owner: (u32, u32),
    pub mode: u32,
    pub extended: &'a [(&'a str, &'a [u8])],
}

impl Default for Packed<'_> {
    fn default() -> Self {
        Packed {
            path: b"x",
            kind: b'0',
            link: b"",
            content: b"",
            owner: (0, 0),
            mode: 0o644,
            extended: &[],
        }
    }
}

pub(super) fn file<'a>(path: &'a str, content: &'a [u8]) -> Packed<'a> {
    Packed {
        path: path.as_bytes(),
        content,
        ..Packed::default()
    }
}

pub(super) fn folder(path: &str) -> Packed<'_> {
    Packed {
        path: path.as_bytes(),
        kind: b'5',
        mode: 0o755,
        ..Packed::default()
    }
}

pub(super) fn link<'a>(kind: u8, path: &'a str, to: &'a str) -> Packed<'a> {
    Packed {
        path: path.as_bytes(),
        kind,
        link: to.as_bytes(),
        ..Packed::default()
    }
}

fn header(path: &[u8], kind: u8, size: usize, of: &Packed) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{:07o}\0", of.mode).as_bytes());
    put(
        108,
        format!("{:07o}\0", of.owner.0 & 0o7_777_777).as_bytes(),
    );
    put(
        116,
        format!("{:07o}\0", of.owner.1 & 0o7_777_777).as_bytes(),
    );
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000777\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &of.link[..of.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, b"0000005\0");
    put(337, b"0000401\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// One entry, with an extended header in front if it needs one.
pub(super) fn packed(of: &Packed) -> Vec<u8> {
    let mut records = Vec::new();
    let mut record = |name: &str, value: &[u8]| {
        let body = [name.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 3;
        while length != format!("{length} ").len() + body.len() {
            length = format!("{length} ").len() + body.len();
        }
        records.extend(format!("{length} ").bytes());
        records.extend(body);
    };
    if of.path.len() > 100 {
        record("path", of.path);
    }
    if of.link.len() > 100 {
        record("linkpath", of.link);
    }
    for (name, value) in of.extended {
        record(name, value);
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        bytes.extend(header(b"pax", b'x', records.len(), &Packed::default()));
        bytes.extend(padded(records));
    }
    bytes.extend(header(of.path, of.kind, of.content.len(), of));
    bytes.extend(padded(of.content.to_vec()));
    bytes
}

pub(super) fn archive(entries: &[Packed]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(packed).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// An image of these layers, and the tree that it is of.
pub(super) fn image(layers: &[Vec<u8>]) -> Result<(tempfile::NamedTempFile, Tree), LayerError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut tree = Tree::default();
    let mut content = Content::new(file.reopen().unwrap());
    for (index, layer) in layers.iter().enumerate() {
        let stream = unpack(layer.as_slice(), "")?;
        layer::apply(Stream(stream), &mut tree, &mut content, index as u32 + 1)?;
    }
    content.finish(&tree)?;
    Ok((file, tree))
}

/// The content of a file of the image.
fn content(image: &tempfile::NamedTempFile, tree: &Tree, path: &str) -> Option<Vec<u8>> {
    let Kind::File { block, size } = tree.node(tree.find(path.as_bytes())?).kind else {
        return None;
    };
    let mut bytes = vec![0; size as usize];
    let file = File::open(image.path()).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, u64::from(block) * 4096).unwrap();
    Some(bytes)
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let folder = tree.find(path.as_bytes()).unwrap();
    let names = tree.children(folder);
    names
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// Has erofs-utils look at it, and unpack it. False where they aren't there.
fn extracted(image: &Path, to: &Path) -> bool {
    let mut fsck = Command::new("fsck.erofs");
    fsck.arg(format!("--extract={}", to.display()));
    match fsck.arg("--overwrite").arg(image).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{text}");
            true
        }
        Err(_) => false,
    }
}

/// Two layers, as the fuzz target takes them.
pub(crate) fn seed() -> Vec<u8> {
    let lower = archive(&[
        folder("d"),
        Packed {
            extended: &[("SCHILY.xattr.user.c", b"v"), ("path", b"d/f")],
            ..file("short", b"content")
        },
        link(b'1', "d/g", "d/f"),
        link(b'2', "d/h", "../d"),
        link(b'3', "d/null", ""),
    ]);
    let upper = archive(&[
        file("d/.wh.f", b""),
        file("d/h/new", b"x"),
        file("d/.wh..wh..opq", b""),
    ]);
    [&lower[..], b"\xffLAYER\xff", &upper].concat()
}

#[test]
fn layers_replace_and_take_away() {
    let lower = archive(&[
        folder("a/"),
        file("a/gone", b"1"),
        file("a/stays", b"2"),
        folder("opaque"),
        file("opaque/old", b"3"),
        folder("opaque/deep"),
        file("opaque/deep/old", b"3"),
        file("changes", b"before"),
        file("becomes-folder", b"x"),
        folder("becomes-file"),
        file("becomes-file/inner", b"x"),
    ]);
    let upper = archive(&[
        file("a/.wh.gone", b""),
        file("a/.wh.never-there", b""),
        // What the layer itself has stays, whichever comes first.
        file("opaque/new", b"4"),
        file("opaque/deep/new", b"5"),
        file("opaque/.wh..wh..opq", b""),
        file("changes", b"after"),
        folder("becomes-folder"),
        file("becomes-file", b"y"),
        file(".wh..wh.plnk", b""),
    ]);
    let (image, tree) = image(&[lower, upper]).unwrap();
    assert_eq!(
        names(&tree, "/"),
        ["a", "becomes-file", "becomes-folder", "changes", "opaque"]
    );
    assert_eq!(names(&tree, "a"), ["stays"]);
    assert_eq!(names(&tree, "opaque"), ["deep", "new"]);
    assert_eq!(names(&tree, "opaque/deep"), ["new"]);
    assert!(names(&tree, "becomes-folder").is_empty());
    let of = |path| content(&image, &tree, path).unwrap();
    assert_eq!(of("changes"), b"after");
    assert_eq!(of("becomes-file"), b"y");
}

#[test]
fn what_is_packed_comes_out_of_the_image() {
    let long = "d/".to_owned() + &"n".repeat(200);
    let large: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let mut sparse = vec![0; 5 * 4096];
    sparse[3 * 4096 + 7] = 9;
    let many: Vec<String> = (0..500).map(|n| format!("many/name-number-{n}")).collect();
    let mut entries = vec![
        folder("d"),
        file(&long, b"long"),
        file("large", &large),
        file("sparse", &sparse),
        file("empty", b""),
        link(b'2', "to-large", "large"),
        link(b'1', "twin", "large"),
        folder("many"),
        Packed {
            owner: (12_345, 54_321),
            mode: 0o4755,
            extended: &[
                ("SCHILY.xattr.user.colour", b"red"),
                ("SCHILY.xattr.security.capability", b"\x01\x00\x00\x02x"),
                ("SCHILY.xattr.strange.kind", b"left out"),
                ("uid", b"3000000000"),
            ],
            ..file("owned", b"o")
        },
    ];
    entries.extend(many.iter().map(|name| file(name, name.as_bytes())));
    let (image, tree) = image(&[archive(&entries)]).unwrap();
    let of = |path: &str| content(&image, &tree, path).unwrap();
    assert_eq!(of(&long), b"long");
    assert!(of("twin") == large && of("sparse") == sparse);
    let owned = tree.node(tree.find(b"owned").unwrap());
    assert_eq!(owned.attributes.owner, (3_000_000_000, 54_321));
    assert_eq!(owned.attributes.mode, 0o4755);
    assert_eq!(tree.node(tree.find(b"twin").unwrap()).links, 2);

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    if !extracted(image.path(), &out) {
        return;
    }
    assert!(fs::read(out.join("large")).unwrap() == large);
    assert!(fs::read(out.join("twin")).unwrap() == large);
    assert!(fs::read(out.join("sparse")).unwrap() == sparse);
    assert_eq!(fs::read(out.join(&long)).unwrap(), b"long");
    assert_eq!(
        fs::read_link(out.join("to-large")).unwrap(),
        Path::new("large")
    );
    for name in &many {
        assert_eq!(fs::read(out.join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn layers_may_be_packed_or_not() {
    use std::io::Write;
    let plain = archive(&[file("f", b"content")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zstd = ruzstd::encoding::compress_to_vec(plain.as_slice(), level);
    // Several frames are one stream, and one that isn't data is passed over.
    let (first, second) = plain.split_at(700);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let frames = [
        ruzstd::encoding::compress_to_vec(first, level),
        skippable,
        ruzstd::encoding::compress_to_vec(second, level),
    ]
    .concat();
    for packed in [&plain, &gzip, &zstd, &frames] {
        let mut bytes = Vec::new();
        let mut stream = unpack(packed.as_slice(), "").unwrap();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(bytes == plain);
    }
    let unknown = unpack(
        plain.as_slice(),
        "application/vnd.oci.image.layer.v1.tar+brotli",
    );
    assert!(matches!(unknown, Err(LayerError::MediaType(_))));
}
