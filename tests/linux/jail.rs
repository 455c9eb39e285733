//! A Linux guest in a jail, with drives, a network, vsock and the limits of a cgroup.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::net::Namespace;
use super::peers::test_rootfs;
use super::*;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Mounts cgroups where nothing has yet, as in the emulated machine.
fn mount_cgroups() {
    if fs::read_dir(CGROUPS).is_ok_and(|entries| entries.count() == 0) {
        let mount = ["-t", "cgroup2", "none", CGROUPS];
        let status = Command::new("mount").args(mount).status().unwrap();
        assert!(status.success());
    }
}

/// Lets cgroups below `folder` have these controllers; why they can't.
fn enable(folder: &Path, controllers: &[&str]) -> Option<String> {
    let offered = fs::read_to_string(folder.join("cgroup.controllers"));
    let offered = match offered {
        Ok(offered) => offered,
        Err(error) => return Some(format!("no cgroups of version 2 in {CGROUPS}: {error}")),
    };
    controllers.iter().find_map(|name| {
        if !offered.split_whitespace().any(|word| word == *name) {
            return Some(format!("{} has no {name} controller", folder.display()));
        }
        let control = folder.join("cgroup.subtree_control");
        let error = fs::write(control, format!("+{name}")).err()?;
        Some(format!("{}: +{name}: {error}", folder.display()))
    })
}

#[test]
fn a_jailed_guest_has_its_devices_and_its_limits() {
    let (Some(_), Some(rootfs)) = (guests(), test_rootfs()) else {
        return;
    };
    mount_cgroups();
    let controllers = ["cpu", "memory", "pids", "cpuset"];
    if !can_run("cgroup2", enable(Path::new(CGROUPS), &controllers)) {
        return;
    }
    let Some(namespace) = Namespace::new("mode tap") else {
        return;
    };
    if !can_run(
        "tap",
        (!Path::new("/dev/vhost-net").exists()).then(|| "no vhost-net".to_owned()),
    ) {
        return;
    }
    let group = Path::new(CGROUPS).join(format!("mote-jail-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("jails");
    let keys = "cpu=1.5,memory=512M,pids=100,cpus=0,nofile=500";
    let jail = format!(
        "id=linux,uid=64123,root={},netns={},cgroup={},{keys}",
        path(&root),
        namespace.name,
        path(&group),
    );
    let disk = image(folder.path(), "disk.img", 1 << 20);
    let script = "ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0; \
        ping -c 1 -W 60 10.0.0.1 > /dev/null && echo the net; \
        echo text > /dev/vdb && head -c 4 /dev/vdb; echo; \
        socat -u VSOCK-CONNECT:2:9 -";
    let cmdline = format!("quiet mote.run=\"{script}\"");
    let command = mote(&[
        "--cmdline",
        &cmdline,
        "--rootfs",
        &format!("{},ro", path(&rootfs)),
        "--disk",
        path(&disk),
        "--net",
        "tap=tap0,vhost",
        "--vsock",
        "cid=3,socket=v.sock",
        "--jail",
        &jail,
    ]);
    let run = root.join("linux/run");
    let own = group.join("linux");
    let ended = std::thread::scope(|scope| {
        let guest = scope.spawn(|| finish(command));
        until("the jail", || {
            run.join("v.sock").exists() || guest.is_finished()
        });
        assert!(!guest.is_finished(), "{:#?}", guest.join().unwrap());
        // A program that serves the guest: the jailed process must be let in.
        let port = run.join("v.sock_9");
        let listener = UnixListener::bind(&port).unwrap();
        fs::set_permissions(&port, fs::Permissions::from_mode(0o666)).unwrap();
        let limit = |file: &str| fs::read_to_string(own.join(file)).unwrap();
        for (file, value) in [
            ("cpu.max", "150000 100000"),
            ("memory.max", "536870912"),
            ("pids.max", "100"),
            ("cpuset.cpus", "0"),
        ] {
            assert_eq!(limit(file).trim(), value, "{file}");
        }
        // The kernel moves the packets, by a device that is made inside.
        let jailed = limit("cgroup.procs");
        let jailed = jailed.lines().last().unwrap();
        let inside = |path: &str| -> Vec<_> {
            let entries = fs::read_dir(format!("/proc/{jailed}/root{path}")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        assert_eq!(
            (inside("/"), inside("/dev")),
            (vec!["dev".into(), "run".into()], vec!["vhost-net".into()])
        );
        let members = limit("cgroup.procs");
        assert_eq!(members.lines().count(), 2, "{members}");
        // What the guest touches is counted here.
        let (mut stream, _) = listener.accept().unwrap();
        let used: u64 = limit("memory.current").trim().parse().unwrap();
        assert!(used > 16 << 20, "{used}");
        stream.write_all(b"the end\n").unwrap();
        drop(stream);
        guest.join().unwrap()
    });
    let out = ended.success();
    assert_eq!(out, "the net\ntext\nthe end\n");
    assert!(!own.exists());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    // Too little memory ends the VM, and is told as what it is.
    let small = format!(
        "id=small,uid=64123,root={},cgroup={},memory=16M",
        path(&root),
        path(&group)
    );
    let ended = finish(mote(&[
        "--console",
        "none",
        "--cmdline",
        "quiet",
        "--jail",
        &small,
    ]));
    assert_eq!(ended.code, Some(137), "{ended:#?}");
    assert!(
        ended.err.contains("more memory than --jail memory="),
        "{ended:#?}"
    );
    assert!(!group.join("small").exists());
    fs::remove_dir(&group).unwrap();
}
