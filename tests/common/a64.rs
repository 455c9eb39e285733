//! Words of A64 instructions, by the names and fields of the Arm Architecture Reference Manual (DDI 0487,
//! C6.2). Offsets are in bytes, from the instruction itself. Registers are 64 bits wide where not told.

/// Register 31: zero, where an instruction doesn't mean SP by it.
pub const ZR: u32 = 31;

/// A field of so many bits at this place; a value that doesn't fit is a mistake.
fn field(value: u32, bits: u32, at: u32) -> u32 {
    assert!(value < 1 << bits, "{value:#x} is more than {bits} bits");
    value << at
}

/// An offset in words, as a field of so many bits.
fn offset(bytes: i32, bits: u32, at: u32) -> u32 {
    assert!(
        bytes % 4 == 0,
        "{bytes} is not a whole number of instructions"
    );
    let (words, limit) = (bytes / 4, 1 << (bits - 1));
    assert!((-limit..limit).contains(&words), "{bytes} is too far away");
    (words as u32 & ((1 << bits) - 1)) << at
}

/// `movz xd, #imm16, lsl #(hw * 16)`
pub fn movz(rd: u32, imm16: u16, hw: u32) -> u32 {
    0xd280_0000 | field(hw, 2, 21) | u32::from(imm16) << 5 | rd
}

/// `movk xd, #imm16, lsl #(hw * 16)`: the other bits stay.
pub fn movk(rd: u32, imm16: u16, hw: u32) -> u32 {
    0xf280_0000 | field(hw, 2, 21) | u32::from(imm16) << 5 | rd
}

/// `mov xd, xm`, which is `orr xd, xzr, xm`.
pub fn mov(rd: u32, rm: u32) -> u32 {
    0xaa00_03e0 | field(rm, 5, 16) | rd
}

/// `str`, `strh` or `strb` of 1 << `size` bytes, `[xn]`.
pub fn str(size: u32, rt: u32, rn: u32) -> u32 {
    0x3900_0000 | field(size, 2, 30) | field(rn, 5, 5) | rt
}

/// `ldr`, `ldrh` or `ldrb` of 1 << `size` bytes, `[xn]`; the rest of the register becomes 0.
pub fn ldr(size: u32, rt: u32, rn: u32) -> u32 {
    0x3940_0000 | field(size, 2, 30) | field(rn, 5, 5) | rt
}

/// `ldp xt, xt2, [xn]`
pub fn ldp(rt: u32, rt2: u32, rn: u32) -> u32 {
    0xa940_0000 | field(rt2, 5, 10) | field(rn, 5, 5) | rt
}

/// `stp xt, xt2, [xn]`
pub fn stp(rt: u32, rt2: u32, rn: u32) -> u32 {
    0xa900_0000 | field(rt2, 5, 10) | field(rn, 5, 5) | rt
}

/// `ldxr wt, [xn]`: exclusively.
pub fn ldxr(rt: u32, rn: u32) -> u32 {
    0x885f_7c00 | field(rn, 5, 5) | rt
}

/// `stxr ws, wt, [xn]`: if it is still so.
pub fn stxr(rs: u32, rt: u32, rn: u32) -> u32 {
    0x8800_7c00 | field(rs, 5, 16) | field(rn, 5, 5) | rt
}

/// `add xd, xn, #imm12`, of the number shifted left by 12 with `sh`.
pub fn add(rd: u32, rn: u32, imm12: u32, sh: bool) -> u32 {
    0x9100_0000 | u32::from(sh) << 22 | field(imm12, 12, 10) | field(rn, 5, 5) | rd
}

/// `subs xd, xn, #imm12`; into [`ZR`] it is `cmp`.
pub fn subs(rd: u32, rn: u32, imm12: u32) -> u32 {
    0xf100_0000 | field(imm12, 12, 10) | field(rn, 5, 5) | rd
}

/// `add xd, xn, xm`
pub fn add_register(rd: u32, rn: u32, rm: u32) -> u32 {
    0x8b00_0000 | field(rm, 5, 16) | field(rn, 5, 5) | rd
}

/// `subs xd, xn, xm`; into [`ZR`] it is `cmp`.
pub fn subs_register(rd: u32, rn: u32, rm: u32) -> u32 {
    0xeb00_0000 | field(rm, 5, 16) | field(rn, 5, 5) | rd
}

/// `lsr xd, xn, #shift`, which is a `ubfm`.
pub fn lsr(rd: u32, rn: u32, shift: u32) -> u32 {
    0xd340_fc00 | field(shift, 6, 16) | field(rn, 5, 5) | rd
}

/// `b offset`
pub fn b(bytes: i32) -> u32 {
    0x1400_0000 | offset(bytes, 26, 0)
}

/// Conditions for [`b_cond`]: equal, and not.
pub const EQ: u32 = 0;
pub const NE: u32 = 1;

/// `b.cond offset`
pub fn b_cond(cond: u32, bytes: i32) -> u32 {
    0x5400_0000 | offset(bytes, 19, 5) | cond
}

/// `br xn`
pub fn br(rn: u32) -> u32 {
    0xd61f_0000 | field(rn, 5, 5)
}

/// `tbz wt, #bit, offset`, of the lower 32 bits.
pub fn tbz(rt: u32, bit: u32, bytes: i32) -> u32 {
    0x3600_0000 | field(bit, 5, 19) | offset(bytes, 14, 5) | rt
}

/// `eret`
pub const ERET: u32 = 0xd69f_03e0;
/// `nop`
pub const NOP: u32 = 0xd503_201f;
/// `hvc #0`
pub const HVC: u32 = 0xd400_0002;
/// `wfi`
pub const WFI: u32 = 0xd503_207f;
/// `isb`
pub const ISB: u32 = 0xd503_3fdf;
/// `dsb sy`
pub const DSB: u32 = 0xd503_3f9f;

/// A system register, as `mrs` and `msr` name it (DDI 0487 C5.2).
#[derive(Clone, Copy)]
pub struct SystemRegister {
    pub op0: u32,
    pub op1: u32,
    pub crn: u32,
    pub crm: u32,
    pub op2: u32,
}

/// The register by the numbers in its encoding.
pub const fn system(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> SystemRegister {
    SystemRegister {
        op0,
        op1,
        crn,
        crm,
        op2,
    }
}

/// `mrs xt, register`
pub fn mrs(rt: u32, register: SystemRegister) -> u32 {
    msr(register, rt) | 1 << 21
}

/// `msr register, xt`
pub fn msr(register: SystemRegister, rt: u32) -> u32 {
    let SystemRegister {
        op0,
        op1,
        crn,
        crm,
        op2,
    } = register;
    let names = field(op1, 3, 16) | field(crn, 4, 12) | field(crm, 4, 8) | field(op2, 3, 5);
    0xd510_0000 | field(op0 - 2, 1, 19) | names | rt
}

/// System control, the base of the lower addresses' tables, and how they are translated.
pub const SCTLR_EL1: SystemRegister = system(3, 0, 1, 0, 0);
pub const TTBR0_EL1: SystemRegister = system(3, 0, 2, 0, 0);
pub const TCR_EL1: SystemRegister = system(3, 0, 2, 0, 2);
pub const MAIR_EL1: SystemRegister = system(3, 0, 10, 2, 0);
/// Where exceptions go, and where they come from.
pub const ELR_EL1: SystemRegister = system(3, 0, 4, 0, 1);
pub const VBAR_EL1: SystemRegister = system(3, 0, 12, 0, 0);
/// Which CPU this is, and what instructions it has.
pub const MPIDR_EL1: SystemRegister = system(3, 0, 0, 0, 5);
pub const ID_AA64ISAR0_EL1: SystemRegister = system(3, 0, 0, 6, 0);
/// The virtual timer: when from now (in counts), and its control.
pub const CNTV_TVAL_EL0: SystemRegister = system(3, 3, 14, 3, 0);
pub const CNTV_CTL_EL0: SystemRegister = system(3, 3, 14, 3, 1);
/// GICv3's CPU interface (IHI 0069, 12.2): system registers in place of memory, the lowest priority
/// that is let through, group 1, acknowledgement, end of interrupt.
pub const ICC_SRE_EL1: SystemRegister = system(3, 0, 12, 12, 5);
pub const ICC_PMR_EL1: SystemRegister = system(3, 0, 4, 6, 0);
pub const ICC_IGRPEN1_EL1: SystemRegister = system(3, 0, 12, 12, 7);
pub const ICC_IAR1_EL1: SystemRegister = system(3, 0, 12, 12, 0);
pub const ICC_EOIR1_EL1: SystemRegister = system(3, 0, 12, 12, 1);
