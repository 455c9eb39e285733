//! Folders: overlays, binds, several mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use containerd_shim::protos::types::mount::Mount;

use super::{How, Place, can_mount, filled, one};
use crate::rootfs::{Plan, cleanup};

/// Two committed layers, and an active one; the mount as the overlay snapshotter writes it.
fn overlay(place: &Place) -> Mount {
    let lower = filled(&place.path("1/fs"), &[("a", "lower"), ("b", "lower")]);
    let middle = filled(&place.path("2/fs"), &[("b", "middle")]);
    let upper = filled(&place.path("3/fs"), &[]);
    let work = filled(&place.path("3/work"), &[]);
    let options = [
        "index=off".to_owned(),
        format!("workdir={}", work.display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={}:{}", middle.display(), lower.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    one("overlay", "overlay".as_ref(), &options)
}

#[test]
fn an_overlay_of_committed_layers_is_made_once() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mount = overlay(&place);
    let image = place.image(std::slice::from_ref(&mount));
    assert!(image.starts_with(place.path("cache")));
    assert_eq!(place.content(&image, "a").as_deref(), Some("lower"));
    assert_eq!(place.content(&image, "b").as_deref(), Some("middle"));
    let made = fs::metadata(&image).unwrap();
    assert_eq!(place.image(std::slice::from_ref(&mount)), image);
    assert_eq!(fs::metadata(&image).unwrap().ino(), made.ino());
    assert!(place.mounts().is_empty());
    // The snapshot's own folders are as they were: nothing was mounted on them to be written.
    assert_eq!(fs::read_dir(place.path("3/work")).unwrap().count(), 0);

    // What a container has written is in its image, and in no other's.
    fs::write(place.path("3/fs/b"), "upper").unwrap();
    let own = place.image(std::slice::from_ref(&mount));
    assert!(own.starts_with("/proc"), "it has no name: {own:?}");
    assert_eq!(place.content(&own, "b").as_deref(), Some("upper"));
    assert_eq!(place.content(&image, "b").as_deref(), Some("middle"));
    assert!(place.mounts().is_empty());
}

#[test]
fn a_view_and_one_layer_alone_are_overlays_too() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    overlay(&place);
    let lower = format!("lowerdir={}", place.path("1/fs").display());
    let both = format!("{lower}:{}", place.path("2/fs").display());
    let view = place.image(&[one("overlay", "overlay".as_ref(), &["ro", &both])]);
    assert_eq!(place.content(&view, "b").as_deref(), Some("lower"));
    let upper = format!("upperdir={}", place.path("3/fs").display());
    let work = format!("workdir={}", place.path("3/work").display());
    let alone = place.image(&[one("overlay", "overlay".as_ref(), &[&work, &upper, &lower])]);
    assert_eq!(place.content(&alone, "a").as_deref(), Some("lower"));
    assert_ne!(view, alone);
}

#[test]
fn a_hundred_layers_of_long_paths_are_mounted() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let all: Vec<String> = (0..100)
        .map(|n| {
            let folder = place.path(&format!("{}-{n}/fs", "snapshot".repeat(10)));
            let content = n.to_string();
            let files = [("top", content.as_str()), ("bottom", "x")];
            // The name of each but the lowest is covered.
            filled(&folder, &files[..if n == 99 { 2 } else { 1 }])
        })
        .map(|folder| folder.display().to_string())
        .collect();
    filled(&place.path("upper"), &[]);
    filled(&place.path("work-of-upper"), &[]);
    let options = [
        format!("upperdir={}", place.path("upper").display()),
        format!("workdir={}", place.path("work-of-upper").display()),
        format!("lowerdir={}", all.join(":")),
    ];
    assert!(options[2].len() > 8192);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mount = one("overlay", "overlay".as_ref(), &options);
    let image = place.image(std::slice::from_ref(&mount));
    assert_eq!(place.content(&image, "top").as_deref(), Some("0"));
    assert_eq!(place.content(&image, "bottom").as_deref(), Some("x"));
    let folder = place.folder(&[mount]);
    assert_eq!(fs::read_to_string(folder.join("bottom")).unwrap(), "x");
    fs::write(folder.join("new"), "new").unwrap();
    assert!(place.path("upper/new").exists());
    cleanup(&place.path("work"));
    assert!(place.mounts().is_empty());
}

#[test]
fn shared_is_what_containerd_means() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mount = overlay(&place);
    let folder = place.folder(std::slice::from_ref(&mount));
    assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "middle");
    fs::write(folder.join("b"), "written").unwrap();
    assert_eq!(fs::read_to_string(place.path("3/fs/b")).unwrap(), "written");
    assert_eq!(place.mounts().len(), 1);
    cleanup(&place.path("work"));
    assert!(place.mounts().is_empty());

    let source = place.path("1/fs");
    let folder = place.folder(&[one("bind", &source, &["rbind", "ro"])]);
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "lower");
    assert!(fs::write(folder.join("a"), "x").is_err());
    assert!(fs::write(source.join("new"), "x").is_ok());
    cleanup(&place.path("work"));

    // Nothing is left of what can't be mounted whole.
    let wrong = one("overlay", "overlay".as_ref(), &["lowerdir=/not/there"]);
    let wrong = [one("bind", &source, &["bind"]), wrong];
    let error = place.prepare(&wrong, How::Shared).unwrap_err().to_string();
    assert!(error.starts_with("mounting overlay of overlay"), "{error}");
    assert!(place.mounts().is_empty());
}

#[test]
fn a_bind_is_imaged_each_time() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let source = filled(&place.path("native"), &[("a", "one")]);
    for options in [["rbind", "rw"], ["rbind", "ro"]] {
        let mount = one("bind", &source, &options);
        fs::write(source.join("a"), "one").unwrap();
        let image = place.image(std::slice::from_ref(&mount));
        assert_eq!(place.content(&image, "a").as_deref(), Some("one"));
        // Deep in it nothing shows that it has changed.
        fs::write(source.join("a"), "two").unwrap();
        let image = place.image(&[mount]);
        assert_eq!(place.content(&image, "a").as_deref(), Some("two"));
    }
    assert_eq!(fs::read_dir(place.path("cache")).unwrap().count(), 0);
}

#[test]
fn no_mounts_are_the_bundles_folder() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let bundle = filled(&place.path("bundle/rootfs"), &[("a", "bundle")]);
    assert_eq!(place.folder(&[]), bundle);
    let image = place.image(&[]);
    assert_eq!(place.content(&image, "a").as_deref(), Some("bundle"));
    fs::remove_dir_all(&bundle).unwrap();
    for how in [How::Block, How::Shared] {
        let error = place.prepare(&[], how).unwrap_err().to_string();
        assert!(error.contains("there are no mounts"), "{error}");
    }
}

#[test]
fn several_mounts_are_one_view_and_their_places_are_in_it() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let root = filled(&place.path("root"), &[("a", "root")]);
    let data = filled(&place.path("data"), &[("b", "data")]);
    let outside = filled(&place.path("outside"), &[]);
    fs::create_dir(root.join("in")).unwrap();
    // One that a container could have made: it leads to the same folder of the root.
    symlink(PathBuf::from("/in"), root.join("link")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    let mounts = |target: &str| {
        let mut second = one("bind", &data, &["rbind", "rw"]);
        second.target = target.to_owned();
        [one("bind", &root, &["rbind", "rw"]), second]
    };
    for target in ["/in", "link"] {
        let image = place.image(&mounts(target));
        assert_eq!(place.content(&image, "a").as_deref(), Some("root"));
        assert_eq!(place.content(&image, "in/b").as_deref(), Some("data"));
    }
    assert!(place.prepare(&mounts("out"), How::Shared).is_err());
    assert!(place.mounts().is_empty());
    let folder = place.folder(&mounts("in"));
    assert!(folder.join("in/b").exists());
    assert_eq!(place.mounts().len(), 2);
    cleanup(&place.path("work"));
    assert!(place.mounts().is_empty() && root.join("in").exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let refused = |options: &[&str]| {
        let mount = one("overlay", "overlay".as_ref(), options);
        place.prepare(&[mount], How::Block).unwrap_err().to_string()
    };
    assert!(refused(&[]).contains("no lowerdir"));
    assert!(refused(&["lowerdir=relative:/a"]).contains("absolute"));
    assert!(refused(&["lowerdir=/not/there"]).contains("/not/there"));
    let absent = one("erofs", "/not/there.erofs".as_ref(), &["ro", "loop"]);
    let error = place.prepare(&[absent], How::Block).unwrap_err();
    assert!(error.to_string().starts_with("/not/there.erofs"));
    assert!(matches!(
        place.prepare(&[], How::Shared),
        Ok(Plan::Folder { .. })
    ));
}
