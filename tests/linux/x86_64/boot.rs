//! The kernel files that only x86_64 has, and its second kernel.

use crate::*;

#[test]
fn elf_boots_by_pvh_and_by_the_64_bit_protocol() {
    let Some(guests) = guests() else { return };
    let rootfs = format!("{},ro", path(&guests.rootfs));
    for protocol in ["auto", "linux64"] {
        let more = [
            "--kernel",
            path(&guests.kernel),
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
    let kernel = made_for_this("guest").join("bzImage");
    boot::packed(&guests, &kernel, &["--acpi", "off"]);
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
