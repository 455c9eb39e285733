//! Snapshots that are disks already, and the disks that containers write to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::{How, Place, can_mount, filled, one};
use crate::rootfs::{Plan, RootfsError, alone, cleanup, scratch};

#[test]
fn images_are_handed_on_as_they_are() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let source = filled(&place.path("native"), &[("a", "content")]);
    let image = place.image(&[one("bind", &source, &["rbind"])]);
    let layer = place.path("layer.erofs");
    fs::rename(&image, &layer).unwrap();
    let mount = one("erofs", &layer, &["ro", "loop"]);
    assert_eq!(place.image(std::slice::from_ref(&mount)), layer);
    let folder = place.folder(&[mount]);
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "content");
    cleanup(&place.path("work"));
    // With options of the file system's own it is for the kernel to look into.
    let image = place.image(&[one("erofs", &layer, &["ro", "loop", "user_xattr"])]);
    assert_ne!(image, layer);
    assert_eq!(place.content(&image, "a").as_deref(), Some("content"));
    assert!(place.mounts().is_empty());
}

#[test]
fn a_raw_ext4_is_a_disk() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let file = place.path("blockfile");
    if !is_made(scratch(&file, 16 << 20, &place.path("cache"))) {
        return;
    }
    for (options, read_only) in [(["loop", "rw"], false), (["ro", "loop"], true)] {
        let mount = one("ext4", &file, &options);
        let plan = place.prepare(std::slice::from_ref(&mount), How::Block);
        let disk = Plan::Disk {
            path: file.clone(),
            filesystem: "ext4".to_owned(),
            read_only,
        };
        assert_eq!(plan.unwrap(), disk);
        let folder = place.folder(&[mount]);
        assert_eq!(fs::write(folder.join("a"), "written").is_err(), read_only);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "written");
        cleanup(&place.path("work"));
        assert!(place.mounts().is_empty());
    }
}

/// False where there is no mke2fs.
fn is_made(made: Result<(), RootfsError>) -> bool {
    if let Err(RootfsError::NoMke2fs) = made {
        println!("NOT RUN: there is no mke2fs");
        return false;
    }
    made.unwrap();
    true
}

fn check(disk: &Path) {
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output();
    match checked {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(error) => println!("NOT RUN: e2fsck: {error}"),
    }
}

#[test]
fn a_scratch_disk_is_empty_sparse_and_its_containers_own() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let cache = place.path("cache");
    let [first, second] = [place.path("first"), place.path("second")];
    if !is_made(scratch(&first, 16 << 30, &cache)) {
        return;
    }
    let of = fs::metadata(&first).unwrap();
    assert_eq!((of.len(), of.mode() & 0o777), (16 << 30, 0o600));
    assert!(of.blocks() * 512 < 1 << 20, "{}", of.blocks() * 512);
    check(&first);
    place_file(&place, &first);
    scratch(&second, 16 << 30, &cache).unwrap();
    check(&second);
    alone(|| {
        let folder = place.folder(&[one("ext4", &second, &["loop"])]);
        let names = fs::read_dir(folder).unwrap().flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert!(names.iter().all(|name| name == "lost+found"), "{names:?}");
        cleanup(&place.path("work"));
        Ok(())
    })
    .unwrap();
    // One template for the two, and never over a file that is there.
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    assert!(scratch(&second, 16 << 30, &cache).is_err());
    assert!(second.exists());
}

fn place_file(place: &Place, disk: &Path) {
    alone(|| {
        let folder = place.folder(&[one("ext4", disk, &["loop"])]);
        fs::write(folder.join("file"), vec![7; 3 << 20]).unwrap();
        cleanup(&place.path("work"));
        Ok(())
    })
    .unwrap();
    check(disk);
}

#[test]
fn sizes_of_no_disk_are_refused() {
    let place = Place::new();
    let cache = place.path("cache");
    for size in [0, (4 << 20) - 1, 17 << 40, u64::MAX] {
        let refused = scratch(&place.path("disk"), size, &cache);
        assert!(matches!(refused, Err(RootfsError::Size(_))));
    }
    // The least, and one that is no multiple of a block.
    for size in [4 << 20, (64 << 20) + 1] {
        let path = place.path(&format!("disk-{size}"));
        if is_made(scratch(&path, size, &cache)) {
            assert_eq!(fs::metadata(&path).unwrap().len() % 4096, 0);
            check(&path);
        }
    }
}
