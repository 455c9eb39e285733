//! Where everything lies in the guest's physical address space.
//!
//! ```text
//! 0x0800_0000  GIC: distributor;  0x0801_0000  GICv2's CPU interface
//! 0x080a_0000  GICv3's redistributors, 128 KiB for each vCPU
//! 0x0900_0000  serial port;  0x0901_0000  RTC;  0x0902_0000  boot timer
//! 0x0a00_0000  virtio devices, one page each
//! 0x4000_0000  RAM: the device tree in the first 2 MiB, then the kernel, initrd as high as possible
//! after RAM    drives that the guest maps (DAX), each at a multiple of 128 MiB
//! ```

use vm_memory::GuestAddress;

use crate::arch::fdt::Range;
use crate::bus::Space;

/// First byte of RAM, which is one range.
pub const RAM_START: u64 = 1 << 30;
/// What every processor's guests can address: 32 bits (DDI 0487 §D8.1.6).
pub const ALWAYS_ADDRESSABLE: u64 = 1 << 32;
/// The device tree, where Linux may map it by one block of 2 MiB (Linux
/// Documentation/arch/arm64/booting.rst §2).
pub const FDT: GuestAddress = GuestAddress(RAM_START);
/// The most that it can take.
pub const FDT_SIZE: u64 = 2 << 20;
/// The first byte that a kernel may have: the next block of 2 MiB.
pub const KERNEL_START: GuestAddress = GuestAddress(RAM_START + FDT_SIZE);
/// The end of what an initrd may take: with the kernel it must lie in 32 GiB, from a border of 1 GiB
/// on (booting.rst §3).
pub const INITRD_END: u64 = RAM_START + (32 << 30);

/// The GIC's distributor.
pub const GIC_DISTRIBUTOR: Range = (0x0800_0000, 0x1_0000);
/// GICv2's CPU interface.
pub const GIC_CPU_INTERFACE: Range = (0x0801_0000, 0x2000);
/// GICv3's redistributors, one after another.
pub const GIC_REDISTRIBUTORS: u64 = 0x080a_0000;
/// What each of them takes.
pub const GIC_REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// The serial port: 8 registers, one byte apart.
pub const SERIAL_PORT: u64 = 0x0900_0000;
/// Where that is.
pub const SERIAL_SPACE: Space = Space::Memory;
/// The serial port's interrupt (SPI).
pub const SERIAL_GSI: u32 = 0;
/// The interrupt of a vCPU's performance counters: PPI 7 (Arm BSA, DEN 0094 §4.1.5).
pub const PMU_INTERRUPT: u32 = 16 + 7;
/// The real-time clock (PL031), which has no interrupt: its alarm never rings.
pub const RTC: u64 = 0x0901_0000;
/// The boot timer: the guest writes 123 here when its init runs.
pub const BOOT_TIMER: u64 = 0x0902_0000;
/// First virtio-mmio device; each takes one page. All of them together are a multiple of 64 KiB, the
/// largest page of a host.
pub const VIRTIO_START: u64 = 0x0a00_0000;
/// Size of a device's MMIO range.
pub const MMIO_PAGE: u64 = 0x1000;
/// Whether the guest may read device registers as memory: each change is written back to where a
/// guest's uncached read finds it ([`super::cpu::publish`]).
pub const REGISTERS_AS_MEMORY: bool = true;
/// Interrupt (SPI) of the first virtio device.
pub const VIRTIO_GSI_START: u32 = 2;
/// Interrupts of devices (SPIs): those from here up don't exist.
pub const GSI_COUNT: u32 = 66;

/// How RAM of `size` bytes is placed.
pub fn ram_ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    vec![(GuestAddress(RAM_START), size)]
}

/// Where RAM of these sizes is, one after another.
pub fn split_ram(sizes: &[u64]) -> Vec<Vec<(GuestAddress, u64)>> {
    let mut next = RAM_START;
    let part = |&size: &u64| {
        let start = next;
        next += size;
        match size {
            0 => Vec::new(),
            _ => vec![(GuestAddress(start), size)],
        }
    };
    sizes.iter().map(part).collect()
}

/// The unit of [`dax_start`] and of the drives that are mapped there: a section of Linux's memory
/// map with pages of 4 KiB (arch/arm64/include/asm/sparsemem.h), and a multiple of 2 MiB, so that
/// huge pages fit.
pub const DAX_ALIGN: u64 = 128 << 20;

/// The first address for drives that the guest maps, after RAM of `size` bytes.
pub fn dax_start(size: u64) -> u64 {
    (RAM_START + size).next_multiple_of(DAX_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_ram_follow_one_another() {
        let at = |start: u64, size: u64| (GuestAddress(start << 30), size << 30);
        let parts = split_ram(&[1 << 30, 0, 3 << 30]);
        assert_eq!(parts, [vec![at(1, 1)], vec![], vec![at(2, 3)]]);
    }

    #[test]
    fn mapped_drives_come_after_all_ram() {
        assert_eq!(dax_start(128 << 20), RAM_START + (128 << 20));
        assert_eq!(dax_start(1 << 20), RAM_START + DAX_ALIGN);
    }

    #[test]
    fn nothing_lies_on_anything_else() {
        let redistributors = u64::from(crate::config::MAX_CPUS) * GIC_REDISTRIBUTOR_SIZE;
        let virtio = u64::from(GSI_COUNT - VIRTIO_GSI_START) * MMIO_PAGE;
        let mut places = [
            GIC_DISTRIBUTOR,
            GIC_CPU_INTERFACE,
            (GIC_REDISTRIBUTORS, redistributors),
            (SERIAL_PORT, MMIO_PAGE),
            (RTC, MMIO_PAGE),
            (BOOT_TIMER, MMIO_PAGE),
            (VIRTIO_START, virtio),
            (RAM_START, 1 << 30),
        ];
        places.sort();
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert_eq!(virtio % 0x1_0000, 0);
    }
}
