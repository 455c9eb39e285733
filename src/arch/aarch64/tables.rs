//! What the guest's kernel reads first: the device tree, with its command line in it.

use std::path::Path;

use vm_memory::GuestMemoryMmap;

use super::irqchip::Irqchip;
use super::layout;
use super::vcpus::Cpus;
use crate::arch::fdt::{self, Description, FdtError, host};
use crate::arch::{Machine, MmioDevice};
use crate::boot::FileFormat;
use crate::config::{Acpi, ConfigError, NumaNode, VmConfig};
use crate::placement::{Plan, VcpuPlace};

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The device tree.
    #[error(transparent)]
    Fdt(#[from] FdtError),
}

impl TablesError {
    /// Whether it is the user's part to mend this.
    pub fn is_of_user(&self) -> bool {
        matches!(
            self,
            TablesError::Fdt(FdtError::Save { .. } | FdtError::TooLarge { .. })
        )
    }
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

/// What to say to a user whose guest didn't find its devices: nothing, there is one way to tell it.
pub fn how_told(_acpi: bool) -> &'static str {
    ""
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
    let nodes = NumaNode::in_order(machine.nodes);
    let sizes: Vec<_> = nodes.map(|node| node.memory.bytes()).collect();
    let ram = match sizes.len() {
        0 => vec![layout::ram_ranges(machine.memory)],
        _ => layout::split_ram(&sizes),
    };
    let serial = MmioDevice {
        address: layout::SERIAL_PORT,
        gsi: layout::SERIAL_GSI,
    };
    let description = Description {
        cmdline: machine.cmdline,
        initrd: machine.initrd,
        ram: &ram,
        nodes: machine.nodes,
        cpus: &cpus.affinities,
        capacities: &capacities(machine.plan),
        caches: host::caches(),
        gic: irqchip.gic,
        pmu: cpus.pmu,
        serial: machine.serial.then_some(serial),
        rtc: layout::RTC,
        devices: machine.devices,
    };
    fdt::write(&description, memory, layout::FDT, layout::FDT_SIZE)?;
    Ok(())
}

/// How fast each vCPU is, where each has a CPU of its own: otherwise the host moves them about.
fn capacities(plan: Option<&Plan>) -> Vec<u32> {
    let own = |place: &VcpuPlace| match place.cpus.as_ref()?.len() {
        1 => place.cpus.as_ref()?.iter().next(),
        _ => None,
    };
    let cpus: Option<Vec<_>> = plan.and_then(|plan| plan.vcpus.iter().map(own).collect());
    host::capacities(&cpus.unwrap_or_default())
}

/// Writes the device tree to a file, before the guest has run (`--dump-fdt`).
///
/// # Errors
///
/// See [`TablesError`].
pub fn dump(memory: &GuestMemoryMmap<()>, path: &Path) -> Result<(), TablesError> {
    Ok(fdt::save(memory, layout::FDT, path)?)
}
