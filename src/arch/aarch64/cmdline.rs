//! The command line that makes a Linux guest start fast: what it needn't look for, wait for or
//! measure. docs/boot.md gives the reason for each at more length.

use crate::arch::MmioDevice;

/// For every guest.
pub const DEFAULTS: &[&str] = &[
    // Each line on the serial port is dozens of exits; errors are still shown.
    "quiet",
    // A panic ends the VM at once, and "warm" makes it known from a reboot (reboot.rs).
    "panic=-1",
    "reboot=panic_warm",
    // Seed the random number generator from the CPU, and the device tree, instead of waiting for noise.
    "random.trust_cpu=on",
    // Devices reach all of memory: no buffer for those that don't, 64 MiB of it where RAM goes beyond 4 GiB.
    "swiotlb=noforce",
    // Known crypto code needs no self-tests at each boot of a stock kernel.
    "cryptomgr.notests",
];

/// With one vCPU: nothing more.
pub const WITH_ONE_CPU: &[&str] = &[];

/// With a serial port.
pub const WITH_SERIAL: &[&str] = &["console=ttyS0"];

/// Without one: the kernel looks only where the device tree says that there is one.
pub const WITHOUT_SERIAL: &[&str] = &[];

/// With a virtio console.
pub const WITH_HVC: &[&str] = &["console=hvc0"];

/// Without ACPI, which is always: the device tree says so.
pub const WITHOUT_ACPI: &[&str] = &[];

/// The device tree tells of virtio-mmio devices.
pub fn virtio_mmio(_device: &MmioDevice) -> Option<String> {
    None
}
