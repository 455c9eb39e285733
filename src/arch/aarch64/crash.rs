//! The registers of a crashed vCPU, as text, and the bytes of its instruction.

use std::fmt::Write;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::cpu::{PC, PSTATE, SP_EL0, SP_EL1, x};
use crate::kvm::native::system_register;
use crate::kvm::{KvmError, Vcpu};
use crate::memory::over_ram;

/// The length of an instruction.
const INSTRUCTION: usize = 4;
/// System registers that tell why and where it went wrong, and how the guest sees memory.
const SYSTEM: &[(&str, u64)] = &[
    ("esr_el1", system_register(3, 0, 5, 2, 0)),
    ("far_el1", system_register(3, 0, 6, 0, 0)),
    ("vbar_el1", system_register(3, 0, 12, 0, 0)),
    ("sctlr_el1", SCTLR_EL1),
    ("ttbr0_el1", system_register(3, 0, 2, 0, 0)),
    ("ttbr1_el1", system_register(3, 0, 2, 0, 1)),
    ("mpidr_el1", system_register(3, 0, 0, 0, 5)),
];
const SCTLR_EL1: u64 = system_register(3, 0, 1, 0, 0);
/// In SCTLR_EL1: the MMU is on.
const MMU: u64 = 1;

/// The registers as lines of text, and the bytes at the program counter, where that is a physical
/// address.
pub fn describe(vcpu: &Vcpu, memory: &GuestMemoryMmap<()>) -> (String, Vec<u8>) {
    let Ok(text) = registers(vcpu) else {
        return ("registers: can't be read".to_owned(), Vec::new());
    };
    let mut code = Vec::new();
    let mmu = vcpu.one_reg(SCTLR_EL1).map_or(MMU, |sctlr| sctlr & MMU);
    if let (0, Ok(pc)) = (mmu, vcpu.one_reg(PC)) {
        let bytes = over_ram::peek::<INSTRUCTION>(memory, GuestAddress(pc));
        code = bytes.map_or_else(Vec::new, Vec::from);
    }
    (text, code)
}

fn registers(vcpu: &Vcpu) -> Result<String, KvmError> {
    let mut text = String::new();
    let [pc, pstate, sp_el0, sp_el1] = [PC, PSTATE, SP_EL0, SP_EL1].map(|r| vcpu.one_reg(r));
    let _ = write!(
        text,
        "pc {:#018x}  pstate {:#x}  sp_el0 {:#018x}  sp_el1 {:#018x}",
        pc?, pstate?, sp_el0?, sp_el1?
    );
    for n in 0..31 {
        let between = if n % 4 == 0 { "\n" } else { "  " };
        let _ = write!(
            text,
            "{between}{:<3} {:#018x}",
            format!("x{n}"),
            vcpu.one_reg(x(n))?
        );
    }
    for (n, (name, register)) in SYSTEM.iter().enumerate() {
        let between = if n % 3 == 0 { "\n" } else { "  " };
        let _ = write!(text, "{between}{name} {:#x}", vcpu.one_reg(*register)?);
    }
    Ok(text)
}
