//! The CPUs and the memory that Linux sees are those that were asked for.

use super::*;

#[test]
fn all_cpus_come_online() {
    let Some(_) = guests() else { return };
    for &(cpus, online) in native::CPUS {
        let script = "nproc; cat /sys/devices/system/cpu/online";
        let out = in_guest(&["--cpus", cpus], script);
        assert_eq!(out, format!("{cpus}\n{online}\n"));
    }
}

#[test]
fn the_cpus_are_one_package_of_cores() {
    let Some(_) = guests() else { return };
    let script =
        "cd /sys/devices/system/cpu; cat cpu*/topology/core_id cpu*/topology/physical_package_id";
    let out = in_guest(&["--cpus", "4"], script);
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "0", "0", "0", "0"]
    );
}

#[test]
fn the_guest_sees_all_memory_also_above_4_gib() {
    let Some(_) = guests() else { return };
    for (size, mib) in [("128M", 128), ("5G", 5120)] {
        let out = in_guest(
            &["--memory", size],
            "grep MemTotal /proc/meminfo; dmesg | grep Memory:",
        );
        let total: u64 = out.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(
            total / 1024 <= mib && total / 1024 > mib * 85 / 100,
            "{size}: {out}"
        );
        // "Memory: 1234K/5242352K available": the latter is all RAM but what the BIOS area takes.
        let all = out
            .split(['/', 'K'])
            .find_map(|w| w.parse::<u64>().ok().filter(|n| *n > total));
        assert!(
            all.is_some_and(|all| mib * 1024 - all < 1024),
            "{size}: {out}"
        );
    }
}
