//! Snapshots that are disks already, and the disks that containers write to.

use std::fs::{self, File};
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
    fs::copy(&image, &layer).unwrap();
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
    let Some(file) = made(scratch(16 << 20, &place.path("cache"))) else {
        return;
    };
    let file = place.hold(file);
    for (options, read_only) in [(["loop", "rw"], false), (["ro", "loop"], true)] {
        let mount = one("ext4", &file, &options);
        let plan = place.prepare(std::slice::from_ref(&mount), How::Block);
        assert!(
            matches!(&plan, Ok(Plan::Disk { path, filesystem, read_only: found })
                if *path == file && filesystem == "ext4" && *found == read_only),
            "{plan:?}"
        );
        let folder = place.folder(&[mount]);
        assert_eq!(fs::write(folder.join("a"), "written").is_err(), read_only);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "written");
        cleanup(&place.path("work"));
        assert!(place.mounts().is_empty());
    }
}

/// `None` where there is no mke2fs.
fn made(made: Result<File, RootfsError>) -> Option<File> {
    if let Err(RootfsError::NoMke2fs) = made {
        println!("NOT RUN: there is no mke2fs");
        return None;
    }
    Some(made.unwrap())
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
    let Some(first) = made(scratch(16 << 30, &cache)) else {
        return;
    };
    let of = first.metadata().unwrap();
    assert_eq!((of.len(), of.mode() & 0o777), (16 << 30, 0o600));
    assert!(of.blocks() * 512 < 1 << 20, "{}", of.blocks() * 512);
    let first = place.hold(first);
    check(&first);
    place_file(&place, &first);
    let second = place.hold(scratch(16 << 30, &cache).unwrap());
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
    // The template for the two; they have no names.
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
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
        let refused = scratch(size, &cache);
        assert!(matches!(refused, Err(RootfsError::Size(_))));
    }
    // The least, and one that is no multiple of a block.
    for size in [4 << 20, (64 << 20) + 1] {
        if let Some(disk) = made(scratch(size, &cache)) {
            assert_eq!(disk.metadata().unwrap().len() % 4096, 0);
            check(&place.hold(disk));
        }
    }
}
