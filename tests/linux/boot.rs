//! Kernels of every format reach init, and the boot is told truly.

use super::*;

#[test]
fn elf_boots_by_pvh_and_by_the_64_bit_protocol() {
    let Some(guests) = guests() else { return };
    let rootfs = format!("{},ro", path(&guests.rootfs));
    for protocol in ["auto", "linux64"] {
        let more = [
            "--kernel",
            path(&guests.vmlinux),
            "--rootfs",
            &rootfs,
            "--protocol",
            protocol,
        ];
        let out = in_guest(&more, "uname -m; dmesg");
        assert!(out.starts_with("x86_64\n"), "{out}");
        // Linux says which kind of memory map it was given.
        let e820 = out.contains("BIOS-e820: [mem 0x0000000000100000-0x0000000007ffffff] usable");
        assert!(e820, "{out}");
    }
}

#[test]
fn bzimage_boots_also_from_the_cache_and_in_spite_of_a_damaged_one() {
    let Some(guests) = guests() else { return };
    let cache = tempfile::tempdir().unwrap();
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let kernel = path(&guests.bzimage);
    for round in 0..3 {
        let mut command = mote(&["--kernel", kernel, "--rootfs", &rootfs, "--acpi", "off"]);
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
        path(&guests.vmlinux),
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
fn without_the_entropy_device_linux_is_seeded_by_the_processor() {
    let Some(_) = guests() else { return };
    // The brackets keep the script itself, which the log has as well, from being found.
    let script = "cat /sys/class/misc/hw_random/rng_current; grep -c -w rdrand /proc/cpuinfo; \
                  dmesg | grep -c 'crng init [d]one'; head -c 8 /dev/random | wc -c";
    let out = in_guest(&["--rng", "off"], script);
    let lines: Vec<_> = out.lines().collect();
    // A host's processor may have no RDRAND: then Linux takes its time, and is seeded all the same.
    assert!(matches!(lines[..], ["none", "0" | "1", "1", "8"]), "{out}");
}

#[test]
fn the_entropy_device_is_half_of_all_exits_to_init() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let exits = |rng: &str| {
        let json = folder.path().join(rng);
        let timings = format!("json={}", path(&json));
        let arguments = ["--console", "none", "--rng", rng, "--timings", &timings];
        let mut command = mote(&arguments);
        command.args(["--cmdline", "mote.run=true"]);
        finish(command).success();
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        report["exits"]["total"].as_u64().unwrap()
    };
    // The set-up of a device with one queue is 20 (docs/devices.md).
    let (with, without) = (exits("on"), exits("off"));
    assert!(without < 30 && without + 20 == with, "{with}, {without}");
}

#[test]
fn linux_calibrates_nothing() {
    let Some(_) = guests() else { return };
    let out = in_guest(&[], "dmesg");
    assert!(out.contains("Calibrating delay loop (skipped)"), "{out}");
    assert!(!out.contains("Calibrating APIC timer"), "{out}");
    assert!(
        out.contains("clocksource: Switched to clocksource kvm-clock"),
        "{out}"
    );
}

#[test]
fn the_timings_are_complete_and_exits_are_few() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("t.json");
    let timings = format!("json={}", path(&json));
    finish(mote(&[
        "--console",
        "none",
        "--timings",
        &timings,
        "--cmdline",
        "mote.run=true",
    ]))
    .success();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
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
    assert_eq!(number("/supported_cpuid_calls"), 1);
    // The figures of docs/performance.md that are exact on any machine.
    assert!(number("/exits/total") < 60, "{report}");
    assert!(number("/process/resident_kib") < 9 << 9, "{report}");
    assert!(number("/process/private_dirty_kib") < 1 << 10, "{report}");
}

#[test]
fn the_record_kernel_boots() {
    let Some(guests) = guests() else { return };
    let kernel = cache().join("guest/x86_64-record/vmlinux");
    let obstacle = "resources/kernel/build.sh record makes it, in 4-5 minutes";
    if !can_run("record", (!kernel.exists()).then(|| obstacle.to_owned())) {
        return;
    }
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let more = ["--kernel", path(&kernel), "--rootfs", &rootfs];
    let more = [&more[..], &["--rng", "off", "--console", "hvc"]].concat();
    let out = in_guest(&more, "uname -r; nproc; ls /dev/vda");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].ends_with("-mote-record"), "{out}");
    assert_eq!(lines[1..], ["1", "/dev/vda"], "{out}");
}

#[test]
fn a_stock_debian_kernel_boots_over_acpi_with_its_own_modules() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "d", 1 << 20);
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let drive = format!("path={},id=STOCK", path(&disk));
    let more = [
        "--kernel",
        path(&guests.debian_kernel),
        "--initrd",
        path(&guests.debian_initrd),
        "--rootfs",
        &rootfs,
        "--disk",
        &drive,
        "--memory",
        "512M",
        "--cpus",
        "2",
    ];
    let script = "uname -r; nproc; cat /sys/block/vdb/serial; echo; \
                  ls /sys/bus/acpi/devices | grep -c LNRO0005; grep -w / /proc/mounts";
    let out = in_guest(&more, script);
    // Switched off by ACPI: without it, this guest would hang and be killed.
    let off = boot(&more, "busybox poweroff -f; sleep 1000");
    assert_eq!(off.code, Some(0), "{off:?}");
    let lines = out.lines().skip_while(|line| line.starts_with('['));
    let lines: Vec<_> = lines.collect();
    assert!(lines[0].contains("cloud-amd64"), "{out}");
    assert_eq!(lines[1..4], ["2", "STOCK", "3"], "{out}");
    assert!(lines[4].starts_with("/dev/vda / ext4"), "{out}");
}
