//! Images that are found again, and those that go.

use std::fs;
use std::path::{Path, PathBuf};

use crate::image::folder::{cached, find};

/// A snapshot as containerd keeps it: a folder of its own, and what is in it in `fs`.
fn snapshot(at: &Path, content: &str) -> PathBuf {
    let folder = at.join("fs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), content).unwrap();
    folder
}

fn make(folders: &[PathBuf], cache: &Path) -> PathBuf {
    cached(folders, &folders[0], cache, u64::MAX, &mut |_, _| ()).unwrap()
}

#[test]
fn an_image_is_found_again_until_the_folder_is_another() {
    let base = tempfile::tempdir().unwrap();
    let cache = base.path().join("cache");
    let seven = base.path().join("7");
    let folders = [
        snapshot(&seven, "one"),
        snapshot(&base.path().join("6"), "lower"),
    ];
    assert_eq!(find(&folders, &cache).unwrap(), None);
    let first = make(&folders, &cache);
    assert_eq!(find(&folders, &cache).unwrap(), Some(first.clone()));
    // What isn't there can't be read: it is the image that was made before.
    let absent = base.path().join("absent");
    let again = cached(&folders, &absent, &cache, u64::MAX, &mut |_, _| ()).unwrap();
    assert_eq!(again, first);
    // Their order counts, and which there are.
    let [upper, lower] = folders.clone();
    assert_eq!(find(&[lower, upper.clone()], &cache).unwrap(), None);
    assert_eq!(find(&[upper], &cache).unwrap(), None);
    // A snapshot of the same name, later: the file system may even give it the same number.
    fs::remove_dir_all(&seven).unwrap();
    snapshot(&seven, "two");
    assert_eq!(find(&folders, &cache).unwrap(), None);
    assert_ne!(make(&folders, &cache), first);
    // Nothing but images stays.
    let names = fs::read_dir(&cache).unwrap().flatten();
    let mut extensions = names.map(|entry| entry.path().extension().unwrap().to_owned());
    assert!(extensions.all(|extension| extension == "erofs"));
    assert!(find(&[absent], &cache).is_err());
}

#[test]
fn it_is_made_once_by_many_at_once() {
    let base = tempfile::tempdir().unwrap();
    let cache = base.path().join("cache");
    let folders = [snapshot(&base.path().join("1"), "one")];
    let made = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let once = &mut |files, _| {
                    assert_eq!(files, 1);
                    made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                };
                cached(&folders, &folders[0], &cache, u64::MAX, once).unwrap();
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
}

#[test]
fn a_cache_of_others_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let folders = [snapshot(&base.path().join("1"), "one")];
    let cache = base.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&cache, everybody).unwrap();
    let error = cached(&folders, &folders[0], &cache, 0, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("other users"));
}
