//! What AArch64's Linux guests differ in from others, and the tests of what only they have.

mod boot;
mod machine;
mod stock;

/// The default guest's kernel, in its folder.
pub const KERNEL: &str = "Image";
/// In the name of the stock kernel.
pub const STOCK: &str = "cloud-arm64";

/// Exits to user space with no console come to fewer up to init, and with no entropy device either: 4 of
/// them are the clock's, 1 is the boot timer's, and 20 are a device's with one queue (docs/devices.md).
pub const EXITS_TO_INIT: u64 = 46;
pub const EXITS_WITHOUT_RNG: u64 = 26;
pub const EXITS_OF_RNG: u64 = 20;
/// There is no CPUID.
pub const SUPPORTED_CPUID_CALLS: u64 = 0;

/// KiB of a released binary that are resident besides the guest stay below this; 4,440 or so are.
pub const RESIDENT_KIB: u64 = 5 << 10;

/// What Linux reads the time from.
pub const CLOCK: &str = "arch_sys_counter";
/// The word that has it poll.
pub const POLLS: &str = "nohlt";
/// So many CPUs, and which of them are online; a GICv2 serves 8.
pub const CPUS: &[(&str, &str)] = &[("1", "0"), ("2", "0-1"), ("8", "0-7")];

/// A command of the stock kernel's guest that counts the virtio devices it was told of: by the device tree.
pub const COUNT_TOLD_DEVICES: &str = "ls /proc/device-tree | grep -c ^virtio_mmio";
/// What to look for in its log, and what it says of the memory of three NUMA nodes.
pub const NUMA_MEMORY: (&str, &[&str]) = (
    "Initmem setup node",
    &[
        "Initmem setup node 0 [mem 0x0000000040000000-0x000000007fffffff]",
        "Initmem setup node 1 [mem 0x0000000080000000-0x0000000103ffffff]",
        "Initmem setup node 2 [mem 0x0000000104000000-0x0000000107ffffff]",
    ],
);

/// The first mapped drive of a guest of 128 MiB: behind its RAM.
pub const MAPPED_DRIVE: u64 = (1 << 30) + (128 << 20);
/// What a program says that stores a number of floating point to a `ro` drive: that is passed over.
pub const FLOAT_STORED: &str = "signal 0";

/// The sample of those exits of the first vCPU that the serial port has caused.
pub const SERIAL_EXITS: &str = "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"mmio_user\"}";

/// Bytes that go each way where the host is emulated: a minute or two.
pub const EMULATED_BULK: usize = 128 << 20;

/// How another monitor runs the default guest: its machine has no serial port that this kernel knows.
pub const OTHER_MONITOR: &str = "-M virt,gic-version=host -device virtio-serial-device \
     -chardev stdio,id=console -device virtconsole,chardev=console \
     -append 'quiet console=hvc0 root=/dev/vda ro'";

/// A size in KiB that the kernel's code and read-only data stay below, with a file of so many bytes: an Image
/// doesn't tell them from its data, so that all of its pages are taken for them.
pub fn least_beyond_text(file: u64) -> u64 {
    (file.next_multiple_of(4096) >> 10) + 1
}

/// What a guest's root writes to, as pages: the virtio devices.
pub const REGISTERS: &str = "0x0a000000 8";
/// And what it does with all other devices: serial port, clock, boot timer; then the interrupt controller.
pub const BOARD: &str = "registers 3000 0x09000000 1 0x09010000 1 0x09020000 1; \
     /tmp/attack registers 1000 0x08000000 16 0x080a0000 32";

/// Why KVM can't run Linux here: where there is a /dev/kvm, it can.
pub fn no_hardware() -> Option<&'static str> {
    let missing = !std::path::Path::new("/dev/kvm").exists();
    missing.then_some("/dev/kvm is missing; run this through resources/on-kvm.sh")
}
