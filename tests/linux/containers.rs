//! What a guest's kernel has for containers in the guest: walls between programs, and limits for each.

use super::*;

/// Boots the kernel for containers; what the script printed, without the kernel's log, which tells of a program that
/// was killed and of the end. `None` where it can't run.
fn with_containers(more: &[&str], script: &str) -> Option<String> {
    let guests = guests()?;
    let folder = format!("{}-containers", std::env::consts::ARCH);
    let kernel = cache().join("guest").join(folder).join(native::KERNEL);
    let unbuilt = (!kernel.exists()).then(|| "resources/guest.sh containers makes it".to_owned());
    if !can_run("containers", unbuilt) {
        return None;
    }
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let guest = ["--kernel", path(&kernel), "--rootfs", &rootfs];
    let out = in_guest(&[&guest, more].concat(), script);
    let lines = out.lines().filter(|line| !line.starts_with('['));
    Some(lines.map(|line| format!("{line}\n")).collect())
}

#[test]
fn a_program_can_have_namespaces_of_its_own() {
    let inner = "hostname inner; echo $$ $(hostname); ip -o link | grep -c .; \
                 ip link set lo up; ip -6 -o addr | grep -c ::1/128; \
                 mount -t tmpfs own /mnt; mount -t mqueue own /tmp; grep -c ^own /proc/mounts";
    let script = format!(
        "unshare -m -u -i -n -p -f --mount-proc sh -c '{inner}'; hostname; grep -c ^own /proc/mounts; \
         unshare -U -r sh -c 'echo $(cat /proc/self/uid_map)'"
    );
    let Some(out) = with_containers(&[], &script) else {
        return;
    };
    assert_eq!(out, "1 inner\n1\n1\n2\nmote\n0\n0 0 1\n");
}

#[test]
fn system_calls_can_be_filtered() {
    let script = "grep Seccomp: /proc/self/status; cat /proc/sys/kernel/seccomp/actions_avail";
    let Some(out) = with_containers(&[], script) else {
        return;
    };
    assert!(out.starts_with("Seccomp:\t0\n"), "{out}");
    for action in ["kill_process", "errno", "user_notif"] {
        assert!(out.split_whitespace().any(|word| word == action), "{out}");
    }
}

#[test]
fn containers_are_held_to_their_limits_of_memory_processes_time_and_cpus() {
    // A process that writes 0 to a cgroup's list of processes becomes one of them.
    let script = "mount -t cgroup2 cgroups /mnt; cd /mnt; echo $(cat cgroup.controllers); \
                  for c in $(cat cgroup.controllers); do echo +$c > cgroup.subtree_control; done; \
                  mkdir memory pids time cpus; echo 16M > memory/memory.max; echo 1 > pids/pids.max; \
                  echo 50000 100000 > time/cpu.max; echo 1 > cpus/cpuset.cpus; exec 2>/dev/null; \
                  (echo 0 > memory/cgroup.procs; dd if=/dev/zero of=/dev/null bs=32M count=1); \
                  grep -w oom_kill memory/memory.events; \
                  (echo 0 > pids/cgroup.procs; true | true); grep -w max pids/pids.events; \
                  (echo 0 > time/cgroup.procs; \
                   until grep -q nr_throttled.[1-9] time/cpu.stat; do :; done; echo throttled); \
                  (echo 0 > cpus/cgroup.procs; nproc)";
    let Some(out) = with_containers(&["--cpus", "2"], script) else {
        return;
    };
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "cpuset cpu io memory pids",
            "oom_kill 1",
            "max 1",
            "throttled",
            "1"
        ],
        "{out}"
    );
}
