//! What is refused, and by which message.

use super::*;

#[test]
fn each_names_its_field() {
    let hook = || json!([{"path": "/usr/bin/nerdctl"}]);
    let mapping = || json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let node = |typ: &str, major: u32, minor: u32| json!([{"path": "/dev/x", "type": typ, "major": major, "minor": minor}]);
    for (pointer, value, start) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion: `2.0.0`"),
        ("/root", json!(null), "root: is not there"),
        (
            "/hooks/createContainer",
            hook(),
            "hooks.createContainer: /usr/bin/nerdctl: would run",
        ),
        ("/hooks/startContainer", hook(), "hooks.startContainer: "),
        ("/vm", json!({"kernel": {"path": "/k"}}), "vm: "),
        ("/solaris", json!({}), "solaris: "),
        (
            "/hostname",
            json!("a".repeat(65)),
            "hostname: has more than 64",
        ),
        (
            "/domainname",
            json!("a\u{0}b"),
            "domainname: has a zero byte",
        ),
        ("/linux/uidMappings", mapping(), "linux.uidMappings: "),
        ("/linux/gidMappings", mapping(), "linux.gidMappings: "),
        (
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets: ",
        ),
        (
            "/linux/netDevices",
            json!({"eth1": {}}),
            "linux.netDevices: ",
        ),
        (
            "/linux/intelRdt",
            json!({"closID": "a"}),
            "linux.intelRdt: ",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0"}),
            "linux.memoryPolicy: ",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX32"}),
            "linux.personality: ",
        ),
        (
            "/linux/rootfsPropagation",
            json!("shared"),
            "linux.rootfsPropagation: `shared`",
        ),
        (
            "/linux/namespaces/1",
            json!({"type": "pid"}),
            "linux.namespaces[1]: type pid is there already",
        ),
        (
            "/linux/namespaces/1",
            json!({"type": "user"}),
            "linux.namespaces[1]: type user",
        ),
        (
            "/linux/namespaces/1",
            json!({"type": "time"}),
            "linux.namespaces[1]: type time",
        ),
        (
            "/linux/namespaces/1",
            json!({"type": "ipc", "path": "/proc/1/ns/ipc"}),
            "linux.namespaces[1].path: /proc/1/ns/ipc: is a namespace of the host's",
        ),
        (
            "/linux/namespaces/3/path",
            json!("/proc/1/ns/mnt"),
            "linux.namespaces[3].path: type mount",
        ),
        (
            "/linux/devices",
            node("b", 8, 0),
            "linux.devices[0]: /dev/x (b 8:0): is a device of the host's",
        ),
        (
            "/linux/devices",
            node("c", 10, 232),
            "linux.devices[0]: /dev/x (c 10:232)",
        ),
        ("/linux/devices", node("a", 1, 3), "linux.devices[0].type: "),
        (
            "/linux/maskedPaths",
            json!(["proc/kcore"]),
            "linux.maskedPaths: proc/kcore: must be a whole path",
        ),
        ("/linux/readonlyPaths", json!([""]), "linux.readonlyPaths: "),
        (
            "/linux/sysctl",
            json!({"kernel.msgmax\u{0}": "1"}),
            "linux.sysctl: has a zero byte",
        ),
    ] {
        let text = refusal(&with(pointer, value));
        assert!(text.starts_with(start), "{pointer}: {text}");
    }
}

#[test]
fn what_says_nothing_is_taken() {
    ignored();
    for (pointer, value) in [
        ("/hooks", json!({"prestart": [], "poststop": []})),
        ("/linux/uidMappings", json!([])),
        ("/linux/timeOffsets", json!({})),
        ("/linux/personality", json!({"domain": "LINUX"})),
        ("/linux/rootfsPropagation", json!("rslave")),
        ("/linux/mountLabel", json!("")),
        ("/linux/namespaces/1/path", json!("")),
        ("/linux/namespaces/4/path", json!("/var/run/netns/pod")),
    ] {
        let made = container(&with(pointer, value), None, &full());
        assert!(made.is_ok(), "{pointer}: {}", made.unwrap_err());
    }
    assert_eq!(ignored(), Vec::<String>::new());
    container(
        &with("/linux/mountLabel", json!("system_u:object_r:x")),
        None,
        &full(),
    )
    .unwrap();
    assert_eq!(ignored(), ["linux.mountLabel"]);
}
