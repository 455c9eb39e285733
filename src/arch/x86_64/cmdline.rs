//! The command line that makes a Linux guest start fast: what it needn't look for, wait for or
//! measure. docs/boot.md gives the reason for each at more length.

use crate::arch::MmioDevice;

/// For every guest.
pub const DEFAULTS: &[&str] = &[
    // Each line on the serial port is dozens of exits; errors are still shown.
    "quiet",
    // A panic ends the VM at once, and "warm" makes it known from a reboot (machine/ending.rs);
    // a triple fault is the reset with the fewest exits.
    "panic=-1",
    "reboot=panic_warm,t",
    // KVM tells the TSC's frequency and keeps it stable: don't watch it against another clock.
    "tsc=reliable",
    // The IOAPIC's timer line works: don't wait ten ticks to see it.
    "no_timer_check",
    // There is no PCI bus, and probing one is port exits.
    "pci=off",
    // There is no mouse. There is a keyboard, for Ctrl-Alt-Del.
    "i8042.noaux",
    // Seed the random number generator from the CPU instead of waiting for noise.
    "random.trust_cpu=on",
    // Known crypto code needs no self-tests at each boot of a stock kernel.
    "cryptomgr.notests",
];

/// With one vCPU: a kernel for many would take the lock prefixes out of its code at boot, one page
/// table switch each. That is a seventh of all its instructions, and saves later about 2 ns for each.
pub const WITH_ONE_CPU: &[&str] = &["noreplace-smp"];

/// With a serial port.
pub const WITH_SERIAL: &[&str] = &["console=ttyS0"];

/// Without one: don't look for any, each costs dozens of exits.
pub const WITHOUT_SERIAL: &[&str] = &["8250.nr_uarts=0"];

/// With a virtio console.
pub const WITH_HVC: &[&str] = &["console=hvc0"];

/// With the MP table only: don't look for ACPI tables in the BIOS area.
pub const WITHOUT_ACPI: &[&str] = &["acpi=off"];

/// How the kernel is told of a virtio-mmio device that no table tells it of (Linux
/// drivers/virtio/virtio_mmio.c).
pub fn virtio_mmio(device: &MmioDevice) -> Option<String> {
    let MmioDevice { address, gsi } = device;
    Some(format!("virtio_mmio.device=4K@{address:#x}:{gsi}"))
}
