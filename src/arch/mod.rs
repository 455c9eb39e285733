//! What differs between processors. Each architecture has the same files and function names, as far as
//! the rest of mote calls them.

// Only AArch64 has a use for these two, and their tests run everywhere.
#[cfg(any(target_arch = "aarch64", test, feature = "fuzzing"))]
pub mod a64;
#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(any(target_arch = "aarch64", test, feature = "fuzzing"))]
pub mod fdt;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "mote runs on x86_64 and aarch64: another architecture needs its own folder under src/arch"
);

/// A virtio-mmio device as the guest is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Start of its one page of registers.
    pub address: u64,
    /// Its interrupt line: of the IOAPIC on x86_64, a shared peripheral interrupt (SPI) on AArch64.
    pub gsi: u32,
}

/// What a guest noted in its memory before it reset the machine on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// A reboot.
    Reset,
    /// A reboot after its kernel's panic.
    Panic,
}

/// What a VM's processors are to be.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions<'a> {
    /// How many.
    pub cpus: u8,
    /// Features that the guest isn't to see.
    pub mask: &'a [features::Feature],
    /// The ways of waiting that are the guest's own.
    pub own_waits: idle::OwnWaits,
    /// Whether the guest has performance counters.
    pub pmu: bool,
}

/// What the guest is told of its machine, apart from the devices that it always has.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The kernel's command line.
    pub cmdline: &'a std::ffi::CStr,
    /// Where the kernel is entered.
    pub entry: crate::boot::Entry,
    /// Where the initrd is.
    pub initrd: Option<crate::boot::InitrdRange>,
    /// The size of RAM in bytes.
    pub memory: u64,
    /// The NUMA nodes, where they were given.
    pub nodes: &'a [crate::config::NumaNode],
    /// The virtio devices, in order.
    pub devices: &'a [MmioDevice],
    /// Whether there is a serial port.
    pub serial: bool,
    /// Whether it is told by ACPI.
    pub acpi: bool,
    /// Where its vCPUs are on the host, if that was asked for.
    pub plan: Option<&'a crate::placement::Plan>,
}
