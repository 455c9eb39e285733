//! Mounts, and above all those of the host's folders.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::*;

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    let mount =
        json!({"destination": destination, "type": "bind", "source": source, "options": options});
    with("/mounts", json!([mount]))
}

#[test]
fn a_folder_is_shared_as_it_may_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(folder.path()).unwrap();
    for (options, read_only, with_mounts, follows) in [
        (&["rbind", "rprivate", "ro"][..], true, true, false),
        (&["bind", "rw"], false, false, false),
        (&["rbind", "ro", "rw"], false, true, false),
        (&["rbind", "rprivate", "rslave"], false, true, true),
        (&["bind", "slave", "private"], false, false, false),
        (&[], false, false, false),
    ] {
        let rights = Rights {
            read_only,
            with_mounts,
            follows,
        };
        let mut shared: Vec<(PathBuf, Rights)> = Vec::new();
        let kernel = full();
        let place = Place {
            root: "/r",
            sandbox: None,
            kernel: &kernel,
        };
        let made = crate::spec::container(
            &spec(&bind(folder.path(), "/data", options)),
            &place,
            &mut |source, rights| {
                shared.push((source.path().to_owned(), rights));
                Ok("/shared/1".to_owned())
            },
        );
        let mount = made.unwrap().mounts.remove(0);
        assert_eq!(shared, [(real.clone(), rights)]);
        assert_eq!(
            (&*mount.source, &*mount.target, &*mount.kind),
            ("/shared/1", "/data", "bind")
        );
        let binds = mount
            .options
            .iter()
            .filter(|option| option.ends_with("bind"));
        assert_eq!(binds.count(), 1, "the agent goes by options: {options:?}");
        assert!(
            options
                .iter()
                .all(|option| mount.options.iter().any(|o| o == option))
        );
    }
}

#[test]
fn a_share_that_fails_is_told_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = full();
    let place = Place {
        root: "/r",
        sandbox: None,
        kernel: &kernel,
    };
    let asked = spec(&bind(folder.path(), "/data", &["rbind"]));
    let made = crate::spec::container(&asked, &place, &mut |_, _| Err("no virtiofsd".into()));
    let error = made.unwrap_err();
    assert!(matches!(error, SpecError::Share(..)));
    assert_eq!(error.to_string(), "mounts[0].source: no virtiofsd");
}

#[test]
fn shared_memory_is_the_guests_and_as_large_as_the_hosts() {
    let options = ["rbind", "rprivate", "rw"];
    let missing = container(
        &bind(Path::new("/no/such/shm"), "/dev/shm", &options),
        None,
        &full(),
    );
    let mount = missing.unwrap().mounts.remove(0);
    assert_eq!((&*mount.kind, &*mount.source), ("tmpfs", "shm"));
    assert_eq!(
        mount.options,
        [
            "rw",
            "nosuid",
            "nodev",
            "noexec",
            "mode=1777",
            "size=67108864"
        ]
    );
    // What is no memory on the host is a folder as any other.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let found = nix::sys::statfs::statfs(folder.path())
        .unwrap()
        .filesystem_type();
    let made = container(&bind(folder.path(), "/dev/shm/", &options), None, &full()).unwrap();
    let is_memory = found == nix::sys::statfs::TMPFS_MAGIC;
    assert_eq!(made.mounts[0].kind == "tmpfs", is_memory);
}

#[test]
fn what_is_something_on_the_host_only_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    for (source, end) in [
        (&*socket, "is a socket"),
        (&*pipe, "is a pipe"),
        (&*link, "/dev/null: is of the host's /dev"),
        (Path::new("/dev/null"), "is of the host's /dev"),
        (Path::new("/dev"), "is of the host's /dev"),
        (Path::new("/proc"), "is of the host's /proc"),
        (Path::new("/sys"), "is of the host's /sys"),
        (Path::new("/no/such/folder"), "No such file"),
        (Path::new("relative"), "must be a whole path"),
        (Path::new(""), "must be a whole path"),
    ] {
        let text = refusal(&bind(source, "/x", &["rbind"]));
        assert!(
            text.starts_with("mounts[0].source: ") && text.contains(end),
            "{text}"
        );
    }
}

#[test]
fn other_mounts_that_can_not_be_are_refused() {
    let of = |typ: &str, options: &[&str]| {
        let mount =
            json!({"destination": "/x", "type": typ, "source": "/dev/sda1", "options": options});
        with("/mounts", json!([mount]))
    };
    for (asked, start) in [
        (
            of("ext4", &[]),
            "mounts[0].type: /x: `ext4`: the guest has no devices",
        ),
        (of("nfs", &[]), "mounts[0].type: /x: `nfs`"),
        (of("none", &[]), "mounts[0].type: /x: `none`"),
        (
            of("tmpfs", &["tmpcopyup"]),
            "mounts[0].options: /x: tmpcopyup: ",
        ),
        (of("bind", &["rro"]), "mounts[0].options: /x: rro: "),
        (
            of("bind", &["rbind", "rshared"]),
            "mounts[0].options: /x: rshared: ",
        ),
        (
            of("tmpfs", &["a\u{0}"]),
            "mounts[0].options: has a zero byte",
        ),
        (
            with("/mounts/0/destination", json!("proc")),
            "mounts[0].destination: proc: must be",
        ),
        (
            with(
                "/mounts/3/uidMappings",
                json!([{"containerID": 0, "hostID": 1, "size": 1}]),
            ),
            "mounts[3].uidMappings: ",
        ),
    ] {
        let text = refusal(&asked);
        assert!(text.starts_with(start), "{text}");
    }
    let mut kernel = full();
    kernel.controllers.clear();
    let asked = of("cgroup", &["ro"]);
    assert_eq!(container(&asked, None, &kernel).unwrap().mounts, []);
    let text = container(&asked, Some("pod"), &kernel).unwrap_err();
    let text = text.to_string();
    assert!(text.contains("no cgroup2"), "{text}");
}
