//! NUMA nodes as the guest's Linux sees them, and a Linux on a real-time vCPU.

use super::*;

#[test]
fn linux_finds_the_numa_nodes_their_cpus_memory_and_distances() {
    let Some(guests) = guests() else { return };
    // On x86_64 the second node's memory goes on above the device gap.
    let words = "--cpus 3 --memory 3200M --numa node=0,cpus=0,,2,memory=1G,distances=10:35:20 \
                 --numa node=1,cpus=1,memory=2112M --numa node=2,memory=64M";
    let mut more = vec!["--kernel", path(&guests.debian_kernel)];
    more.extend(["--initrd", path(&guests.debian_initrd)]);
    more.extend(words.split_whitespace());
    let script = format!(
        "cd /sys/devices/system/node; cat online node*/cpulist node*/distance; \
         grep -h MemTotal node*/meminfo; dmesg | grep -E '{}'",
        native::NUMA_MEMORY.0
    );
    let out = boot(&more, &script).success();
    // What the kernel says by itself comes first.
    let mut lines = out.lines().skip_while(|line| line.starts_with('['));
    for expected in ["0-2", "0,2", "1", "", "10 35 20", "35 10 20", "20 20 10"] {
        assert_eq!(lines.next(), Some(expected), "{out}");
    }
    for mib in [1024, 2112, 64] {
        // "Node 0 MemTotal:  1012345 kB", less what the kernel has taken before.
        let line = lines.next().unwrap_or_default();
        let kib = line.split_whitespace().nth(3).unwrap_or_default();
        let kib: u64 = kib.parse().expect(&out);
        assert!(kib <= mib << 10 && kib > (mib << 10) / 2, "{mib}: {out}");
    }
    for range in native::NUMA_MEMORY.1 {
        assert!(out.contains(range), "{range} is not in {out}");
    }
}

#[test]
fn linux_boots_on_a_real_time_vcpu() {
    let Some(_) = guests() else { return };
    let refused = std::thread::spawn(|| {
        let param = libc::sched_param { sched_priority: 1 };
        // SAFETY: a valid parameter, for a thread that ends with it.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
        (result != 0).then(|| format!("no real-time thread: {}", std::io::Error::last_os_error()))
    });
    if !can_run("realtime", refused.join().unwrap()) {
        return;
    }
    // With a single CPU it is refused unless forced: the vCPU could keep its drive waiting.
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"))
        .unwrap();
    if allowed.parse::<u16>().is_ok() {
        let refused = boot(&["--sched", "fifo:10"], "true");
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains("mote's other threads"), "{refused:?}");
        assert!(
            refused.err.contains("or add `force` to --sched"),
            "{refused:?}"
        );
    }
    let ended = boot(
        &["--sched", "fifo:10,force"],
        "dd if=/dev/vda of=/dev/null bs=1M count=4 2>/dev/null && echo read",
    );
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(0), "read\n"),
        "{ended:?}"
    );
}
