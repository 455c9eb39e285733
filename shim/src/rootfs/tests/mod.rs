//! Snapshots made here as snapshotters make them, with real mounts: these need root.

mod disks;
mod snapshots;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use containerd_shim::protos::types::mount::Mount;
use nix::mount::{MsFlags, mount};

use super::mounting::places;
use super::options::Mounting;
use super::overlay::layers;
use super::{How, Plan, RootfsError, alone, prepare};

fn can_mount() -> bool {
    // SAFETY: takes nothing, and can't fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        println!("NOT RUN: only root can mount");
    }
    is_root
}

fn one(kind: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        type_: kind.to_owned(),
        source: source.display().to_string(),
        options: options.iter().map(|text| (*text).to_owned()).collect(),
        ..Mount::default()
    }
}

/// A container's place: its bundle, its work folder, and the cache of its machine.
struct Place {
    base: tempfile::TempDir,
    open: Mutex<Vec<File>>,
}

impl Place {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("bundle/rootfs")).unwrap();
        let open = Mutex::default();
        Place { base, open }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn prepare(&self, mounts: &[Mount], how: How) -> Result<Plan, RootfsError> {
        let bundle = self.path("bundle/rootfs");
        let [cache, work] = [self.path("cache"), self.path("work")];
        prepare(mounts, &bundle, how, &cache, &work)
    }

    fn image(&self, mounts: &[Mount]) -> PathBuf {
        match self.prepare(mounts, How::Block).unwrap() {
            Plan::Image { path } => path,
            Plan::Own { file } => self.hold(file),
            other => panic!("{other:?}"),
        }
    }

    /// A path of a file that has no name, for as long as this is there.
    fn hold(&self, file: File) -> PathBuf {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        crate::lock(&self.open).push(file);
        path.into()
    }

    fn folder(&self, mounts: &[Mount]) -> PathBuf {
        match self.prepare(mounts, How::Shared).unwrap() {
            Plan::Folder { path } => path,
            other => panic!("{other:?}"),
        }
    }

    /// What is mounted in it.
    fn mounts(&self) -> Vec<PathBuf> {
        let all = fs::read("/proc/thread-self/mountinfo").unwrap();
        let base = fs::canonicalize(self.base.path()).unwrap();
        places(&all)
            .filter(|path| path.starts_with(&base))
            .collect()
    }

    /// What a file has in an image.
    fn content(&self, image: &Path, name: &str) -> Option<String> {
        let at = self.path("look");
        fs::create_dir_all(&at).unwrap();
        alone(|| {
            let image = one("erofs", image, &["ro", "loop"]);
            let mounted = super::Mounted::all(&[Mounting::read(&image)?], &at)?;
            let content = fs::read_to_string(at.join(name)).ok();
            drop(mounted);
            Ok(content)
        })
        .unwrap()
    }
}

/// A folder with files of this content.
fn filled(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
    folder.to_owned()
}

#[test]
fn options_become_flags_and_data() {
    let source = Path::new("/s");
    let options = [
        "rbind",
        "ro",
        "nosuid",
        "rw",
        "index=off",
        "loop",
        "X-note=1",
    ];
    let read = Mounting::read(&one("bind", source, &options)).unwrap();
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_NOSUID;
    assert_eq!((read.flags, read.is_loop), (flags, true));
    assert_eq!(read.data, ["index=off"]);
    let refused = |mount: &Mount| Mounting::read(mount).unwrap_err().to_string();
    let template = one("format/mkdir/overlay", source, &[]);
    assert!(refused(&template).contains("mount manager"));
    let template = one("overlay", source, &["lowerdir={{ overlay 0 2 }}"]);
    assert!(refused(&template).contains("mount manager"));
    let mapped = one("overlay", source, &["uidmap=0:1000:1"]);
    assert!(refused(&mapped).contains("uidmap=0:1000:1"));
}

#[test]
fn layers_are_between_colons() {
    let read = |text| -> Vec<String> {
        let all = layers(text).into_iter();
        all.map(|path| path.display().to_string()).collect()
    };
    assert_eq!(read("/a:/b/c:/d"), ["/a", "/b/c", "/d"]);
    assert_eq!(read(r"/a\:b:/c\\d"), ["/a:b", r"/c\d"]);
    assert!(read("").is_empty());
}

#[test]
fn places_are_read_as_the_kernel_writes_them() {
    let text = b"36 35 98:0 / /a\\040b\\134c rw - ext4 /dev/x rw\n37 36 0:1 / /d rw - tmpfs t rw\n";
    let found: Vec<_> = places(text).collect();
    assert_eq!(found, [PathBuf::from("/a b\\c"), PathBuf::from("/d")]);
}

#[test]
fn cleanup_takes_all_mounts_and_nothing_else() {
    if !can_mount() {
        return;
    }
    alone(|| {
        let place = Place::new();
        let [work, beside] = [place.path("work"), place.path("work-beside")];
        let tmpfs = |at: &Path| {
            fs::create_dir_all(at).unwrap();
            mount(
                Some("none"),
                at,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
        };
        for at in [&work, &work.join("a b"), &work.join("a b/deep"), &beside] {
            tmpfs(at);
        }
        // One above another, and one that is in use.
        tmpfs(&work.join("a b"));
        let _open = fs::File::create(work.join("a b/open")).unwrap();
        assert_eq!(place.mounts().len(), 5);
        super::cleanup(&work);
        assert_eq!(place.mounts(), [fs::canonicalize(&beside).unwrap()]);
        super::cleanup(&work);
        super::cleanup(&place.path("never-there"));
        super::cleanup(&beside);
        assert!(place.mounts().is_empty());
        Ok(())
    })
    .unwrap();
}
