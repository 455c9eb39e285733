//! With real mounts: these need root.

use std::os::unix::fs::symlink;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs it in a mount namespace of its own, with a VM's folder, and a folder of the host's that has a file.
fn alone(run: impl FnOnce(&Path, &Path) + Send) {
    // SAFETY: takes nothing, and can't fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("NOT RUN: only root can mount");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let [vm, host] = ["vm", "host"].map(|name| base.path().join(name));
    fs::create_dir(&vm).unwrap();
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "content").unwrap();
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(NONE, "/", NONE, flags, NONE).unwrap();
        run(&vm, &host);
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

/// Where virtiofsd has what [`Share::add`] returned.
fn seen(vm: &Path, in_guest: &str) -> PathBuf {
    let name = in_guest.strip_prefix(IN_GUEST).unwrap();
    vm.join(VIEW).join(name.trim_start_matches('/'))
}

fn is_read_only(result: io::Result<()>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

const RW: Rights = Rights {
    read_only: false,
    with_mounts: true,
    follows: false,
};
const RO: Rights = Rights {
    read_only: true,
    ..RW
};

fn add(share: &Share, path: &Path, rights: Rights) -> Result<String, ShareError> {
    share.add(&Source::find(path).unwrap(), rights)
}

/// Mounts a file system with a file `mounted` in a folder.
fn mount_in(host: &Path, name: &str) {
    let place = host.join(name);
    fs::create_dir_all(&place).unwrap();
    let flags = MsFlags::empty();
    mount(Some("none"), &place, Some("tmpfs"), flags, NONE).unwrap();
    fs::write(place.join("mounted"), "").unwrap();
}

#[test]
fn the_view_has_what_is_shared_and_cant_be_written() {
    alone(|vm, host| {
        let share = Share::new(vm).unwrap();
        let volume = seen(vm, &add(&share, host, RW).unwrap());
        let kept = seen(vm, &add(&share, host, RO).unwrap());
        let one = seen(vm, &add(&share, &host.join("file"), RW).unwrap());
        let view = vm.join(VIEW);
        assert!(is_read_only(symlink("/etc/shadow", view.join("3"))));
        assert!(is_read_only(fs::create_dir(view.join("3"))));
        assert!(is_read_only(fs::write(view.join("3"), "")));
        assert!(is_read_only(fs::write(kept.join("new"), "")));
        fs::write(volume.join("new"), "of the guest").unwrap();
        fs::write(&one, "changed").unwrap();
        assert_eq!(fs::read(kept.join("new")).unwrap(), b"of the guest");
        assert_eq!(fs::read(host.join("file")).unwrap(), b"changed");
        drop(share);
        assert_eq!(fs::read_dir(vm).unwrap().count(), 0);
        assert_eq!(fs::read_dir(host).unwrap().count(), 2);
    });
}

#[test]
fn what_is_taken_away_is_gone_from_the_view() {
    alone(|vm, host| {
        let share = Share::new(vm).unwrap();
        let in_guest = add(&share, host, RW).unwrap();
        share.remove(&in_guest);
        assert_eq!(fs::read_dir(vm.join(VIEW)).unwrap().count(), 0);
        assert!(host.join("file").exists());
    });
}

#[test]
fn a_link_at_a_place_isnt_followed() {
    alone(|vm, host| {
        let share = Share::new(vm).unwrap();
        let target = host.join("target");
        symlink(&target, vm.join(PLACES).join("0")).unwrap();
        assert!(add(&share, &host.join("file"), RW).is_err());
        assert!(!target.exists());
    });
}

#[test]
fn mounts_in_a_volume_come_with_it_where_that_is_asked_for() {
    alone(|vm, host| {
        // As the host's are, so that what is mounted there comes here.
        mount(Some(host), host, NONE, MsFlags::MS_BIND, NONE).unwrap();
        mount(NONE, host, NONE, MsFlags::MS_SHARED, NONE).unwrap();
        mount_in(host, "before");
        fs::create_dir(host.join("later")).unwrap();
        let share = Share::new(vm).unwrap();
        let bind = Rights {
            with_mounts: false,
            ..RW
        };
        let follows = Rights {
            follows: true,
            ..RW
        };
        let volumes = [bind, RW, RO, follows].map(|rights| {
            let in_guest = add(&share, host, rights).unwrap();
            seen(vm, &in_guest)
        });
        mount_in(host, "later");
        let has = |name| {
            let volumes = volumes.iter();
            let found = volumes.map(|volume| volume.join(name).join("mounted").exists());
            found.collect::<Vec<_>>()
        };
        assert_eq!(has("before"), [false, true, true, true]);
        assert_eq!(has("later"), [false, false, false, true]);
        let [_, writable, kept, _] = &volumes;
        assert!(fs::write(writable.join("before/new"), "").is_ok());
        assert!(is_read_only(fs::write(kept.join("before/new"), "")));
    });
}

#[test]
fn a_volume_is_what_was_found() {
    alone(|vm, host| {
        let share = Share::new(vm).unwrap();
        let asked = host.join("asked");
        symlink("file", &asked).unwrap();
        let source = Source::find(&asked).unwrap();
        assert_eq!(source.path(), host.join("file"));
        fs::remove_file(&asked).unwrap();
        symlink("/etc/hostname", &asked).unwrap();
        let volume = seen(vm, &share.add(&source, RO).unwrap());
        assert_eq!(fs::read_to_string(volume).unwrap(), "content");
        assert!(Source::find(&host.join("never-there")).is_err());
    });
}
