//! What a kernel reads when it is entered by PVH: `struct hvm_start_info` version 1, then the
//! module list and the memory map (Xen public/arch-x86/hvm/start_info.h).

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::initrd::InitrdRange;
use super::memory_map::{self, BootTableError, MemoryMapEntry};

/// "xEn3", with the highest bit of the E set.
const START_INFO_MAGIC: u32 = 0x336E_C578;
const START_INFO_SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;

/// Writes the start info, the module list (the initrd) and the memory map, one after the
/// other, at `at`; EBX must hold that address at the entry. Returns the first address after
/// them: `at` + 88 + 24 for each entry of the map, at most.
///
/// # Errors
///
/// See [`BootTableError`]: a mistake of the caller's layout.
pub fn write_pvh(
    memory: &GuestMemoryMmap<()>,
    map: &[MemoryMapEntry],
    cmdline: GuestAddress,
    initrd: Option<InitrdRange>,
    rsdp: Option<GuestAddress>,
    at: GuestAddress,
) -> Result<GuestAddress, BootTableError> {
    memory_map::check(map, cmdline, initrd)?;
    let modules = u32::from(initrd.is_some());
    let modules_at = at.0.saturating_add(START_INFO_SIZE);
    let map_at = modules_at.saturating_add(MODULE_SIZE * u64::from(modules));

    let mut table = Vec::with_capacity(4096);
    table.extend(START_INFO_MAGIC.to_le_bytes());
    table.extend(1u32.to_le_bytes()); // version
    table.extend(0u32.to_le_bytes()); // flags
    table.extend(modules.to_le_bytes()); // nr_modules
    table.extend(if modules == 0 { 0 } else { modules_at }.to_le_bytes()); // modlist_paddr
    table.extend(cmdline.0.to_le_bytes()); // cmdline_paddr
    table.extend(rsdp.map_or(0, |rsdp| rsdp.0).to_le_bytes()); // rsdp_paddr
    table.extend(map_at.to_le_bytes()); // memmap_paddr
    table.extend((map.len() as u32).to_le_bytes()); // memmap_entries
    table.extend(0u32.to_le_bytes()); // reserved
    if let Some(initrd) = initrd {
        // paddr, size, cmdline_paddr, reserved
        for field in [initrd.start.0, initrd.size, 0, 0] {
            table.extend(field.to_le_bytes());
        }
    }
    for entry in map {
        table.extend(entry.addr.to_le_bytes());
        table.extend(entry.size.to_le_bytes());
        table.extend(entry.kind.e820_type().to_le_bytes());
        table.extend(0u32.to_le_bytes()); // reserved
    }
    memory_map::write("PVH start info", memory, &table, at)?;
    Ok(GuestAddress(at.0.saturating_add(table.len() as u64)))
}
