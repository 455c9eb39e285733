//! Kernels of every format reach init, and the boot is told truly.

use super::*;

/// Boots a packed kernel three times: unpacked, from the cache, and with the cache's file damaged.
pub fn packed(guests: &Guests, kernel: &Path, more: &[&str]) {
    let cache = tempfile::tempdir().unwrap();
    let rootfs = format!("{},ro", path(&guests.rootfs));
    for round in 0..3 {
        let mut command = mote(more);
        command.args(["--kernel", path(kernel), "--rootfs", &rootfs]);
        command
            .args(["--cmdline", "mote.run=\"echo up\""])
            .env("XDG_CACHE_HOME", cache.path());
        assert_eq!(finish(command).success(), "up\n", "round {round}");
        let entries: Vec<_> = fs::read_dir(cache.path().join("mote/kernels"))
            .unwrap()
            .collect();
        assert_eq!(entries.len(), 1, "the unpacked kernel is kept, once");
        if round == 1 {
            let entry = entries[0].as_ref().unwrap().path();
            let mut bytes = fs::read(&entry).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&entry, bytes).unwrap();
        }
    }
}

#[test]
fn an_initrd_is_enough_to_boot() {
    let Some(guests) = guests() else { return };
    let more = [
        "--kernel",
        path(&guests.kernel),
        "--initrd",
        path(&guests.initrd),
    ];
    let out = in_guest(&more, "ls /dev/vda 2>/dev/null; grep -w / /proc/mounts");
    assert!(out.contains("rootfs / "), "{out}");
}

#[test]
fn the_entropy_device_gives_entropy() {
    let Some(_) = guests() else { return };
    let script = "cat /sys/class/misc/hw_random/rng_current; \
                  dd if=/dev/hwrng bs=64 count=2 2>/dev/null | od -An -v -tx1 | sort -u | wc -l";
    assert_eq!(in_guest(&[], script), "virtio_rng.0\n8\n");
}

#[test]
fn without_the_entropy_device_linux_is_seeded_all_the_same() {
    let Some(_) = guests() else { return };
    // By the processor, or by what the guest's tables hold. The brackets keep the script itself, which the
    // log has as well, from being found.
    let script = "cat /sys/class/misc/hw_random/rng_current; \
                  dmesg | grep -c 'crng init [d]one'; head -c 8 /dev/random | wc -c";
    assert_eq!(in_guest(&["--rng", "off"], script), "none\n1\n8\n");
}

#[test]
fn the_entropy_devices_share_of_all_exits_to_init_is_known() {
    let Some(_) = guests() else { return };
    let exits = |rng: &str| {
        let report = timings(&["--rng", rng], "true");
        report["exits"]["total"].as_u64().unwrap()
    };
    let (with, without) = (exits("on"), exits("off"));
    let expected = without < native::EXITS_WITHOUT_RNG && without + native::EXITS_OF_RNG == with;
    assert!(expected, "{with}, {without}");
}

#[test]
fn linux_calibrates_nothing() {
    let Some(_) = guests() else { return };
    let out = in_guest(&[], "dmesg | grep -E 'Calibrating|clocksource'");
    assert!(out.contains("Calibrating delay loop (skipped)"), "{out}");
    assert!(!out.contains("Calibrating APIC timer"), "{out}");
    let clock = format!("clocksource: Switched to clocksource {}", native::CLOCK);
    assert!(out.contains(&clock), "{out}");
}

#[test]
fn the_timings_are_complete_and_exits_are_few() {
    let Some(_) = guests() else { return };
    let report = timings(&[], "true");
    let number = |pointer: &str| {
        report
            .pointer(pointer)
            .and_then(|v| v.as_u64())
            .unwrap_or_else(|| panic!("{pointer}: {report}"))
    };
    let phases = [
        "exec_to_kvm_open",
        "create_vm",
        "memory",
        "kernel_load",
        "irqchip",
        "devices",
        "vcpus",
        "sandbox",
    ];
    let sum: u64 = phases
        .iter()
        .map(|phase| number(&format!("/{phase}_us")))
        .sum();
    assert!(sum <= number("/exec_to_first_run_us"), "{report}");
    let total = number("/exec_to_first_run_us") + number("/first_run_to_init_us");
    assert!(total.abs_diff(number("/exec_to_init_us")) <= 1, "{report}");
    assert!(number("/bytes_loaded") > 1 << 20, "{report}");
    assert!(number("/process/minor_faults") > 0, "{report}");
    assert_eq!(
        number("/supported_cpuid_calls"),
        native::SUPPORTED_CPUID_CALLS
    );
    // The figures of docs/performance.md that are exact on any machine.
    assert!(number("/exits/total") < native::EXITS_TO_INIT, "{report}");
    assert!(number("/process/private_dirty_kib") < 1 << 10, "{report}");
    let obstacle = cfg!(debug_assertions).then(|| "a debug binary's code is more".to_owned());
    if can_run("release", obstacle) {
        assert!(
            number("/process/resident_kib") < native::RESIDENT_KIB,
            "{report}"
        );
    }
}

#[test]
fn a_stock_debian_kernel_boots_with_its_own_modules() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "d", 1 << 20);
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let drive = format!("path={},id=STOCK", path(&disk));
    let more = ["--rootfs", &rootfs, "--disk", &drive, "--cpus", "2"];
    let more = [&stock(&guests)[..], &more].concat();
    let script = format!(
        "uname -r; nproc; cat /sys/block/vdb/serial; echo; {}; grep -w / /proc/mounts",
        native::COUNT_TOLD_DEVICES
    );
    let out = in_guest(&more, &script);
    // It switches itself off: a guest that couldn't would hang and be killed.
    let off = boot(&more, "busybox poweroff -f; sleep 1000");
    assert_eq!(off.code, Some(0), "{off:?}");
    let lines = out.lines().skip_while(|line| line.starts_with('['));
    let lines: Vec<_> = lines.collect();
    assert!(lines[0].contains(native::STOCK), "{out}");
    assert_eq!(lines[1..4], ["2", "STOCK", "3"], "{out}");
    assert!(lines[4].starts_with("/dev/vda / ext4"), "{out}");
}
