//! What both boot protocols tell the kernel about memory, and the errors of writing it.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::initrd::InitrdRange;

/// The most entries of a memory map: what the zero page holds (Linux
/// arch/x86/include/uapi/asm/setup_data.h, `E820_MAX_ENTRIES_ZEROPAGE`), less one that Linux
/// adds to a PVH map.
pub(super) const MAX_ENTRIES: usize = 127;

/// What a range of guest-physical addresses is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram,
    /// Not to be touched.
    Reserved,
    /// ACPI tables: usable once the kernel has read them.
    Acpi,
}

impl MemoryKind {
    /// The number that E820 and PVH have for it (ACPI 6.5 §15, "System Address Map").
    pub(super) fn e820_type(self) -> u32 {
        match self {
            MemoryKind::Ram => 1,
            MemoryKind::Reserved => 2,
            MemoryKind::Acpi => 3,
        }
    }
}

/// One range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// The first address.
    pub addr: u64,
    /// The size in bytes.
    pub size: u64,
    /// What it is for.
    pub kind: MemoryKind,
}

/// Why the tables for the kernel could not be written: mistakes of the caller's memory
/// layout, not of a user or a guest.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum BootTableError {
    #[error("the memory map has {0} entries: the kernel takes at most {MAX_ENTRIES}")]
    TooManyEntries(usize),
    #[error("the memory map's entry at {0:#x} is empty or ends beyond the last address")]
    BadEntry(u64),
    #[error("the {what} is at {address:#x}: the boot protocol needs it below 4 GiB")]
    Above4GiB { what: &'static str, address: u64 },
    #[error("cannot write the {what} at {address:#x}: {problem}")]
    Write {
        what: &'static str,
        address: u64,
        problem: String,
    },
}

/// Checks what no guest should see wrong.
pub(super) fn check(
    map: &[MemoryMapEntry],
    cmdline: GuestAddress,
    initrd: Option<InitrdRange>,
) -> Result<(), BootTableError> {
    if map.len() > MAX_ENTRIES {
        return Err(BootTableError::TooManyEntries(map.len()));
    }
    let bad = |entry: &&MemoryMapEntry| {
        entry.size == 0 || entry.addr.checked_add(entry.size - 1).is_none()
    };
    if let Some(entry) = map.iter().find(bad) {
        return Err(BootTableError::BadEntry(entry.addr));
    }
    // Linux copies the PVH command line by a 32-bit address, and so the initrd's.
    below_4_gib("command line", cmdline.0)?;
    if let Some(initrd) = initrd {
        below_4_gib(
            "end of the initrd",
            initrd.start.0.saturating_add(initrd.size),
        )?;
    }
    Ok(())
}

fn below_4_gib(what: &'static str, address: u64) -> Result<(), BootTableError> {
    if address > u64::from(u32::MAX) {
        return Err(BootTableError::Above4GiB { what, address });
    }
    Ok(())
}

/// Writes a finished table.
pub(super) fn write(
    what: &'static str,
    memory: &GuestMemoryMmap<()>,
    table: &[u8],
    at: GuestAddress,
) -> Result<(), BootTableError> {
    memory
        .write_slice(table, at)
        .map_err(|error| BootTableError::Write {
            what,
            address: at.0,
            problem: error.to_string(),
        })
}
