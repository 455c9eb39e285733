//! The registers with which the first vCPU starts, and the tables they point at.

use std::sync::atomic::AtomicU32;

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{cpuid, layout};
use crate::boot::Entry;
use crate::kvm::{Host, KvmError};

/// MSRs that a guest expects firmware to have set: fast string operations on, and memory cached
/// by default (SDM vol. 4 IA32_MISC_ENABLE; vol. 3 §12.11.2.1 IA32_MTRR_DEF_TYPE).
pub const FIRMWARE_MSRS: &[(u32, u64)] = &[(0x1a0, 1), (0x2ff, 1 << 11 | 6)];

/// CR0: protected mode, extension type.
const CR0_PE_ET: u64 = 1 | 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;

/// The first guest physical address that can't be used.
///
/// # Errors
///
/// The ioctl failed.
pub fn physical_end(host: &Host) -> Result<u64, KvmError> {
    Ok(cpuid::physical_end(host.supported_cpuid()?))
}

/// What else than its control groups can make KVM_CREATE_VM slow on a host, and what to do about it.
pub const SLOW_CREATE_VM: &str = ", and set kvm.nx_huge_pages=never where the CPU isn't affected";

/// Shows the guest what was just changed in memory that it reads by itself: nothing has to be done, as
/// its uncached reads see what processors have in their caches (SDM vol. 3 §12.3.1).
#[inline]
pub fn publish(_word: &AtomicU32) {}

/// A flat segment of `kind` (SDM vol. 3 §3.4.5.1) at a selector; `long` for 64-bit code.
fn flat_segment(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// The GDT entry of a flat segment.
fn descriptor(segment: &kvm_segment) -> u64 {
    let flags = u64::from(segment.g) << 3 | u64::from(segment.db) << 2 | u64::from(segment.l) << 1;
    let access = 1 << 7 | u64::from(segment.s) << 4 | u64::from(segment.type_);
    0xffff | access << 40 | 0xf << 48 | flags << 52
}

/// The special registers at `entry`, starting from those that KVM gave the vCPU, and the tables
/// that they point at, written to guest memory.
///
/// PVH (Xen docs/misc/pvh.pandoc): 32-bit protected mode, flat segments, no paging, interrupts
/// off. The 64-bit protocol (Linux Documentation/arch/x86/boot.rst): long mode, the first 4 GiB
/// identity-mapped, code segment 0x10, data segment 0x18.
///
/// # Errors
///
/// Guest memory ends below the first MiB.
pub fn boot_sregs(
    entry: Entry,
    memory: &GuestMemoryMmap<()>,
    mut sregs: kvm_sregs,
) -> Result<kvm_sregs, vm_memory::GuestMemoryError> {
    let long = matches!(entry, Entry::Linux64(_));
    let code = flat_segment(0x10, 0xb, long); // execute, read, accessed
    let data = flat_segment(0x18, 0x3, false); // read, write, accessed
    let tss = kvm_segment {
        limit: 0x67,
        selector: 0x20,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    let gdt = [0, 0, descriptor(&code), descriptor(&data)];
    for (index, entry) in gdt.into_iter().enumerate() {
        memory.write_obj(entry, layout::GDT.unchecked_add(index as u64 * 8))?;
    }
    (sregs.cs, sregs.tr) = (code, tss);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    let limit = (gdt.len() * 8 - 1) as u16;
    sregs.gdt = kvm_dtable {
        base: layout::GDT.raw_value(),
        limit,
        ..Default::default()
    };
    sregs.idt = kvm_dtable::default(); // no handlers: an early fault ends the VM at once
    sregs.cr0 = CR0_PE_ET;
    if long {
        write_identity_map(memory)?;
        sregs.cr0 |= CR0_PAGING;
        sregs.cr3 = layout::PAGE_TABLES.raw_value();
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME_LMA;
    }
    Ok(sregs)
}

/// The general registers at `entry`.
pub fn boot_regs(entry: Entry) -> kvm_regs {
    let boot_params = layout::BOOT_PARAMS.raw_value();
    let (rip, rbx, rsi) = match entry {
        Entry::Pvh(address) => (address.raw_value(), boot_params, 0),
        // No kernel that is loaded for x86_64 has an arm64 entry.
        Entry::Linux64(address) | Entry::Arm64(address) => (address.raw_value(), 0, boot_params),
    };
    let stack = layout::BOOT_STACK.raw_value();
    kvm_regs {
        rflags: 2,
        rip,
        rbx,
        rsi,
        rsp: stack,
        rbp: stack,
        ..Default::default()
    }
}

/// Page tables that map the first 4 GiB to themselves, by 2 MiB pages.
fn write_identity_map(memory: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE_PAGE: u64 = 1 << 7;
    let table = |n: u64| GuestAddress(layout::PAGE_TABLES.raw_value() + n * 0x1000);
    memory.write_obj(table(1).raw_value() | PRESENT_WRITABLE, table(0))?;
    for directory in 0..4 {
        let address = table(2 + directory);
        let entry = address.raw_value() | PRESENT_WRITABLE;
        memory.write_obj(entry, table(1).unchecked_add(directory * 8))?;
        let mut page = [0u8; 4096];
        for (index, slot) in page.chunks_exact_mut(8).enumerate() {
            let target = directory << 30 | (index as u64) << 21;
            slot.copy_from_slice(&(target | PRESENT_WRITABLE | LARGE_PAGE).to_le_bytes());
        }
        memory.write_slice(&page, address)?;
    }
    Ok(())
}

/// Whether the host's processor virtualizes in hardware, without which no Linux runs in a VM. Asks the
/// processor itself: a confined process can't ask the kernel, which may know that the firmware forbids it.
pub fn virtualizes() -> bool {
    /// VMX (SDM vol. 2, CPUID leaf 1 ECX), SVM (APM vol. 3, leaf 0x8000_0001 ECX).
    const BITS: [(u32, u32); 2] = [(1, 1 << 5), (0x8000_0001, 1 << 2)];
    BITS.iter()
        .any(|(leaf, bit)| std::arch::x86_64::__cpuid(*leaf).ecx & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap<()> {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    #[test]
    fn pvh_starts_in_flat_protected_mode() {
        let entry = Entry::Pvh(GuestAddress(0x100_0000));
        let sregs = boot_sregs(entry, &memory(), kvm_sregs::default()).unwrap();
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.limit), (1, 0, !0));
        let regs = boot_regs(entry);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0000, 0x6000, 2));
    }

    #[test]
    fn the_64_bit_protocol_starts_in_long_mode_over_an_identity_map() {
        let entry = Entry::Linux64(GuestAddress(0x100_0000));
        let memory = memory();
        let sregs = boot_sregs(entry, &memory, kvm_sregs::default()).unwrap();
        assert_eq!(
            (sregs.cr0, sregs.cr4, sregs.efer),
            (0x8000_0011, 0x20, 0x500)
        );
        // The descriptors in memory say the same as the loaded segments.
        let code: u64 = memory.read_obj(GuestAddress(0x510)).unwrap();
        assert_eq!(code, 0x00af_9b00_0000_ffff);
        let data: u64 = memory.read_obj(GuestAddress(0x518)).unwrap();
        assert_eq!(data, 0x00cf_9300_0000_ffff);
        // Walk the tables for an address in the last of the four GiB.
        let address = 0xfee0_0000u64;
        let mut table = sregs.cr3;
        for shift in [39, 30] {
            let index = (address >> shift) & 0x1ff;
            let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
            assert_eq!(entry & 3, 3);
            table = entry & !0xfff;
        }
        let index = (address >> 21) & 0x1ff;
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
        assert_eq!(entry, 0xfee0_0000 | 0x83);
    }
}
