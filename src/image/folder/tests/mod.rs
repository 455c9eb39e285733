//! Folders made here, as the host's own file system and the image show them. Devices, owners and mounts need root.

mod cache;
pub mod looks;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use self::looks::{differences, is_root, with_mounted};
use super::make;
use super::walk::walk;
use crate::image::erofs::Content;

fn is_made(result: libc::c_int) {
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn node(path: &Path, mode: u32, device: libc::dev_t) {
    // SAFETY: a path with its end.
    is_made(unsafe { libc::mknod(c_path(path).as_ptr(), mode | 0o640, device) });
}

fn give(path: &Path, name: &str, value: &[u8]) {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    let (bytes, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: a path and a name with their ends, and as many bytes as are told.
    is_made(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), bytes, size, 0) });
}

/// A set of access rights, as the kernel has it (linux/posix_acl_xattr.h): owner, user 1000, group, mask, others.
fn access() -> Vec<u8> {
    let entries = [
        (1u16, 6u16, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn image_of(folder: &Path, at: &Path) -> PathBuf {
    let image = at.join("image.erofs");
    make(folder, &image, &mut |_, _| ()).unwrap();
    image
}

/// Whether a file of the image begins so: each is in blocks of its own.
fn has_content(image: &Path, start: &[u8]) -> bool {
    let bytes = fs::read(image).unwrap();
    bytes.chunks(4096).any(|block| block.starts_with(start))
}

/// One of everything.
fn fill(folder: &Path) {
    let at = |name: &str| folder.join(name);
    for name in ["bin", "etc", "etc/deep", "tmp", "many", "empty"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::set_permissions(at("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    fs::write(at("bin/su"), b"#!/bin/sh\n").unwrap();
    chown(at("bin/su"), Some(1234), Some(0xffff_fffe)).unwrap();
    fs::set_permissions(at("bin/su"), PermissionsExt::from_mode(0o6755)).unwrap();
    fs::write(at("etc/none"), b"").unwrap();
    let large: Vec<u8> = (0..3_000_001u32).map(|n| (n * 7 % 253) as u8).collect();
    fs::write(at("large"), &large).unwrap();
    let hole = File::create(at("hole")).unwrap();
    hole.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", 30 << 20).unwrap();
    fs::hard_link(at("large"), at("etc/deep/large-too")).unwrap();
    fs::hard_link(at("large"), at("many/large-as-well")).unwrap();
    symlink("../../../../../etc/passwd", at("etc/out")).unwrap();
    symlink("/", at("etc/root")).unwrap();
    fs::hard_link(at("etc/out"), at("bin/out-too")).unwrap();
    chown_link(&at("etc/out"));
    for (index, name) in [&b"new\nline"[..], b"\xff\xfe", b"-rf *", b" ", b"..."]
        .iter()
        .enumerate()
    {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(folder.join("many").join(name), format!("{index}")).unwrap();
    }
    fs::write(folder.join("many").join("n".repeat(255)), b"long").unwrap();
    for n in 0..700 {
        fs::write(folder.join(format!("many/some-name-{n}")), format!("{n}")).unwrap();
    }
    node(&at("pipe"), libc::S_IFIFO, 0);
    node(&at("null"), libc::S_IFCHR, libc::makedev(1, 3));
    node(&at("disk"), libc::S_IFBLK, libc::makedev(259, 70_000));
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    give(&at("bin/su"), "security.capability", capability);
    give(&at("large"), "user.colour", b"red");
    give(&at("large"), "user.nothing", b"");
    give(&at("etc/deep"), "user.of-a-folder", &[0, 1, 2, 255]);
    give(&at("etc/deep"), "trusted.own", b"t");
    give(&at("etc/out"), "trusted.of-a-link", b"l");
    give(&at("etc/none"), "system.posix_acl_access", &access());
    give(&at("etc"), "system.posix_acl_default", &access());
    for (seconds, name) in [(86_400, "etc/none"), (5_000_000_000, "hole"), (0, "empty")] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        File::open(at(name)).unwrap().set_modified(time).unwrap();
    }
}

fn chown_link(path: &Path) {
    std::os::unix::fs::lchown(path, Some(77), Some(78)).unwrap();
}

/// Such a folder, in a temporary one; `None` where nobody may make it.
fn filled() -> Option<(tempfile::TempDir, PathBuf)> {
    if !is_root() {
        return None;
    }
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fill(&folder);
    Some((base, folder))
}

#[test]
fn an_image_shows_what_the_folder_shows() {
    let Some((base, folder)) = filled() else {
        return;
    };
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o751)).unwrap();
    let image = image_of(&folder, base.path());
    // Nothing is left of the temporary name, and holes are holes.
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 2);
    let allocated = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&image).unwrap()) * 512;
    assert!(allocated < 8 << 20, "{allocated}");
    looks::check(&image);
    with_mounted(&image, |mounted| {
        assert_eq!(differences(&folder, mounted), Vec::<String>::new());
    });
}

/// The comparison would see it.
#[test]
fn what_differs_is_seen() {
    let Some((base, folder)) = filled() else {
        return;
    };
    let image = image_of(&folder, base.path());
    give(&folder.join("large"), "user.colour", b"blue");
    fs::set_permissions(folder.join("bin/su"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(folder.join("many/ "), b"other").unwrap();
    fs::write(folder.join("new"), b"").unwrap();
    with_mounted(&image, |mounted| {
        let found = differences(&folder, mounted).join(" ");
        for name in ["large", "su", "many/ ", "new"] {
            assert!(found.contains(name), "{name}: {found}");
        }
    });
}

#[test]
fn sockets_whiteouts_and_an_overlays_own_attributes_stay_behind() {
    if !is_root() {
        return;
    }
    // Where the temporary folder is in an overlay, whiteouts can't be made in it.
    let base = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = base.path().join("folder");
    fs::create_dir_all(folder.join("opaque")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
    node(&folder.join("whiteout"), libc::S_IFCHR, 0);
    give(&folder.join("opaque"), "trusted.overlay.opaque", b"y");
    give(&folder.join("opaque"), "trusted.other", b"y");
    let image = image_of(&folder, base.path());
    with_mounted(&image, |mounted| {
        let names: Vec<_> = fs::read_dir(mounted).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        let opaque = looks::extended(&mounted.join("opaque"));
        assert_eq!(opaque, [(b"trusted.other".to_vec(), b"y".to_vec())]);
    });
}

#[test]
fn links_lead_nowhere() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    let outside = base.path().join("outside");
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret content").unwrap();
    fs::write(folder.join("own"), b"own content").unwrap();
    symlink(&outside, folder.join("link")).unwrap();
    symlink(outside.join("secret"), folder.join("secret")).unwrap();
    let image = image_of(&folder, base.path());
    assert!(has_content(&image, b"own content"));
    assert!(!has_content(&image, b"secret content"));
}

#[test]
fn what_has_no_place_in_an_image_is_named() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let refused = |folder: &Path| {
        let image = base.path().join("image");
        let error = make(folder, &image, &mut |_, _| ()).unwrap_err();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1, "{error}");
        error.to_string()
    };
    assert!(refused(&folder.join("absent")).contains("absent"));
    fs::write(folder.join("file"), b"").unwrap();
    assert!(refused(&folder.join("file")).contains("file"));
    // A path of 21 names of 200 bytes: made from within, since no path is that long.
    let name = CString::new("d".repeat(200)).unwrap();
    let mut here = File::open(&folder).unwrap();
    for _ in 0..21 {
        use std::os::fd::{AsRawFd, FromRawFd};
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a name with its end, and a folder that is open.
        here = unsafe {
            is_made(libc::mkdirat(here.as_raw_fd(), name.as_ptr(), 0o755));
            File::from_raw_fd(libc::openat(here.as_raw_fd(), name.as_ptr(), flags))
        };
    }
    assert!(refused(&folder).ends_with("its path is longer than 4096 bytes"));
}

#[test]
fn what_is_kept_in_memory_is_bounded() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for n in 0..10 {
        symlink("t".repeat(1000), folder.join(format!("link-{n}"))).unwrap();
    }
    let walk = |most| {
        let mut content = Content::new(tempfile::tempfile().unwrap());
        walk(&folder, &mut content, base.path(), most, &mut |_, _| ())
    };
    assert!(walk(11_000).is_ok());
    let error = walk(9_000).unwrap_err().to_string();
    assert!(error.contains("folder/link-"), "{error}");
}

/// Files that come, go, shrink and become something else while they are read: the image is whole every time.
#[test]
fn a_folder_may_change_meanwhile() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    let outside = base.path().join("outside");
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), b"secret content").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u32;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                for n in 0..40 {
                    let path = folder.join(format!("{n}"));
                    let _ = fs::remove_file(&path);
                    let _ = fs::remove_dir_all(&path);
                    match (round + n) % 5 {
                        0 => symlink(&outside, &path).unwrap(),
                        1 => {
                            fs::create_dir(&path).unwrap();
                            fs::write(path.join("f"), b"f").unwrap();
                        }
                        2 => fs::write(&path, vec![b'x'; 100_000]).unwrap(),
                        3 => File::create(&path).unwrap().set_len(1 << 20).unwrap(),
                        _ => {}
                    }
                }
            }
        });
        let mut seen = 0;
        for _ in 0..30 {
            let image = base.path().join("image");
            let made = make(&folder, &image, &mut |files, _| seen += files);
            if let Err(error) = made {
                is_over.store(true, Ordering::Relaxed);
                panic!("{error}");
            }
            looks::check(&image);
            if has_content(&image, b"secret content") {
                is_over.store(true, Ordering::Relaxed);
                panic!("a link led out");
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(seen > 0);
    });
}

#[test]
fn a_pipe_and_a_device_are_not_opened() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("folder");
    fs::create_dir(&folder).unwrap();
    // Reading either would never end.
    node(&folder.join("pipe"), libc::S_IFIFO, 0);
    node(&folder.join("zero"), libc::S_IFCHR, libc::makedev(1, 5));
    let image = image_of(&folder, base.path());
    with_mounted(&image, |mounted| {
        let file_type = |name| {
            fs::symlink_metadata(mounted.join(name))
                .unwrap()
                .file_type()
        };
        assert!(file_type("pipe").is_fifo() && file_type("zero").is_char_device());
    });
}
