//! Where everything lies in the guest's physical address space.
//!
//! ```text
//! 0x0000_0000  RAM: BIOS data area, boot tables, command line (below 640 KiB)
//! 0x000a_0000  ACPI tables and MP table, reserved (the BIOS area, up to 1 MiB)
//! 0x0010_0000  RAM: kernel at its link address (usually 16 MiB), initrd as high as possible
//! 0xc000_0000  end of low RAM, nothing
//! 0xd000_0000  boot timer, then one page per virtio device
//! 0xfec0_0000  IOAPIC;  0xfee0_0000  local APICs;  0xfffb_c000  KVM's own pages
//! 0x1_0000_0000  the rest of RAM
//! after RAM      drives that the guest maps (DAX), each at a multiple of 128 MiB
//! ```

use vm_memory::GuestAddress;

use crate::boot::{MemoryKind, MemoryMapEntry};
use crate::bus::Space;

/// First byte after low RAM: everything from here to 4 GiB is for devices. On a 1 GiB border, so
/// that the largest pages fit.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// The end of what an initrd may take: Linux is told its address in 32 bits.
pub const INITRD_END: u64 = LOW_RAM_END;
/// Where RAM goes on.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// The warm-boot word of the BIOS data area, which Linux sets before it resets the machine:
/// 0x1234 for a warm boot, 0 for a cold one (arch/x86/kernel/reboot.c).
pub const WARM_BOOT_WORD: GuestAddress = GuestAddress(0x472);
/// GDT for the first vCPU.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// PVH's hvm_start_info, module list and memory map; or the zero page of the 64-bit protocol.
pub const BOOT_PARAMS: GuestAddress = GuestAddress(0x6000);
/// Stack of the 64-bit protocol's entry, growing down.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Page tables of the 64-bit protocol's entry: PML4, one PDPT, four page directories.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel command line, with its NUL.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// First byte above conventional memory, where the reserved BIOS area starts.
pub const BIOS_START: u64 = 0xa_0000;
/// ACPI: the RSDP, where Linux also finds it by itself (ACPI 6.5 §5.2.5.1), tables after it.
pub const RSDP: GuestAddress = GuestAddress(0xe_0000);
/// The MP floating pointer, where Linux scans for it (MP 1.4 §4).
pub const MP_TABLE: GuestAddress = GuestAddress(0xf_0000);
/// The first byte that a kernel may have.
pub const KERNEL_START: GuestAddress = GuestAddress(BIOS_END);
/// First byte above the reserved BIOS area.
pub const BIOS_END: u64 = 0x10_0000;

/// What every processor's guests can address: 36 bits.
pub const ALWAYS_ADDRESSABLE: u64 = 1 << 36;
/// The boot timer: the guest writes 123 here when its init runs.
pub const BOOT_TIMER: u64 = 0xd000_0000;
/// First virtio-mmio device; each takes one page.
pub const VIRTIO_START: u64 = 0xd000_1000;
/// Size of a device's MMIO range.
pub const MMIO_PAGE: u64 = 0x1000;
/// Whether the guest may read device registers as memory. On x86 an uncached access sees what
/// other processors have in their caches (Intel SDM vol. 3 §12.3.1), so that the monitor's writes
/// arrive whatever memory type the guest's driver has chosen.
pub const REGISTERS_AS_MEMORY: bool = true;
/// Interrupt line of the first virtio device: 5 and up are free on a PC without floppy and LPT.
pub const VIRTIO_GSI_START: u32 = 5;
/// Lines of KVM's IOAPIC; those from here up don't exist.
pub const GSI_COUNT: u32 = 24;
/// The IOAPIC's registers, where KVM puts them.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs' registers, where KVM puts them.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages for KVM's real-mode task state (Intel without unrestricted guest).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// First of the 8 ports of the serial port.
pub const SERIAL_PORT: u64 = 0x3f8;
/// Where the serial port is.
pub const SERIAL_SPACE: Space = Space::Ports;
/// The serial port's interrupt line.
pub const SERIAL_GSI: u32 = 4;
/// The keyboard's interrupt line.
pub const KEYBOARD_GSI: u32 = 1;
/// First of the 5 ports of the keyboard controller (data; status and command are at +4).
pub const I8042_PORT: u64 = 0x60;
/// ACPI sleep control and sleep status registers.
pub const ACPI_SLEEP_PORT: u64 = 0x600;

/// How RAM of `size` bytes is placed: below the device gap, and above 4 GiB.
pub fn ram_ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(LOW_RAM_END);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(HIGH_RAM_START), size - low));
    }
    ranges
}

/// Where RAM of these sizes is, one after another, and all of it placed as [`ram_ranges`] does: a part
/// that reaches into the device gap goes on above it.
pub fn split_ram(sizes: &[u64]) -> Vec<Vec<(GuestAddress, u64)>> {
    let mut rest = ram_ranges(sizes.iter().sum()).into_iter();
    let mut current = rest.next();
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let (mut part, mut missing) = (Vec::new(), size);
        while let (Some((start, len)), true) = (current, missing > 0) {
            let taken = len.min(missing);
            part.push((start, taken));
            missing -= taken;
            current = match len - taken {
                0 => rest.next(),
                left => Some((GuestAddress(start.0 + taken), left)),
            };
        }
        parts.push(part);
    }
    parts
}

/// The unit of [`dax_start`] and of the drives that are mapped there. Linux manages memory in
/// sections of this size (Documentation/mm/memory-model.rst), and is quicker where none holds both
/// RAM and a drive. It is a multiple of 2 MiB, so that huge pages fit, and of what Linux asks of
/// the place of persistent memory (include/linux/memremap.h, memremap_compat_align).
pub const DAX_ALIGN: u64 = 128 << 20;

/// The first address for drives that the guest maps, after RAM of `size` bytes.
pub fn dax_start(size: u64) -> u64 {
    let end = ram_ranges(size)
        .iter()
        .map(|(start, len)| start.0 + len)
        .max();
    end.unwrap_or(0)
        .max(HIGH_RAM_START)
        .next_multiple_of(DAX_ALIGN)
}

/// What the guest is told of its physical addresses (E820, PVH memory map).
pub fn memory_map(size: u64) -> Vec<MemoryMapEntry> {
    let entry = |addr, size, kind| MemoryMapEntry { addr, size, kind };
    let mut map = vec![
        entry(0, BIOS_START, MemoryKind::Ram),
        entry(BIOS_START, BIOS_END - BIOS_START, MemoryKind::Reserved),
    ];
    for (start, size) in ram_ranges(size) {
        let skip = BIOS_END.saturating_sub(start.0);
        entry_if_any(&mut map, start.0 + skip, size - skip);
    }
    map
}

fn entry_if_any(map: &mut Vec<MemoryMapEntry>, addr: u64, size: u64) {
    if size > 0 {
        map.push(MemoryMapEntry {
            addr,
            size,
            kind: MemoryKind::Ram,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_device_gap_free() {
        assert_eq!(ram_ranges(128 << 20), [(GuestAddress(0), 128 << 20)]);
        let ranges = ram_ranges(5 << 30);
        assert_eq!(ranges[0], (GuestAddress(0), LOW_RAM_END));
        assert_eq!(ranges[1], (GuestAddress(1 << 32), (5 << 30) - LOW_RAM_END));
    }

    #[test]
    fn parts_of_ram_go_around_the_device_gap() {
        let at = |start, len| (GuestAddress(start), len);
        let gib = |n: u64| n << 30;
        assert_eq!(split_ram(&[gib(1)]), [[at(0, gib(1))]]);
        assert_eq!(
            split_ram(&[gib(1), gib(3), gib(1)]),
            [
                vec![at(0, gib(1))],
                vec![at(gib(1), gib(2)), at(gib(4), gib(1))],
                vec![at(gib(5), gib(1))]
            ]
        );
        // A border at the gap is one border.
        assert_eq!(
            split_ram(&[gib(3), gib(1)]),
            [[at(0, gib(3))], [at(gib(4), gib(1))]]
        );
    }

    #[test]
    fn mapped_drives_come_after_all_ram() {
        assert_eq!(dax_start(128 << 20), 1 << 32);
        assert_eq!(dax_start((3 << 30) + (1 << 20)), (1 << 32) + DAX_ALIGN);
    }

    #[test]
    fn the_loader_and_the_layout_agree() {
        assert_eq!(crate::boot::HIGHEST_KERNEL_ADDRESS, LOW_RAM_END);
        assert_eq!(crate::boot::LOWEST_KERNEL_ADDRESS, BIOS_END);
    }

    #[test]
    fn the_map_covers_all_ram_but_the_bios_area() {
        let map = memory_map(5 << 30);
        let ram: u64 = map
            .iter()
            .filter(|e| matches!(e.kind, MemoryKind::Ram))
            .map(|e| e.size)
            .sum();
        assert_eq!(ram, (5 << 30) - (BIOS_END - BIOS_START));
        for pair in map.windows(2) {
            assert!(pair[0].addr + pair[0].size <= pair[1].addr);
        }
    }
}
