//! What a kernel reads when it is entered by the 64-bit boot protocol: `struct boot_params`,
//! the "zero page" (Linux Documentation/arch/x86/zero-page.rst and boot.rst).

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::cmdline::COMMAND_LINE_SIZE;
use super::initrd::InitrdRange;
use super::memory_map::{self, BootTableError, MemoryMapEntry};

/// The size in bytes of `struct boot_params`.
const ZERO_PAGE_SIZE: usize = 4096;
// Offsets in the zero page, zero-page.rst.
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1E8;
const E820_TABLE: usize = 0x2D0;
const E820_ENTRY_SIZE: usize = 20;
// Offsets of the setup header's fields, boot.rst.
const BOOT_FLAG: usize = 0x1FE;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const CMD_LINE_PTR: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const CMDLINE_SIZE: usize = 0x238;

/// Writes the zero page at `at`; RSI must hold that address at the entry. Returns the first
/// address after it.
///
/// What lies above 4 GiB would go to the `ext_` fields; the initrd and the command line are
/// kept below instead, where PVH needs them too, and the fields stay zero.
///
/// # Errors
///
/// See [`BootTableError`]: a mistake of the caller's layout.
pub fn write_zero_page(
    memory: &GuestMemoryMmap<()>,
    map: &[MemoryMapEntry],
    cmdline: GuestAddress,
    initrd: Option<InitrdRange>,
    rsdp: Option<GuestAddress>,
    at: GuestAddress,
) -> Result<GuestAddress, BootTableError> {
    memory_map::check(map, cmdline, initrd)?;
    // `sentinel` at 0x1EF stays zero, which tells the kernel that all the rest is meant.
    let mut page = [0; ZERO_PAGE_SIZE];
    let mut put = |offset: usize, field: &[u8]| {
        page[offset..offset + field.len()].copy_from_slice(field);
    };
    put(ACPI_RSDP_ADDR, &rsdp.map_or(0, |rsdp| rsdp.0).to_le_bytes());
    put(BOOT_FLAG, &0xAA55u16.to_le_bytes());
    put(HEADER, b"HdrS");
    // 2.15; acpi_rsdp_addr came with 2.14.
    put(VERSION, &0x020Fu16.to_le_bytes());
    // A loader with no number of its own.
    put(TYPE_OF_LOADER, &[0xFF]);
    // LOADED_HIGH: the kernel lies at 1 MiB or above.
    put(LOADFLAGS, &[0x01]);
    put(CMD_LINE_PTR, &low(cmdline.0));
    put(CMDLINE_SIZE, &low(COMMAND_LINE_SIZE as u64 - 1));
    put(KERNEL_ALIGNMENT, &low(16 << 20));
    if let Some(initrd) = initrd {
        put(RAMDISK_IMAGE, &low(initrd.start.0));
        put(RAMDISK_SIZE, &low(initrd.size));
    }
    put(E820_ENTRIES, &[map.len() as u8]);
    for (index, entry) in map.iter().enumerate() {
        let offset = E820_TABLE + index * E820_ENTRY_SIZE;
        put(offset, &entry.addr.to_le_bytes());
        put(offset + 8, &entry.size.to_le_bytes());
        put(offset + 16, &entry.kind.e820_type().to_le_bytes());
    }
    memory_map::write("zero page", memory, &page, at)?;
    Ok(GuestAddress(at.0.saturating_add(ZERO_PAGE_SIZE as u64)))
}

/// The lower 32 bits; `memory_map::check` has seen to it that there is no more.
fn low(value: u64) -> [u8; 4] {
    (value as u32).to_le_bytes()
}
