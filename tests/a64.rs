//! The words of A64 instructions that tiny guests are made of, as GNU as makes them. On every architecture.

#[allow(dead_code)] // not every register is one of another way to encode it
#[path = "common/a64.rs"]
mod a64;

use a64::*;

#[test]
fn words_are_those_of_the_assembler() {
    for (word, expected, text) in [
        (movz(1, 0x900, 1), 0xd2a1_2001, "movz x1, #0x900, lsl #16"),
        (
            movz(30, 0xffff, 3),
            0xd2ff_fffe,
            "movz x30, #0xffff, lsl #48",
        ),
        (movk(2, 0x1234, 2), 0xf2c2_4682, "movk x2, #0x1234, lsl #32"),
        (mov(20, 0), 0xaa00_03f4, "mov x20, x0"),
        (str(0, 2, 1), 0x3900_0022, "strb w2, [x1]"),
        (str(1, 2, 1), 0x7900_0022, "strh w2, [x1]"),
        (str(2, 2, 1), 0xb900_0022, "str w2, [x1]"),
        (str(3, 2, 1), 0xf900_0022, "str x2, [x1]"),
        (str(2, ZR, 1), 0xb900_003f, "str wzr, [x1]"),
        (ldr(0, 0, 1), 0x3940_0020, "ldrb w0, [x1]"),
        (ldr(1, 3, 4), 0x7940_0083, "ldrh w3, [x4]"),
        (ldr(2, 0, 1), 0xb940_0020, "ldr w0, [x1]"),
        (ldr(3, 0, 30), 0xf940_03c0, "ldr x0, [x30]"),
        (ldp(2, 3, 1), 0xa940_0c22, "ldp x2, x3, [x1]"),
        (stp(2, 3, 1), 0xa900_0c22, "stp x2, x3, [x1]"),
        (ldxr(2, 1), 0x885f_7c22, "ldxr w2, [x1]"),
        (stxr(3, 2, 1), 0x8803_7c22, "stxr w3, w2, [x1]"),
        (add(1, 1, 1, true), 0x9140_0421, "add x1, x1, #1, lsl #12"),
        (add(0, 0, 48, false), 0x9100_c000, "add x0, x0, #48"),
        (subs(3, 3, 1), 0xf100_0463, "subs x3, x3, #1"),
        (subs(ZR, 0, 113), 0xf101_c41f, "cmp x0, #113"),
        (add_register(1, 1, 4), 0x8b04_0021, "add x1, x1, x4"),
        (subs_register(ZR, 0, 2), 0xeb02_001f, "cmp x0, x2"),
        (lsr(0, 0, 8), 0xd348_fc00, "lsr x0, x0, #8"),
        (lsr(0, 0, 63), 0xd37f_fc00, "lsr x0, x0, #63"),
        (b(0), 0x1400_0000, "b ."),
        (b(64), 0x1400_0010, "b . + 64"),
        (b(-8), 0x17ff_fffe, "b . - 8"),
        (b_cond(NE, -16), 0x54ff_ff81, "b.ne . - 16"),
        (b_cond(EQ, 8), 0x5400_0040, "b.eq . + 8"),
        (br(30), 0xd61f_03c0, "br x30"),
        (tbz(0, 0, -4), 0x3607_ffe0, "tbz w0, #0, . - 4"),
        (tbz(9, 31, 8), 0x36f8_0049, "tbz w9, #31, . + 8"),
        (mrs(0, MPIDR_EL1), 0xd538_00a0, "mrs x0, mpidr_el1"),
        (mrs(0, ICC_IAR1_EL1), 0xd538_cc00, "mrs x0, icc_iar1_el1"),
        (
            mrs(0, ID_AA64ISAR0_EL1),
            0xd538_0600,
            "mrs x0, id_aa64isar0_el1",
        ),
        (msr(VBAR_EL1, 3), 0xd518_c003, "msr vbar_el1, x3"),
        (msr(CNTV_CTL_EL0, 2), 0xd51b_e322, "msr cntv_ctl_el0, x2"),
        (msr(TTBR0_EL1, 1), 0xd518_2001, "msr ttbr0_el1, x1"),
        (msr(TCR_EL1, 1), 0xd518_2041, "msr tcr_el1, x1"),
        (msr(MAIR_EL1, 1), 0xd518_a201, "msr mair_el1, x1"),
        (msr(SCTLR_EL1, 1), 0xd518_1001, "msr sctlr_el1, x1"),
        (msr(ELR_EL1, 0), 0xd518_4020, "msr elr_el1, x0"),
        (ERET, 0xd69f_03e0, "eret"),
        (NOP, 0xd503_201f, "nop"),
        (HVC, 0xd400_0002, "hvc #0"),
        (WFI, 0xd503_207f, "wfi"),
        (ISB, 0xd503_3fdf, "isb"),
        (DSB, 0xd503_3f9f, "dsb sy"),
    ] {
        assert_eq!(word, expected, "{text}: {word:#010x}");
    }
}

#[test]
fn what_does_not_fit_is_no_instruction() {
    let made: [fn() -> u32; 6] = [
        || movz(0, 1, 4),
        || add(0, 0, 4096, false),
        || lsr(0, 0, 64),
        || b(2),
        || tbz(0, 0, 1 << 15),
        || b_cond(NE, -(1 << 20) - 4),
    ];
    for make in made {
        assert!(std::panic::catch_unwind(make).is_err());
    }
}
