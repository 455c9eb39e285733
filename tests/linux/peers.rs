//! The programs at the other end of a device, and the guest that has such programs in it.
//! resources/peers.sh and resources/rootfs/test-rootfs.sh make or install them.

use std::path::PathBuf;
use std::process::Command;

use crate::common::can_run;
use crate::{guests, in_guest, made_for_this, path};

/// The program `name`, from the cache or from PATH; `None` (said aloud) where there is none.
pub fn peer(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(made_for_this("peers"))
        .chain(std::env::split_paths(&search))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from)) // not in every user's PATH
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    let obstacle = format!("there is no {name}: resources/peers.sh sees to that");
    can_run("peers", found.is_none().then_some(obstacle));
    found
}

/// The root file system with iperf3, socat and ethtool beside busybox; `None` (said aloud) where
/// it hasn't been made.
pub fn test_rootfs() -> Option<PathBuf> {
    let rootfs = made_for_this("guest").join("test-rootfs.ext4");
    let missing = !rootfs.exists();
    let obstacle = "there is no test-rootfs.ext4: resources/rootfs/test-rootfs.sh makes it";
    can_run("peers", missing.then(|| obstacle.to_owned())).then_some(rootfs)
}

#[test]
fn the_peers_are_there_and_start() {
    for (name, option, text) in [
        ("virtiofsd", "--version", "virtiofsd"),
        ("passt", "--help", "--vhost-user"),
        ("qemu-storage-daemon", "--help", "--export"),
        ("qemu-img", "--version", "qemu-img"),
        ("iperf3", "--version", "iperf"),
        ("socat", "-V", "socat"),
        ("ethtool", "--version", "ethtool"),
        ("ip", "-V", "iproute2"),
        ("mkfs.erofs", "--help", "erofs"),
        ("mkfs.xfs", "-V", "mkfs.xfs"),
    ] {
        let Some(program) = peer(name) else { return };
        let output = Command::new(&program).arg(option).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(text), "{program:?} {option}: {said}");
    }
}

#[test]
fn the_programs_of_the_test_root_file_system_run() {
    if guests().is_none() {
        return;
    }
    let Some(rootfs) = test_rootfs() else { return };
    let rootfs = format!("{},ro", path(&rootfs));
    let out = in_guest(
        &["--rootfs", &rootfs],
        "iperf3 --version; socat -V; ethtool --version",
    );
    for text in ["iperf 3", "define WITH_VSOCK 1", "ethtool version"] {
        assert!(out.contains(text), "{out}");
    }
}
