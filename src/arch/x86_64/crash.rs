//! The registers of a crashed vCPU, as text, and the bytes of its instruction.

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::kvm::Vcpu;
use crate::memory::over_ram;

/// The longest x86 instruction.
const INSTRUCTION_MAX: usize = 15;

/// Where a vCPU starts after a reset (SDM vol. 3 §10.1.4).
const RESET_RIP: u64 = 0xfff0;
const RESET_CS_BASE: u64 = 0xffff_0000;

/// The registers as lines of text, and the bytes at the instruction pointer.
pub fn describe(vcpu: &Vcpu, memory: &GuestMemoryMmap<()>) -> (String, Vec<u8>) {
    let (Ok(r), Ok(s)) = (vcpu.regs(), vcpu.sregs()) else {
        return ("registers: can't be read".to_owned(), Vec::new());
    };
    // KVM on AMD resets a vCPU that shut down, since the processor leaves its state undefined
    // (AMD APM vol. 2 §15.14.3): what can be read then is the reset vector.
    if (r.rip, s.cs.base, r.rsp) == (RESET_RIP, RESET_CS_BASE, 0) {
        let text = "registers: lost (on AMD processors, KVM resets a vCPU at a triple fault)";
        return (text.to_owned(), Vec::new());
    }
    let text = format!(
        "rip {:#018x}  rsp {:#018x}  rflags {:#x}\n\
         rax {:#018x}  rbx {:#018x}  rcx {:#018x}  rdx {:#018x}\n\
         rsi {:#018x}  rdi {:#018x}  rbp {:#018x}  r8  {:#018x}\n\
         r9  {:#018x}  r10 {:#018x}  r11 {:#018x}  r12 {:#018x}\n\
         r13 {:#018x}  r14 {:#018x}  r15 {:#018x}\n\
         cr0 {:#x}  cr2 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}\n\
         cs {:#x}:{:#x}  ss {:#x}:{:#x}  gdt {:#x}+{:#x}  idt {:#x}+{:#x}",
        r.rip,
        r.rsp,
        r.rflags,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rbp,
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4,
        s.efer,
        s.cs.selector,
        s.cs.base,
        s.ss.selector,
        s.ss.base,
        s.gdt.base,
        s.gdt.limit,
        s.idt.base,
        s.idt.limit,
    );
    let linear = s.cs.base.wrapping_add(r.rip);
    let mut code = Vec::new();
    for offset in 0..INSTRUCTION_MAX as u64 {
        let address = vcpu.translate(linear.wrapping_add(offset));
        match address.and_then(|a| over_ram::peek(memory, GuestAddress(a))) {
            Some([byte]) => code.push(byte),
            None => break,
        }
    }
    (text, code)
}
