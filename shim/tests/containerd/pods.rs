//! Pods, as kubelet has containerd make them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::counts::processes;
use crate::cri::{Cri, HANDLER, OTHER_HANDLER, OTHER_MEMORY, with};
use crate::ctr::finish;
use crate::runner::not_run;
use crate::sandbox::Pod;
use crate::world::{FOLDER, World, kill};

const MIB: u64 = 1 << 20;

/// The monitors' command lines.
fn monitors() -> BTreeSet<String> {
    // The jail's processes have the same one.
    let lines = processes().into_iter().map(|(_, line)| line);
    lines.filter(|line| line.contains("mote run ")).collect()
}

/// Whether the only monitor has this in its command line.
#[track_caller]
fn one_monitor_has(text: &str) {
    if World::is_mote() {
        let all = monitors();
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all.first().unwrap().contains(text), "{text}: {all:?}");
    }
}

/// A program of the host's.
fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, &[]).success()
}

/// A busybox of the host's, as a client of a pod.
fn busybox(arguments: &[&str]) -> String {
    run("busybox", arguments)
}

fn figure(value: &Value) -> u64 {
    value["value"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = Path::new(FOLDER).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn a_pod_is_one_machine(_: &World) {
    with("bookworm", "a_pod_is_one_machine", one_machine);
}

pub fn containerd_2_runs_one(_: &World) {
    with("forky", "containerd_2_runs_one", one_machine);
}

/// Two containers, each other's, the host's and the network's.
fn one_machine(cri: &Cri) {
    let (volume, kept) = (folder("pod-volume"), folder("pod-kept"));
    fs::write(kept.join("file"), "kept\n").unwrap();
    let limits =
        json!({"memory_limit_in_bytes": 128 * MIB, "cpu_period": 100_000, "cpu_quota": 150_000});
    let pod = Pod::run(
        cri,
        HANDLER,
        "both",
        json!({"linux": {"resources": limits}}),
    );
    assert_eq!(pod.state(), "SANDBOX_READY");
    let address = pod.address();
    assert!(address.starts_with("10.88.0."), "{address}");

    let mounts = json!({"mounts": [
        {"container_path": "/data", "host_path": volume},
        {"container_path": "/kept", "host_path": kept, "readonly": true},
    ]});
    let serve =
        "echo of-a >/data/a; httpd -p 8080 -h /data; echo serves; echo apart >&2; sleep 100000";
    let a = pod.container("a", 0, serve, mounts.clone());
    let b = pod.container("b", 0, "echo waits; sleep 100000", mounts);
    one_monitor_has("--cpus 2");
    let log = pod.log("a-0.log", 2);
    assert!(
        log.contains(" stdout F serves\n") && log.contains(" stderr F apart\n"),
        "{log}"
    );
    assert!(pod.log("b-0.log", 1).ends_with(" stdout F waits\n"));

    let where_it_is = "hostname; cat /etc/hostname; ip -4 -o addr show dev eth0 | sed 's/.*inet //; s/ .*//'; \
                       grep -c both /etc/hosts; cat /etc/resolv.conf";
    let there =
        format!("both\nboth\n{address}/24\n1\nsearch cluster.local\nnameserver 10.96.0.10\n");
    for id in [&a, &b] {
        let (status, said) = pod.exec(id, where_it_is);
        // Who makes /etc/hosts is kubelet; containerd's has the host's own lines.
        assert_eq!((status, said.replace("\n0\n", "\n1\n")), (0, there.clone()));
    }
    // The network is one, and the processes are apart.
    let (status, said) = pod.exec(
        &b,
        "wget -q -O - http://127.0.0.1:8080/a; grep -h httpd /proc/[0-9]*/comm; exit 9",
    );
    assert_eq!((status, said.as_str()), (9, "of-a\n"));
    assert_eq!(
        busybox(&["wget", "-q", "-O", "-", &format!("http://{address}:8080/a")]),
        "of-a\n"
    );
    busybox(&["ping", "-c", "2", "-W", "20", &address]);
    assert_eq!(
        pod.exec(&b, "ping -c 1 -W 20 10.88.0.1 >/dev/null && echo reached")
            .1,
        "reached\n"
    );
    // Volumes are the host's.
    let script = "cat /data/a /kept/file; echo of-b >/data/b; echo x 2>/dev/null >/kept/file || echo refused";
    assert_eq!(
        pod.exec(&b, script),
        (0, "of-a\nkept\nrefused\n".to_owned())
    );
    assert_eq!(pod.exec(&a, "cat /data/b").1, "of-b\n");
    assert_eq!(fs::read_to_string(volume.join("b")).unwrap(), "of-b\n");
    assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "kept\n");
    // Memory is the pod's.
    assert_eq!(
        pod.exec(&a, "echo shared >/dev/shm/x; stat -f -c %T /dev/shm")
            .1,
        "tmpfs\n"
    );
    assert_eq!(pod.exec(&b, "cat /dev/shm/x").1, "shared\n");
    // Root file systems are each container's own.
    assert_eq!(pod.exec(&a, "echo a >/own; cat /own").1, "a\n");
    assert_eq!(
        pod.exec(&b, "cat /own 2>/dev/null || echo none").1,
        "none\n"
    );

    for id in [&a, &b] {
        let stats = cri.said("ContainerStats", json!({"container_id": id}))["stats"].take();
        let (cpu, memory) = (
            figure(&stats["cpu"]["usage_core_nano_seconds"]),
            figure(&stats["memory"]["working_set_bytes"]),
        );
        println!("stats: {} us, {} KiB", cpu / 1000, memory / 1024);
        assert!(cpu > 100_000, "{stats}");
        assert!((64 << 10..64 * MIB).contains(&memory), "{stats}");
    }
    cri.said("StopContainer", json!({"container_id": b, "timeout": 1}));
    assert_eq!(pod.ended(&b)["exit_code"], 137);
    cri.said("RemoveContainer", json!({"container_id": b}));
    assert_eq!(pod.exec(&a, "echo still").1, "still\n");
    pod.remove();
}

pub fn containers_end_one_by_one(_: &World) {
    with("bookworm", "containers_end_one_by_one", |cri| {
        let limits = json!({"memory_limit_in_bytes": 256 * MIB});
        let pod = Pod::run(
            cri,
            HANDLER,
            "ends",
            json!({"linux": {"resources": limits}}),
        );
        let stays = pod.container("stays", 0, "sleep 100000", json!({}));
        // As kubelet does it: the one that has ended is removed after the next is there.
        let first = pod.container("fails", 0, "echo once; exit 7", json!({}));
        let status = pod.ended(&first);
        assert_eq!(
            (&status["exit_code"], &status["reason"]),
            (&json!(7), &json!("Error"))
        );
        let second = pod.container("fails", 1, "echo twice; exit 0", json!({}));
        let status = pod.ended(&second);
        assert_eq!(
            (&status["exit_code"], &status["reason"]),
            (&json!(0), &json!("Completed"))
        );
        cri.said("RemoveContainer", json!({"container_id": first}));
        assert!(pod.log("fails-0.log", 1).ends_with(" stdout F once\n"));
        assert!(pod.log("fails-1.log", 1).ends_with(" stdout F twice\n"));
        let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 32 * MIB}}});
        let eats = pod.container("eats", 0, "exec tail /dev/zero", limit);
        let status = pod.ended(&eats);
        assert_eq!(
            (&status["exit_code"], &status["reason"]),
            (&json!(137), &json!("OOMKilled"))
        );
        assert_eq!(
            pod.exec(&stays, "echo still; exit 3"),
            (3, "still\n".to_owned())
        );
        one_monitor_has("mote run");
        // A containerd that is started again goes on with it.
        cri.restart();
        assert_eq!(
            pod.exec(&stays, "echo after; exit 4"),
            (4, "after\n".to_owned())
        );
        cri.said(
            "StopContainer",
            json!({"container_id": stays, "timeout": 0}),
        );
        assert_eq!(pod.ended(&stays)["exit_code"], 137);
        if World::is_mote() {
            machine_is_lost(&pod);
        }
        pod.remove();
    });
}

/// All in it has ended then, and kubelet is to make another pod.
fn machine_is_lost(pod: &Pod) {
    let last = pod.container("last", 0, "sleep 100000", json!({}));
    for (pid, line) in processes() {
        if line.contains("mote run ") {
            kill(pid, libc::SIGKILL);
        }
    }
    assert_eq!(pod.ended(&last)["exit_code"], 137);
    crate::task::until("the pod's end", || pod.state() == "SANDBOX_NOTREADY");
    let more = pod.start("more", 0, "echo no", json!({}));
    assert!(more.is_err(), "{more:?}");
}

pub fn each_pod_has_its_size(_: &World) {
    with("bookworm", "each_pod_has_its_size", |cri| {
        let limits = json!({"memory_limit_in_bytes": 128 * MIB, "cpu_period": 100_000, "cpu_quota": 100_000});
        let overhead = json!({"memory_limit_in_bytes": 32 * MIB});
        let linux = json!({"resources": limits, "overhead": overhead});
        let asked = json!({"io.mote.memory": "160M", "io.mote.vcpus": "3"});
        let other = format!("--memory {OTHER_MEMORY}M");
        for (handler, more, memory, vcpus) in [
            (
                HANDLER,
                json!({"linux": linux}),
                "--memory 192M",
                "--cpus 1",
            ),
            (
                HANDLER,
                json!({"linux": linux, "annotations": asked}),
                "--memory 160M",
                "--cpus 3",
            ),
            (OTHER_HANDLER, json!({}), &other, "--cpus 1"),
        ] {
            let pod = Pod::run(cri, handler, "sized", more);
            one_monitor_has(memory);
            one_monitor_has(vcpus);
            pod.remove();
        }
    });
}

pub fn what_cannot_be_is_refused(_: &World) {
    if !World::is_mote() {
        return not_run("cri", "what_cannot_be_is_refused", "runc can");
    }
    with("bookworm", "what_cannot_be_is_refused", |cri| {
        let host = |what: &str| {
            let options = json!({"namespace_options": {what: "NODE"}});
            json!({"linux": {"security_context": options}})
        };
        let config = Pod::config("on-host", host("network"));
        let said = cri.call(
            "RunPodSandbox",
            json!({"config": config, "runtime_handler": HANDLER}),
        );
        let said = said.unwrap_err();
        assert!(
            said.contains("linux.namespaces: none of type network"),
            "{said}"
        );

        run("mount", &["--make-shared", "/run"]); // as systemd has it
        let rights = json!({"linux": {"security_context": {"privileged": true}}});
        let pod = Pod::run(cri, HANDLER, "strict", rights.clone());
        let refused = |name: &str, more: Value, text: &str| {
            let said = pod.start(name, 0, "echo no", more).expect_err(name);
            assert!(said.contains(text), "{said}");
        };
        let device =
            json!({"container_path": "/dev/kvm", "host_path": "/dev/kvm", "permissions": "rwm"});
        refused(
            "device",
            json!({"devices": [device]}),
            "is a device of the host's",
        );
        let device = json!({"container_path": "/dev/x", "host_path": "/dev/kvm"});
        refused("node", json!({"mounts": [device]}), "is of the host's /dev");
        let socket =
            json!({"container_path": "/x", "host_path": format!("{FOLDER}/c/cri-bookworm/socket")});
        refused(
            "socket",
            json!({"mounts": [socket]}),
            "is a socket, which doesn't lead into a guest",
        );
        let common = folder("pod-common");
        let common = common.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "none", common]);
        let outwards = json!({"container_path": "/x", "host_path": common, "propagation": "PROPAGATION_BIDIRECTIONAL"});
        refused(
            "outwards",
            json!({"mounts": [outwards]}),
            "mountPropagation other than Bidirectional",
        );
        // What the host mounts later, on the other hand, comes in.
        let inwards = json!({"container_path": "/x", "host_path": common, "propagation": "PROPAGATION_HOST_TO_CONTAINER"});
        let id = pod.container("inwards", 0, "sleep 100000", json!({"mounts": [inwards]}));
        let later = format!("{common}/later");
        fs::create_dir(&later).unwrap();
        run("mount", &["-t", "tmpfs", "none", &later]);
        fs::write(format!("{later}/file"), "came\n").unwrap();
        assert_eq!(pod.exec(&id, "cat /x/later/file").1, "came\n");
        let update = json!({"container_id": id, "linux": {"memory_limit_in_bytes": 64 * MIB}});
        let said = cri
            .call("UpdateContainerResources", update)
            .expect_err("a refusal");
        assert!(said.contains("can't be changed"), "{said}");
        // As long as the guest knows the folder, it is in use.
        run("umount", &["-l", &later]);
        run("umount", &["-l", common]);
        // The pod is none the worse for it.
        rights_differ(&pod, rights);
        pod.remove();
        run("mount", &["--make-private", "/run"]);
    });
}

/// One container sees all of its pod's processes, one may do little, one has all rights in the guest.
fn rights_differ(pod: &Pod, all: Value) {
    let in_pod = json!({"linux": {"security_context": {"namespace_options": {"pid": "POD"}}}});
    let one = pod.container("one", 0, "exec sleep 1234", in_pod.clone());
    let other = pod.container("other", 0, "exec sleep 5678", in_pod);
    let list = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep [15][26]..' | sort -u";
    for id in [&one, &other] {
        assert_eq!(pod.exec(id, list).1, "sleep 1234\nsleep 5678\n");
    }
    let little = json!({"run_as_user": {"value": 1000}, "readonly_rootfs": true});
    let little = json!({"linux": {"security_context": little}, "working_dir": "/tmp"});
    let id = pod.container("little", 0, "sleep 100000", little);
    let script = "id -u; pwd; echo x 2>/dev/null >x || echo refused";
    assert_eq!(pod.exec(&id, script).1, "1000\n/tmp\nrefused\n");
    let id = pod.container("fine", 0, "echo fine; sleep 100000", all);
    let script = "mount -t tmpfs none /data && echo mounted; grep CapEff /proc/self/status; ls /dev/vda 2>/dev/null || echo none";
    let said = pod.exec(&id, script).1;
    assert_eq!(said, "mounted\nCapEff:\t000001ffffffffff\nnone\n");
}
