//! What x86_64's Linux guests differ in from others, and the tests of what only they have.

mod boot;
mod idle;
mod life;

/// The default guest's kernel, in its folder.
pub const KERNEL: &str = "vmlinux";
/// In the name of the stock kernel.
pub const STOCK: &str = "cloud-amd64";

/// Exits to user space with no console come to fewer up to init, and with no entropy device either.
pub const EXITS_TO_INIT: u64 = 60;
pub const EXITS_WITHOUT_RNG: u64 = 30;
/// The set-up of a device with one queue (docs/devices.md).
pub const EXITS_OF_RNG: u64 = 20;
/// CPUID is asked for once, however many vCPUs there are.
pub const SUPPORTED_CPUID_CALLS: u64 = 1;

/// KiB of a released binary that are resident besides the guest stay below this; 4,970 or so are.
pub const RESIDENT_KIB: u64 = 11 << 9;

/// What Linux reads the time from.
pub const CLOCK: &str = "kvm-clock";
/// The word that has it poll.
pub const POLLS: &str = "idle=poll";
/// So many CPUs, and which of them are online.
pub const CPUS: &[(&str, &str)] = &[("1", "0"), ("4", "0-3"), ("32", "0-31")];

/// A command of the stock kernel's guest that counts the virtio devices it was told of: by ACPI.
pub const COUNT_TOLD_DEVICES: &str = "ls /sys/bus/acpi/devices | grep -c LNRO0005";
/// What to look for in its log, and what it says of the memory of three NUMA nodes, the second of which goes
/// on above the device gap.
pub const NUMA_MEMORY: (&str, &[&str]) = (
    "SRAT: Node",
    &[
        "SRAT: Node 0 PXM 0 [mem 0x00000000-0x3fffffff]",
        "SRAT: Node 1 PXM 1 [mem 0x40000000-0xbfffffff]",
        "SRAT: Node 1 PXM 1 [mem 0x100000000-0x103ffffff]",
        "SRAT: Node 2 PXM 2 [mem 0x104000000-0x107ffffff]",
    ],
);

/// The first mapped drive of a guest of 128 MiB: where RAM would be at 4 GiB.
pub const MAPPED_DRIVE: u64 = 4 << 30;
/// What a program says that stores a number of floating point to a `ro` drive, by SSE: to KVM an invalid
/// opcode, and so an illegal instruction (SIGILL is 4).
pub const FLOAT_STORED: &str = "signal 4";

/// The sample of those exits of the first vCPU that the serial port has caused.
pub const SERIAL_EXITS: &str = "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"io\"}";

/// Bytes that go each way where the host is emulated: a minute or two.
pub const EMULATED_BULK: usize = 512 << 20;

/// How another monitor runs the default guest on its kind of small machine.
pub const OTHER_MONITOR: &str = "-M microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on -serial stdio \
     -append 'quiet console=ttyS0 reboot=t root=/dev/vda ro no_timer_check'";

/// A size in KiB that the kernel's code and read-only data stay below, with a file of so many bytes: a vmlinux
/// has its data apart.
pub fn least_beyond_text(file: u64) -> u64 {
    file >> 10
}

/// What a guest's root writes to, as pages: the boot timer and the virtio devices.
pub const REGISTERS: &str = "0xd0000000 9";
/// And what it does with all other devices: every port but those of KVM's own timers and interrupt controllers, and
/// those that reset or switch off.
pub const BOARD: &str = "ports 8000 0x22 0x40 0x44 0x60 0x65 0xa0 0xa2 0x4d0 0x4d2 0x600 0x608 0x10000 \
     0x3f8 0x400; /tmp/attack ports 2000 0x60 0x65 0x600 0x608";

/// Why KVM can't run Linux here: a /dev/kvm alone says little.
pub fn no_hardware() -> Option<&'static str> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut words = info.split_whitespace();
    let hardware = words.any(|word| word == "vmx" || word == "svm");
    let obstacle =
        "this host's CPU shows neither vmx nor svm; run this through resources/on-kvm.sh";
    (!hardware).then_some(obstacle)
}
