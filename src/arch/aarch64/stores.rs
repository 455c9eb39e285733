//! Stores to memory that the guest may only read, of which the processor doesn't tell KVM what they do (DDI
//! 0487 §D17.2.40, ISS encoding for a Data Abort: ISV): pairs of registers, SIMD, and those that change their
//! base register. The instruction is looked up in guest memory, and passed over as if it had been done.

use vm_memory::GuestMemoryMmap;

use super::cpu::{PC, PSTATE, SP_EL0, SP_EL1, x};
use crate::arch::a64::{SP, Tables, store};
use crate::kvm::native::system_register;
use crate::kvm::{KvmError, Vcpu};
use crate::memory::over_ram::peek;

const SCTLR_EL1: u64 = system_register(3, 0, 1, 0, 0);
const TTBR0_EL1: u64 = system_register(3, 0, 2, 0, 0);
const TTBR1_EL1: u64 = system_register(3, 0, 2, 0, 1);
const TCR_EL1: u64 = system_register(3, 0, 2, 0, 2);

/// In SCTLR_EL1: the MMU is on.
const MMU: u64 = 1;
/// In PSTATE: a 32-bit program; and the stack pointer is that of the exception level, which is EL1 then.
const PSTATE_32_BIT: u64 = 1 << 4;
const PSTATE_SP: u64 = 1;
/// In the syndrome of a data abort: it was a store (WnR).
const WRITE: u64 = 1 << 6;
/// The address of a store that KVM has just handed over.
pub fn handed_over(vcpu: &mut Vcpu) -> Option<u64> {
    let (syndrome, address) = vcpu.unexplained_access()?;
    (syndrome & WRITE != 0).then_some(address)
}

/// Passes over the store at which the guest is. `false` where it can't be told what else it does: the
/// guest is where it was.
///
/// # Errors
///
/// A register can't be read or written.
pub fn pass_over(vcpu: &Vcpu, memory: &GuestMemoryMmap<()>) -> Result<bool, KvmError> {
    let (pc, pstate) = (vcpu.one_reg(PC)?, vcpu.one_reg(PSTATE)?);
    if pstate & PSTATE_32_BIT != 0 {
        return Ok(false);
    }
    let Some(at) = tables(vcpu, pc)?.translate(memory, pc) else {
        return Ok(false);
    };
    let Some(writeback) = peek(memory, at).and_then(|word| store(u32::from_le_bytes(word))) else {
        return Ok(false);
    };
    if let Some((base, offset)) = writeback {
        let register = match (base, pstate & PSTATE_SP) {
            (SP, 0) => SP_EL0,
            (SP, _) => SP_EL1,
            _ => x(base as usize),
        };
        let value = vcpu.one_reg(register)?;
        vcpu.set_one_reg(register, value.wrapping_add_signed(offset))?;
    }
    vcpu.set_one_reg(PC, pc.wrapping_add(4))?;
    Ok(true)
}

/// How the guest's `address` becomes a physical one at the moment.
fn tables(vcpu: &Vcpu, address: u64) -> Result<Tables, KvmError> {
    let on = vcpu.one_reg(SCTLR_EL1)? & MMU != 0;
    let tcr = vcpu.one_reg(TCR_EL1)?;
    let upper = address >> 55 & 1 == 1;
    let root = vcpu.one_reg(if upper { TTBR1_EL1 } else { TTBR0_EL1 })?;
    Ok(Tables::new(on, tcr, root, upper))
}
