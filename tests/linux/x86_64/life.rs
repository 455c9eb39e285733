//! Features hidden, crashes and endings as only x86_64 has them.

use crate::*;

#[test]
fn masked_features_are_hidden_from_linux() {
    let Some(_) = guests() else { return };
    let flags = |mask: &[&str]| {
        let out = in_guest(mask, "grep -m1 ^flags /proc/cpuinfo");
        out.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (all, masked) = (flags(&[]), flags(&["--cpu-mask", "cx16,popcnt,rdrand"]));
    let has = |flags: &[String], name: &str| flags.iter().any(|flag| flag == name);
    for name in ["cx16", "popcnt"] {
        assert!(has(&all, name) && !has(&masked, name), "{name}: {masked:?}");
    }
    assert!(
        has(&masked, "hypervisor") && has(&masked, "tsc_deadline_timer"),
        "{masked:?}"
    );
}

#[test]
fn a_damaged_kernel_is_a_crash_with_its_registers() {
    use motevm::boot::{Architecture, Entry, KernelOptions, load_kernel};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
    let Some(guests) = guests() else { return };
    // An undefined instruction at the entry point, where no handler for it exists yet: a triple
    // fault that no kernel announced.
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
    let loaded = load_kernel(
        &guests.kernel,
        Architecture::X86_64,
        &memory,
        &KernelOptions::default(),
    )
    .unwrap();
    let Entry::Pvh(entry) = loaded.entry else {
        panic!("{loaded:?}")
    };
    let mut code = [0; 64];
    memory.read_slice(&mut code, entry).unwrap();
    let mut kernel = fs::read(&guests.kernel).unwrap();
    let at = kernel
        .windows(code.len())
        .position(|window| window == code)
        .unwrap();
    kernel[at..at + 2].copy_from_slice(&[0x0f, 0x0b]);
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("vmlinux");
    fs::write(&damaged, kernel).unwrap();
    let ended = finish(mote(&["--kernel", path(&damaged)]));
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains("triple fault"), "{ended:?}");
    // On AMD hosts KVM resets the vCPU before anyone can look at it, and mote says so.
    if !ended.err.contains("registers: lost (on AMD") {
        let rip = format!("rip {:#018x}", entry.0);
        assert!(ended.err.contains(&rip), "{ended:?}");
        assert!(ended.err.contains("code: 0f 0b"), "{ended:?}");
    }
}

#[test]
fn a_guest_ends_by_the_keyboard_controller() {
    let Some(_) = guests() else { return };
    // A user's own reboot= takes away what tells a panic from a reboot, as docs/boot.md says;
    // through the keyboard controller the guest still ends.
    let keyboard = finish(mote(&["--cmdline", "reboot=k mote.run=\"true\""]));
    assert_eq!(keyboard.code, Some(0), "{keyboard:?}");
}

#[test]
fn a_kernel_without_acpi_that_is_told_by_acpi_gets_advice() {
    let Some(guests) = guests() else { return };
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let kernel = path(&guests.kernel);
    let ended = finish(mote(&[
        "--kernel", kernel, "--rootfs", &rootfs, "--acpi", "on",
    ]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("--acpi off"), "{ended:?}");
}
