//! How a VM is used and how it ends.

use super::*;

#[test]
fn input_reaches_the_guests_shell() {
    let Some(_) = guests() else { return };
    let mut command = mote(&[]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The input must survive the time before the guest's shell reads it.
    input
        .write_all(b"echo answer-$((40 + 2))\necho $(tty)\nexit\n")
        .unwrap();
    drop(input);
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&stdout);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("answer-42"), "{text}");
}

#[test]
fn each_way_to_end_has_its_exit_status() {
    let Some(_) = guests() else { return };
    assert_eq!(
        boot(&[], "true").code,
        Some(0),
        "init's own end is a reboot"
    );
    assert_eq!(boot(&[], "reboot; sleep 20").code, Some(0));
    assert_eq!(boot(&[], "poweroff; sleep 20").code, Some(0));
    let panic = boot(&[], "echo c > /proc/sysrq-trigger");
    assert_eq!(panic.code, Some(4), "{panic:?}");
    assert!(panic.err.contains("kernel panicked"), "{panic:?}");
    // A user's own reboot= takes away what tells a panic from a reboot, as docs/boot.md says;
    // through the keyboard controller the guest still ends.
    let keyboard = finish(mote(&["--cmdline", "reboot=k mote.run=\"true\""]));
    assert_eq!(keyboard.code, Some(0), "{keyboard:?}");
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
        &guests.vmlinux,
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
    let mut kernel = fs::read(&guests.vmlinux).unwrap();
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
fn a_missing_root_panics_with_advice() {
    let Some(guests) = guests() else { return };
    let ended = finish(mote(&[
        "--kernel",
        path(&guests.vmlinux),
        "--cmdline",
        "root=/dev/vdx",
    ]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("hint: "), "{ended:?}");
    // An ACPI-only way of finding devices, and a kernel without ACPI: the advice is to the point.
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let kernel = path(&guests.vmlinux);
    let ended = finish(mote(&[
        "--kernel", kernel, "--rootfs", &rootfs, "--acpi", "on",
    ]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("--acpi off"), "{ended:?}");
}

#[test]
fn sigterm_ends_a_running_guest() {
    let Some(_) = guests() else { return };
    let mut child = mote(&["--cmdline", "mote.run=\"echo up; sleep 1000\""])
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"up") {
        assert_eq!(
            out.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    // SAFETY: a process that this test started and has not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
