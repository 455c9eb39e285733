//! What the guest's kernel reads first: its command line, a description of the machine (ACPI, or an MP
//! table and nothing else), and what its entry protocol asks for.

use vm_memory::{GuestMemoryError, GuestMemoryMmap};

use super::acpi::{self, AcpiError};
use super::irqchip::Irqchip;
use super::vcpus::Cpus;
use super::{layout, mptable};
use crate::arch::Machine;
use crate::boot::{self, BootTableError, Entry, FileFormat};
use crate::config::{Acpi, ConfigError, VmConfig};

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// Those of the entry protocol, or the command line.
    #[error(transparent)]
    Boot(#[from] BootTableError),
    /// ACPI.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The MP table.
    #[error("writing boot structures: {0}")]
    GuestMemory(#[from] GuestMemoryError),
}

/// Whether the guest is told of its machine by ACPI. By itself where its kernel is a stock one, or
/// where nothing else could tell it what it has to know.
///
/// # Errors
///
/// None on this architecture.
pub fn by_acpi(config: &VmConfig, kernel: FileFormat) -> Result<bool, ConfigError> {
    Ok(match config.acpi {
        Acpi::On => true,
        Acpi::Off => false,
        Acpi::Auto => kernel == FileFormat::BzImage || config.has_numa_table(),
    })
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
    _irqchip: &Irqchip,
) -> Result<(), TablesError> {
    boot::write_cmdline(memory, machine.cmdline, layout::CMDLINE)?;
    // As many as `Cpus` was told to make, which is a u8.
    let count = cpus.vcpus.len() as u8;
    let rsdp = match machine.acpi {
        true => Some(acpi::write_acpi(
            memory,
            count,
            machine.devices,
            machine.serial,
            machine.nodes,
        )?),
        false => {
            mptable::write_mptable(memory, count)?;
            None
        }
    };
    let write = match machine.entry {
        Entry::Linux64(_) => boot::write_zero_page,
        _ => boot::write_pvh,
    };
    let (map, initrd) = (layout::memory_map(machine.memory), machine.initrd);
    write(
        memory,
        &map,
        layout::CMDLINE,
        initrd,
        rsdp,
        layout::BOOT_PARAMS,
    )?;
    Ok(())
}
