//! Whole specifications, and namespaces in them.

use mote_agent_protocol::container::Namespace;

use super::*;

fn new(kind: &str) -> Namespace {
    Namespace {
        kind: kind.to_owned(),
        of: None,
    }
}

fn of_sandbox(kind: &str) -> Namespace {
    Namespace {
        of: Some("pod".to_owned()),
        ..new(kind)
    }
}

#[test]
fn what_ctr_run_asks_for_is_there() {
    ignored();
    let made = container(&ctr(), None, &full()).unwrap();
    assert_eq!(made.root, "/run/c1");
    assert!(!made.read_only);
    assert_eq!(made.hostname, None);
    let namespaces = ["pid", "ipc", "uts", "mnt", "cgroup"].map(new);
    assert_eq!(made.namespaces, namespaces, "the network's is the guest's");
    assert_eq!(made.mounts.len(), 7);
    assert_eq!(
        made.mounts[2],
        mote_agent_protocol::Mount::new(
            "devpts",
            "devpts",
            "/dev/pts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"
        )
    );
    let devices: Vec<_> = made.devices.iter().map(|device| &*device.path).collect();
    let default = ["null", "zero", "full", "random", "urandom", "tty"];
    assert_eq!(devices, default.map(|name| format!("/dev/{name}")));
    assert_eq!(made.devices[3].numbers, (1, 8));
    assert_eq!(made.devices[0].mode, libc::S_IFCHR | 0o666);
    assert_eq!(made.masked.len(), 11);
    assert_eq!(made.read_only_paths[4], "/proc/sysrq-trigger");
    assert_eq!(made.limits, Default::default());
    assert_eq!(ignored(), Vec::<String>::new());
}

#[test]
fn what_cri_asks_for_is_there() {
    ignored();
    let folder = tempfile::tempdir().unwrap();
    let made = container(&cri(folder.path()), Some("pod"), &full()).unwrap();
    assert!(made.read_only);
    let namespaces = [
        new("pid"),
        of_sandbox("ipc"),
        of_sandbox("uts"),
        new("mnt"),
        new("cgroup"),
    ];
    assert_eq!(made.namespaces, namespaces);
    assert_eq!(made.mounts[5].kind, "cgroup2");
    assert_eq!(made.mounts[6].kind, "bind");
    assert!(made.mounts[6].source.ends_with("/etc-hosts"));
    assert!(made.mounts[6].source.starts_with("/shared/"));
    assert_eq!(made.mounts[9].kind, "tmpfs", "shared memory is the guest's");
    assert_eq!(made.limits.memory, Some(256 << 20));
    assert_eq!(made.limits.cpu, Some((150_000, 100_000)));
    assert_eq!(made.limits.cpu_weight, Some(20));
    assert_eq!(made.limits.swap, None);
    assert_eq!(ignored(), ["linux.resources.unified.memory.oom.group"]);
}

#[test]
fn a_guest_without_namespaces_is_its_first_containers_own() {
    ignored();
    let bare = Hello::default();
    let mut asked = with("/hostname", json!("box"));
    put(&mut asked, "/linux/resources/pids", json!({"limit": 10}));
    let made = container(&asked, None, &bare).unwrap();
    assert_eq!(made.namespaces, []);
    assert_eq!(
        made.hostname, None,
        "whoever sets the guest up gives it this name"
    );
    assert_eq!(made.limits.pids, None);
    assert!(made.mounts.iter().all(|mount| mount.kind != "mqueue"));
    assert_eq!(ignored(), ["mounts[4]", "linux.resources.pids"]);

    let later = container(&ctr(), Some("pod"), &bare).unwrap_err();
    let text = later.to_string();
    assert!(
        text.starts_with("linux.namespaces[0]: type pid: the guest's kernel has none"),
        "{text}"
    );
}

#[test]
fn a_namespace_of_the_sandboxs_is_the_guests_where_there_is_one_only() {
    let mut kernel = full();
    kernel
        .namespaces
        .retain(|name| name != "ipc" && name != "uts");
    let asked = with(
        "/linux/namespaces",
        json!([{"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "pid"}, {"type": "mount"}]),
    );
    let mut without = asked.clone();
    without["mounts"] = json!([]);
    let made = container(&without, Some("pod"), &kernel).unwrap();
    assert_eq!(made.namespaces, [new("pid"), new("mnt")]);
    put(&mut without, "/hostname", json!("web"));
    let text = container(&without, Some("pod"), &kernel)
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("hostname: "), "{text}");
}

#[test]
fn names_go_into_the_namespace_for_them() {
    let mut asked = with("/hostname", json!("box"));
    put(&mut asked, "/domainname", json!("example.org"));
    put(
        &mut asked,
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "0"}),
    );
    let made = container(&asked, None, &full()).unwrap();
    assert_eq!(made.hostname.as_deref(), Some("box"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sysctl = [
        pair("kernel.shm_rmid_forced", "0"),
        pair("net.ipv4.ip_forward", "1"),
        pair("kernel.domainname", "example.org"),
    ];
    assert_eq!(made.sysctl, sysctl);
}

#[test]
fn a_container_with_nothing_said_has_nothing() {
    let asked = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs", "readonly": true}});
    let made = container(&asked, None, &full()).unwrap();
    assert!(made.read_only && made.namespaces.is_empty() && made.mounts.is_empty());
    assert_eq!((made.masked.len(), made.devices.len()), (0, 6));
}

#[test]
fn devices_of_every_kernel_are_made() {
    let asked = with(
        "/linux/devices",
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 5, "gid": 6},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 384},
            {"path": "/run/pipe", "type": "p"}
        ]),
    );
    let made = container(&asked, None, &full()).unwrap().devices;
    assert_eq!(made.len(), 3 + 5, "null is there once");
    assert_eq!((made[0].numbers, made[0].owner), ((10, 229), (5, 6)));
    assert_eq!(made[0].mode, libc::S_IFCHR | 0o660);
    assert_eq!(made[1].mode, libc::S_IFCHR | 0o600);
    assert_eq!(made[2].mode, libc::S_IFIFO | 0o666);
}

#[test]
fn a_privileged_container_gets_of_the_hosts_devices_those_that_a_guest_has() {
    ignored();
    let listed = json!([
        {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
        {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}
    ]);
    let mut asked = with("/linux/devices", listed);
    put(
        &mut asked,
        "/linux/resources/devices",
        json!([{"allow": true, "access": "rwm"}]),
    );
    let made = container(&asked, None, &full()).unwrap().devices;
    assert_eq!((&*made[0].path, made.len()), ("/dev/net/tun", 1 + 6));
    assert_eq!(ignored(), ["linux.devices"]);
}
