//! A jail of a user without root's rights, in a user namespace.

use std::os::unix::fs::{PermissionsExt, chown};

use super::*;

/// Someone who owns nothing but the folder that he is given.
const NOBODY: u32 = 65_534;

#[test]
fn a_user_without_rights_has_a_jail_too() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    let folder = place.folder.path();
    let everyone = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    everyone(folder).unwrap();
    // The command where that user can run it, and a /dev/kvm that he may open, in mounts of its own.
    let mote = folder.join("mote");
    fs::copy(env!("CARGO_BIN_EXE_mote"), &mote).unwrap();
    let own = folder.join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let script = "d=$1; shift; mount -t tmpfs x $d/dev && cp -a /dev/kvm $d/dev/ && \
        chmod 666 $d/dev/kvm && mount --bind $d/dev/kvm /dev/kvm && exec \"$@\"";
    fs::create_dir(folder.join("dev")).unwrap();
    let run = |more: &[&str], keys: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(folder);
        command.args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]);
        command.arg(&mote).args(["run", "--kernel", &place.kernel]);
        command.args(["--jail", &format!("id=vm{keys}")]).args(more);
        command.env("XDG_RUNTIME_DIR", &own).stdin(Stdio::null());
        command
    };
    let (code, said) = outcome(&mut run(&["--until", "serial:ready"], ""));
    let refused = said.contains("making a user namespace");
    if !can_run("user-namespaces", refused.then(|| said.clone())) {
        return;
    }
    assert_eq!(code, 0, "{said}");
    let mut vm = Running::start(run(&["--vsock", "cid=3,socket=v.sock"], ""));
    assert_eq!(vm.status("Uid"), "65534 65534 65534 65534");
    for key in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(vm.status(key), "0000000000000000", "{key}");
    }
    assert_eq!(vm.status("NoNewPrivs"), "1");
    for name in ["user", "mnt", "pid", "ipc", "uts", "net"] {
        let theirs = link(format!("/proc/{}/ns/{name}", vm.jailed));
        assert_ne!(theirs, link(format!("/proc/self/ns/{name}")), "{name}");
    }
    let map: Vec<_> = vm
        .proc("uid_map")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(map, ["65534", "65534", "1"]);
    assert_eq!(vm.proc("mountinfo").lines().count(), 2);
    assert!(own.join("mote/vm/run/v.sock").exists());
    // And again after it was killed.
    vm.signal(libc::SIGKILL);
    vm.wait();
    let (code, said) = outcome(&mut run(&["--until", "serial:ready"], ""));
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read_dir(own.join("mote")).unwrap().count(), 0);
    let (code, said) = outcome(&mut run(&[], ",uid=5"));
    assert!(
        code == 2 && said.contains("only root can become another user"),
        "{said}"
    );
}
