//! What the device tree tells Linux, and what Linux then has: interrupt controller, clock, serial port, CPU
//! features, sizes of memory.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::*;

/// The interrupt controller that a Linux has, by its own list of interrupts.
fn gic(interrupts: &str) -> &str {
    let mut words = interrupts.split_whitespace();
    let name = words.find(|word| word.starts_with("GIC"));
    name.unwrap_or_else(|| panic!("{interrupts}"))
}

/// Whether this host, and so its guests, have more than 8 CPUs' worth of interrupt controller.
fn has_gic_v3() -> bool {
    gic(&fs::read_to_string("/proc/interrupts").unwrap()) == "GICv3"
}

#[test]
fn the_guest_has_the_interrupt_controller_that_the_host_has() {
    let Some(_) = guests() else { return };
    let out = in_guest(&[], "cat /proc/interrupts");
    assert_eq!(gic(&out) == "GICv3", has_gic_v3(), "{out}");
    assert!(out.contains("arch_timer") && out.contains("ttyS0"), "{out}");
}

#[test]
fn a_gicv3_serves_many_cpus_and_a_gicv2_eight() {
    let Some(_) = guests() else { return };
    // More than one cluster of 16.
    let ended = boot(&["--cpus", "18"], "nproc; grep -c ^processor /proc/cpuinfo");
    if has_gic_v3() {
        assert_eq!(ended.success(), "18\n18\n");
    } else {
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("serves at most 8"), "{ended:?}");
        let nine = boot(&["--cpus", "9"], "true");
        assert_eq!(nine.code, Some(2), "{nine:?}");
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

#[test]
fn linux_has_the_time_of_day_from_its_clock() {
    let Some(_) = guests() else { return };
    let before = now();
    let out = in_guest(&[], "date +%s; dmesg | grep rtc-pl031");
    let time: u64 = out.lines().next().unwrap().parse().unwrap();
    assert!((before..=now()).contains(&time), "{before}: {out}");
    assert!(out.contains("setting system clock to"), "{out}");
}

#[test]
fn the_serial_port_prints_from_the_first_moment_if_told_to() {
    let Some(_) = guests() else { return };
    // It ends soon, by a panic.
    let cmdline = "loglevel=7 earlycon=uart8250,mmio,0x9000000 root=/dev/vdx";
    let ended = finish(mote(&["--cmdline", cmdline]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    // Before the real console is there.
    for text in ["earlycon: uart8250 at MMIO", "Linux version", "Zone ranges"] {
        assert!(ended.out.contains(text), "{text}: {ended:?}");
    }
}

#[test]
fn the_device_tree_is_there_to_read() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "d", 4096);
    let script = "cd /proc/device-tree; for f in psci/method timer/compatible cpus/cpu@0/enable-method \
                  memory@40000000/device_type chosen/stdout-path serial@9000000/compatible; \
                  do tr -d '\\000' < $f; echo; done; \
                  od -An -tx1 memory@40000000/reg; ls | grep -c ^virtio_mmio; \
                  tr -d '\\000' < chosen/bootargs | md5sum; tr -d '\\n' < /proc/cmdline | md5sum";
    let out = in_guest(&["--disk", path(&disk)], script);
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    let expected = [
        "hvc",
        "arm,armv8-timer",
        "psci",
        "memory",
        "serial0:115200n8",
        "ns16550a",
        "00 00 00 00 40 00 00 00 00 00 00 00 08 00 00 00",
        "3", // two drives and the entropy device
    ];
    assert_eq!(lines[..8], expected, "{out}");
    assert_eq!(lines[8], lines[9], "{out}");
}

#[test]
fn dtc_finds_no_fault_in_the_device_tree() {
    let Some(_) = guests() else { return };
    let there = Command::new("dtc").arg("--version").output();
    let obstacle = there
        .err()
        .map(|e| format!("dtc: {e}: install device-tree-compiler"));
    if !can_run("dtc", obstacle) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let large = "--cpus 8 --memory 512M --numa node=0,cpus=0-5,memory=256M \
                 --numa node=1,cpus=6-7,memory=256M --balloon --vsock cid=5,socket=";
    let large = format!("{large}{}", path(&folder.path().join("v")));
    for more in ["", "--console none --rng off", &large] {
        let mut arguments: Vec<_> = more.split_whitespace().collect();
        arguments.extend(["--dump-fdt", path(&tree)]);
        boot(&arguments, "true").success();
        let mut dtc = Command::new("dtc");
        let output = dtc
            .args(["-I", "dtb", "-O", "dts"])
            .arg(&tree)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && complaints.is_empty(),
            "{more}: {complaints}"
        );
        fs::remove_file(&tree).unwrap();
    }
}

#[test]
fn masked_features_are_hidden_from_linux() {
    let Some(_) = guests() else { return };
    let features = |mask: &[&str]| {
        let out = in_guest(mask, "grep -m1 ^Features /proc/cpuinfo");
        let words = out.split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let all = features(&[]);
    let there = all.iter().any(|name| name == "aes");
    let writable = common::kvm().is_some_and(|host| host.has_writable_id_registers());
    let obstacle = match (there, writable) {
        (false, _) => Some("this host has no AES instructions"),
        (_, false) => Some("this KVM lets nobody change ID registers"),
        _ => None,
    };
    if !can_run("id-registers", obstacle.map(str::to_owned)) {
        return;
    }
    let masked = features(&["--cpu-mask", "aes"]);
    // Carry-less multiplication is a higher value of the same field.
    let kept = all.iter().filter(|name| *name != "aes" && *name != "pmull");
    assert_eq!(kept.collect::<Vec<_>>(), masked.iter().collect::<Vec<_>>());
}

#[test]
fn little_memory_is_enough_and_more_than_the_host_has_is_no_obstacle() {
    let Some(_) = guests() else { return };
    let total = |more: &[&str]| -> u64 {
        let out = in_guest(more, "grep MemTotal /proc/meminfo");
        out.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let small = total(&["--memory", "24M"]);
    assert!((12 << 10..24 << 10).contains(&small), "{small} KiB");
    // Nearly all that 40 bits of address leave above the devices. Linux is told not to count it all.
    let ended = finish(mote(&[
        "--memory",
        "1000G",
        "--cmdline",
        "mem=128M mote.run=\"echo up\"",
    ]));
    assert_eq!(ended.success(), "up\n");
}
