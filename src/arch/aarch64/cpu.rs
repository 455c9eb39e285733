//! The registers with which the first vCPU starts, and how the processor sees memory.

use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_regs};
use vm_memory::Address;

use super::layout;
use crate::boot::Entry;
use crate::kvm::native::system_register;
use crate::kvm::{Host, KvmError, Vcpu};

/// EL1 with its own stack pointer, all exceptions masked (DDI 0487 §C5.2.18, SPSR_EL1): how Linux is
/// entered (Documentation/arch/arm64/booting.rst §4).
const PSTATE_EL1H_MASKED: u64 = 0x3c5;

/// A vCPU's number among the others.
const MPIDR_EL1: u64 = system_register(3, 0, 0, 0, 5);
/// Of it, the four levels of affinity: the rest says other things (§D19.2.98).
const AFFINITIES: u64 = 0xff_00ff_ffff;

/// The number of a general register, from where `struct kvm_regs` has it, in units of 4 bytes.
pub(super) const fn core_register(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

/// General register Xn.
pub(super) const fn x(n: usize) -> u64 {
    core_register(offset_of!(kvm_regs, regs.regs) + n * 8)
}

/// The program counter.
pub(super) const PC: u64 = core_register(offset_of!(kvm_regs, regs.pc));
/// The processor's state.
pub(super) const PSTATE: u64 = core_register(offset_of!(kvm_regs, regs.pstate));
/// The stack pointer of EL0, and that of EL1.
pub(super) const SP_EL0: u64 = core_register(offset_of!(kvm_regs, regs.sp));
pub(super) const SP_EL1: u64 = core_register(offset_of!(kvm_regs, sp_el1));

/// The affinity of a vCPU, as the guest reads it.
pub(super) fn affinity(vcpu: &Vcpu) -> Result<u64, KvmError> {
    Ok(vcpu.one_reg(MPIDR_EL1)? & AFFINITIES)
}

/// Has a vCPU start at `entry` (Linux Documentation/arch/arm64/booting.rst §4): MMU and caches are off
/// after its reset, as they should be.
pub(super) fn set_entry(vcpu: &Vcpu, entry: Entry) -> Result<(), KvmError> {
    let (Entry::Arm64(pc) | Entry::Pvh(pc) | Entry::Linux64(pc)) = entry;
    vcpu.set_one_reg(PSTATE, PSTATE_EL1H_MASKED)?;
    vcpu.set_one_reg(PC, pc.raw_value())?;
    vcpu.set_one_reg(x(0), layout::FDT.raw_value())
}

/// The first guest physical address that can't be used: what the VM's tables hold, and what every
/// Linux can map (arch/arm64/include/asm/memory.h, with virtual addresses of 39 bits half of that is
/// for RAM).
///
/// # Errors
///
/// None on this architecture.
pub fn physical_end(host: &Host) -> Result<u64, KvmError> {
    Ok(1 << host.physical_bits())
}

/// What else than its control groups can make KVM_CREATE_VM slow on a host: nothing is known.
pub const SLOW_CREATE_VM: &str = "";

/// Writes back what was just changed in memory that a guest reads by itself, with its caches off for
/// it: as the registers of a device are mapped (Device-nGnRE). A store to memory that the monitor has
/// cached is not seen by such a read before (DDI 0487 §B2.12, mismatched memory attributes: the line is
/// cleaned to the point of coherency, and only the monitor writes it). Linux lets programs do this
/// (SCTLR_EL1.UCI).
#[inline]
pub fn publish(word: &AtomicU32) {
    // SAFETY: cleaning a line that is mapped changes no value; the barrier has it done before an
    // interrupt, or the vCPU's return, lets the guest look.
    unsafe {
        std::arch::asm!("dc cvac, {0}", "dsb sy", in(reg) word.as_ptr(), options(nostack, preserves_flags));
    }
}

/// Whether the host's processor virtualizes in hardware: KVM is not there without.
pub fn virtualizes() -> bool {
    true
}
