//! What the guest's kernel reads first: its command line, a description of the machine (ACPI, or an MP
//! table and nothing else), and what its entry protocol asks for.

use std::path::Path;

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
    /// There is nothing of the kind that was asked for.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The MP table.
    #[error("writing boot structures: {0}")]
    GuestMemory(#[from] GuestMemoryError),
}

impl TablesError {
    /// Whether it is the user's part to mend this.
    pub fn is_of_user(&self) -> bool {
        matches!(self, TablesError::Config(_))
    }
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

/// What to say to a user whose guest didn't find its devices: how it was told of them.
pub fn how_told(acpi: bool) -> &'static str {
    match acpi {
        true => {
            "It was told of them with --acpi on: a kernel built otherwise may need --acpi off. "
        }
        false => {
            "It was told of them with --acpi off: a kernel built otherwise may need --acpi on. "
        }
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

/// Writes the device tree to a file (`--dump-fdt`): there is none.
///
/// # Errors
///
/// That.
pub fn dump(_memory: &GuestMemoryMmap<()>, _path: &Path) -> Result<(), TablesError> {
    Err(TablesError::Config(ConfigError::NotHere(
        "--dump-fdt",
        "x86_64 guests are told of their machine by ACPI or an MP table, not by a device tree",
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_tree_is_refused_with_the_reason() {
        let memory = GuestMemoryMmap::from_ranges(&[(layout::RSDP, 0x1000)]).unwrap();
        let error = dump(&memory, Path::new("tree")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--dump-fdt: x86_64 guests are told of their machine by ACPI or an MP table, not by a device \
             tree; leave it out"
        );
        assert!(error.is_of_user());
    }

    #[test]
    fn advice_names_the_other_way() {
        assert!(how_told(false).contains("--acpi on"));
        assert!(how_told(true).contains("--acpi off"));
    }
}
