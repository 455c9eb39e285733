//! What the guest's kernel reads first: the device tree, with its command line in it.

use vm_memory::GuestMemoryMmap;

use super::irqchip::Irqchip;
use super::layout;
use super::vcpus::Cpus;
use crate::arch::fdt::{self, Description, FdtError, host};
use crate::arch::{Machine, MmioDevice};
use crate::boot::FileFormat;
use crate::config::{Acpi, ConfigError, VmConfig};

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The device tree.
    #[error(transparent)]
    Fdt(#[from] FdtError),
}

/// Whether the guest is told of its machine by ACPI: never, on this architecture.
///
/// # Errors
///
/// It was asked for.
pub fn by_acpi(config: &VmConfig, _kernel: FileFormat) -> Result<bool, ConfigError> {
    match config.acpi {
        Acpi::On => Err(ConfigError::NotHere(
            "--acpi on",
            "AArch64 guests are told of their machine by a device tree",
        )),
        Acpi::Off | Acpi::Auto => Ok(false),
    }
}

/// Writes all of it.
///
/// # Errors
///
/// See [`TablesError`].
pub fn write(
    memory: &GuestMemoryMmap<()>,
    machine: &Machine,
    cpus: &Cpus,
    irqchip: &Irqchip,
) -> Result<(), TablesError> {
    let sizes: Vec<_> = machine
        .nodes
        .iter()
        .map(|node| node.memory.bytes())
        .collect();
    let ram = match sizes.len() {
        0 => vec![layout::ram_ranges(machine.memory)],
        _ => layout::split_ram(&sizes),
    };
    let device = |address, gsi| MmioDevice { address, gsi };
    let description = Description {
        cmdline: machine.cmdline,
        initrd: machine.initrd,
        ram: &ram,
        nodes: machine.nodes,
        cpus: &cpus.affinities,
        capacities: &[],
        caches: host::caches(),
        gic: irqchip.gic,
        pmu: cpus.pmu,
        serial: machine
            .serial
            .then(|| device(layout::SERIAL_PORT, layout::SERIAL_GSI)),
        rtc: Some(device(layout::RTC, layout::RTC_GSI)),
        devices: machine.devices,
    };
    fdt::write(&description, memory, layout::FDT, layout::FDT_SIZE)?;
    Ok(())
}
