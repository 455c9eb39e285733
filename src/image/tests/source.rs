//! Layouts and archives, found or refused, and the cache.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::*;
use crate::image::source::hex;
use crate::image::{ImageError, Root, Source, cache};

/// A layout of one image, in a folder.
struct Layout(tempfile::TempDir);

impl Layout {
    fn of(layers: &[Vec<u8>], change: impl FnOnce(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        let blob = |bytes: &[u8]| {
            let digest = hex(&Sha256::digest(bytes));
            fs::write(folder.path().join("blobs/sha256").join(&digest), bytes).unwrap();
            format!("sha256:{digest}")
        };
        let digests: Vec<_> = layers
            .iter()
            .map(|layer| format!("{:?}", blob(layer)))
            .collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            _ => "arm64",
        };
        let config = format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\
             \"config\":{{\"Cmd\":[\"/x\"],\"User\":\"me\"}},\"rootfs\":{{\"diff_ids\":[{}]}}}}",
            digests.join(",")
        );
        let config = blob(change(config).as_bytes());
        let layers: Vec<_> = digests
            .iter()
            .map(|d| format!("{{\"digest\":{d}}}"))
            .collect();
        let manifest = format!(
            "{{\"config\":{{\"digest\":\"{config}\"}},\"layers\":[{}]}}",
            layers.join(",")
        );
        let manifest = blob(manifest.as_bytes());
        let index = format!(
            "{{\"manifests\":[{{\"digest\":\"{manifest}\",\"annotations\":\
             {{\"org.opencontainers.image.ref.name\":\"name:v1\"}}}}]}}"
        );
        fs::write(folder.path().join("index.json"), index).unwrap();
        Layout(folder)
    }

    fn path(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }

    /// Another index: of these digests.
    fn index(&self, digests: &[String]) {
        fs::write(self.0.path().join("index.json"), index(digests)).unwrap();
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = hex(&Sha256::digest(bytes));
        fs::write(self.0.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        format!("sha256:{digest}")
    }

    /// The digest of its image's manifest.
    fn manifest(&self) -> String {
        let index = fs::read_to_string(self.0.path().join("index.json")).unwrap();
        let start = index.find("sha256:").unwrap();
        index[start..start + 71].to_owned()
    }
}

fn index(digests: &[String]) -> String {
    let all: Vec<_> = digests
        .iter()
        .map(|d| format!("{{\"digest\":\"{d}\"}}"))
        .collect();
    format!("{{\"manifests\":[{}]}}", all.join(","))
}

fn made(source: &str, cache: &Path) -> Result<Root, ImageError> {
    cache::root(Source::open(source)?, cache, &mut |_, _| ())
}

#[test]
fn a_layout_is_found_made_once_and_found_again() {
    let layout = Layout::of(&[archive(&[file("f", b"content")])], |config| config);
    let cache = tempfile::tempdir().unwrap();
    let images = cache.path().join("images");
    let root = made(&layout.path(), &images).unwrap();
    assert!(!root.was_cached);
    assert_eq!(root.settings.cmd, Some(vec!["/x".to_owned()]));
    assert_eq!(root.settings.user, "me");
    let tagged = format!("{}:v1", layout.path());
    let again = made(&tagged, &images).unwrap();
    assert!(again.was_cached);
    assert_eq!(again.path, root.path);
    let all: Vec<_> = fs::read_dir(&images).unwrap().flatten().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    // In a folder that others can write to, nothing is trusted.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&images, fs::Permissions::from_mode(0o777)).unwrap();
    let error = made(&layout.path(), &images).unwrap_err().to_string();
    assert!(error.contains("other users"), "{error}");
}

/// Each level would be 20,000 times the one below.
#[test]
fn indices_of_indices_do_not_multiply() {
    let layout = Layout::of(&[archive(&[file("f", b"content")])], |config| config);
    let mut digest = layout.manifest();
    for _ in 0..4 {
        digest = layout.blob(index(&vec![digest; 20_000]).as_bytes());
    }
    layout.index(&vec![digest; 20_000]);
    assert_eq!(Source::open(&layout.path()).unwrap().layers.len(), 1);
    let many: Vec<_> = (0..1001)
        .map(|n| layout.blob(format!("{{\"n\":{n}}}").as_bytes()))
        .collect();
    layout.index(&many[..1000]);
    let error = || Source::open(&layout.path()).unwrap_err().to_string();
    assert!(error().contains("no image"), "{}", error());
    layout.index(&many);
    assert!(error().contains("more than 1000"), "{}", error());
}

#[test]
fn images_used_longest_ago_are_removed_when_there_is_too_much() {
    let cache = tempfile::tempdir().unwrap();
    let images = cache.path().join("images");
    let make = |content: &[u8]| {
        let layout = Layout::of(&[archive(&[file("f", content)])], |config| config);
        made(&layout.path(), &images).unwrap().path
    };
    let used = |path: &Path, minutes: u64| {
        let file = File::options().write(true).open(path).unwrap();
        let ago = Duration::from_secs(60 * minutes);
        file.set_modified(SystemTime::now() - ago).unwrap();
    };
    let old = [b"one", b"two", b"tri"].map(|content| make(content));
    let length = fs::metadata(&old[0]).unwrap().len();
    let there = || old.each_ref().map(|path| path.exists());
    for (path, minutes) in old.iter().zip([30, 20, 10]) {
        used(path, minutes);
    }
    // What is found is used again.
    assert_eq!(make(b"one"), old[0]);
    used(&old[0], 5);
    for name in ["notes", ".x.tmp", ".y.tmp"] {
        fs::write(images.join(name), "").unwrap();
    }
    used(&images.join(".x.tmp"), 61);
    let new = make(b"new");
    cache::clean(&images, 4 * length, &new);
    assert_eq!(there(), [true, true, true]);
    cache::clean(&images, 4 * length - 1, &new);
    assert_eq!(there(), [true, false, true]);
    cache::clean(&images, 2 * length, &new);
    assert_eq!(there(), [true, false, false]);
    // Neither this one, nor what somebody may be about to open.
    assert_eq!(make(b"one"), old[0]);
    cache::clean(&images, 0, &new);
    assert!(new.exists() && old[0].exists());
    used(&old[0], 5);
    cache::clean(&images, 0, &new);
    assert!(new.exists() && !old[0].exists());
    let has = |name| images.join(name).exists();
    assert!(has("notes") && has(".y.tmp") && !has(".x.tmp"));
}

/// A layer that is small as it is packed, onto a file system that hasn't as much room as it wants.
#[test]
fn an_image_leaves_room_on_its_file_system() {
    use crate::image::folder::tests::looks::{is_root, mounted};
    if !is_root() {
        return;
    }
    let content = vec![b'x'; 15 << 20];
    let plain = archive(&[file("f", &content)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let digest = hex(&Sha256::digest(&plain));
    let packed = gzip.finish().unwrap();
    let packed_digest = hex(&Sha256::digest(&packed));
    let change = |config: String| config.replace(&packed_digest, &digest);
    let layout = Layout::of(&[packed], change);
    mounted(&["-t", "tmpfs", "-o", "size=16M", "none"], |cache| {
        let images = cache.join("images");
        let error = made(&layout.path(), &images).unwrap_err().to_string();
        assert!(
            error.contains("nine tenths") && error.contains("MOTE_CACHE"),
            "{error}"
        );
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
    });
    mounted(&["-t", "tmpfs", "-o", "size=18M", "none"], |cache| {
        made(&layout.path(), &cache.join("images")).unwrap();
    });
}

#[test]
fn a_lock_that_another_has_removed_is_none() {
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("x.lock");
    for _ in 0..50 {
        let first = cache::lock(&path).unwrap();
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| cache::lock(&path).unwrap());
            // Whether it waits already or comes later, it must not end up with the file of the first.
            std::thread::yield_now();
            fs::remove_file(&path).unwrap();
            drop(first);
            second.join().unwrap()
        });
        let (named, locked) = (fs::metadata(&path).unwrap(), second.metadata().unwrap());
        assert_eq!(named.ino(), locked.ino());
    }
}

#[test]
fn what_is_missing_damaged_or_anothers_is_said() {
    let cache = tempfile::tempdir().unwrap();
    let error = |name: &str| made(name, cache.path()).unwrap_err().to_string();
    let registry = error("docker.io/library/alpine:3.20");
    assert!(registry.contains("skopeo copy docker://docker.io/library/alpine:3.20"));
    assert!(error("/no/such/file").contains("/no/such/file"));
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path().to_str().unwrap()).contains("neither"));

    let layer = archive(&[file("f", b"content")]);
    let layout = Layout::of(std::slice::from_ref(&layer), |config| config);
    assert!(error(&format!("{}:v2", layout.path())).contains("name:v1"));
    let digest = hex(&Sha256::digest(&layer));
    let blob = layout.0.path().join("blobs/sha256").join(&digest);
    fs::write(&blob, archive(&[file("f", b"another")])).unwrap();
    assert!(error(&layout.path()).contains("damaged"));
    fs::remove_file(&blob).unwrap();
    assert!(error(&layout.path()).contains(&digest));
    assert_eq!(
        fs::read_dir(cache.path())
            .unwrap()
            .flatten()
            .filter(|f| { f.file_name().to_string_lossy().ends_with(".erofs") })
            .count(),
        0
    );

    let other = |config: String| config.replace("amd64", "s390x").replace("arm64", "s390x");
    let layout = Layout::of(std::slice::from_ref(&layer), other);
    assert!(error(&layout.path()).contains("no image"));
    let fewer = |config: String| config.replace("diff_ids\":[", "diff_ids\":[],\"x\":[");
    let layout = Layout::of(&[layer], fewer);
    assert!(error(&layout.path()).contains("same layers"));
}

#[test]
fn what_docker_saves_is_read() {
    let layer = archive(&[file("f", b"content")]);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        _ => "arm64",
    };
    let digest = hex(&Sha256::digest(&layer));
    let config = format!(
        "{{\"architecture\":\"{architecture}\",\"config\":{{\"Env\":[\"A=b\"]}},\
         \"rootfs\":{{\"diff_ids\":[\"sha256:{digest}\"]}}}}"
    );
    let manifest =
        "[{\"Config\":\"c.json\",\"RepoTags\":[\"it:latest\"],\"Layers\":[\"1/layer.tar\"]}]";
    let saved = archive(&[
        file("c.json", config.as_bytes()),
        file("real.tar", &layer),
        link(b'2', "1/layer.tar", "../real.tar"),
        file("manifest.json", manifest.as_bytes()),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("saved.tar");
    File::create(&path).unwrap().write_all(&saved).unwrap();
    let name = format!("{}:latest", path.display());
    let root = made(&name, &folder.path().join("images")).unwrap();
    assert_eq!(root.settings.env, Some(vec!["A=b".to_owned()]));
}

/// What `docker save` writes, unpacked by somebody else.
#[test]
fn names_in_a_folder_lead_to_its_regular_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("image")).unwrap();
    fs::write(at("outside"), "{}").unwrap();
    let pipe = std::ffi::CString::new(at("image/pipe").to_str().unwrap()).unwrap();
    // SAFETY: a path with its end.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    std::os::unix::fs::symlink("pipe", at("image/to-pipe")).unwrap();
    let error = |name: &str| {
        let manifest = format!("[{{\"Config\":{name:?},\"Layers\":[]}}]");
        fs::write(at("image/manifest.json"), manifest).unwrap();
        let path = at("image");
        Source::open(path.to_str().unwrap())
            .unwrap_err()
            .to_string()
    };
    let whole = at("outside");
    for name in ["../outside", "x/../../outside", whole.to_str().unwrap()] {
        let text = error(name);
        assert!(text.contains("isn't in it"), "{name}: {text}");
    }
    // Opening it would wait for whoever writes.
    for name in ["pipe", "to-pipe", "", "."] {
        let text = error(name);
        assert!(
            text.contains("no regular file") || text.contains("isn't in it"),
            "{name}: {text}"
        );
    }
}
