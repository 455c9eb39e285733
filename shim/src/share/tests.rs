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

#[test]
fn the_view_has_what_is_shared_and_cant_be_written() {
    alone(|vm, host| {
        let share = Share::new(vm).unwrap();
        let volume = seen(vm, &share.add(host, false).unwrap());
        let kept = seen(vm, &share.add(host, true).unwrap());
        let one = seen(vm, &share.add(&host.join("file"), false).unwrap());
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
        let in_guest = share.add(host, false).unwrap();
        share.remove(&in_guest);
        assert_eq!(fs::read_dir(vm.join(VIEW)).unwrap().count(), 0);
        assert!(share.add(&host.join("never-there"), false).is_err());
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
        assert!(share.add(&host.join("file"), false).is_err());
        assert!(!target.exists());
    });
}
