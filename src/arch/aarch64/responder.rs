//! A guest of a few instructions that halts, and answers each interrupt by a write to a device: what
//! a wake-up costs, with no kernel in it (`mote bench idle`).
//!
//! Its interrupts stay masked, and there is no exception vector: WFI ends when one is pending all the
//! same (DDI 0487 §D1.6), and the guest asks the GIC which.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::irqchip::PRIVATE_INTERRUPTS;
use super::layout;
use crate::boot::Entry;
use crate::kvm::native::system_register;

#[cfg(test)]
mod tests;

/// The guest memory that it needs.
pub const MEMORY: u64 = 2 << 20;
/// Where it answers, by a 4-byte write of [`ANSWER_VALUE`].
pub const ANSWER: u64 = layout::VIRTIO_START;
/// What it answers.
pub const ANSWER_VALUE: u32 = 1;
/// The interrupt (SPI) that asks it: the last.
pub const GSI: u32 = layout::GSI_COUNT - 1;

const CODE: GuestAddress = GuestAddress(layout::RAM_START);
/// The same interrupt as the GIC counts them.
const INTERRUPT: u32 = PRIVATE_INTERRUPTS + GSI;
/// No priority is too low.
const ANY_PRIORITY: u32 = 0xff;

/// The distributor of either GIC (IHI 0048 §4.3, IHI 0069 §12.9), and how its tables of interrupts
/// begin: a bit, two bits or a byte for each.
const DISTRIBUTOR: u32 = layout::GIC_DISTRIBUTOR.0 as u32;
const GROUPS: u32 = DISTRIBUTOR + 0x80;
const SET_ENABLE: u32 = DISTRIBUTOR + 0x100;
const PRIORITIES: u32 = DISTRIBUTOR + 0x400;
const CONFIGURATION: u32 = DISTRIBUTOR + 0xc00;
/// GICv2: a byte for each, with a bit for each CPU. GICv3: 8 bytes for each, the CPU's affinity.
const TARGETS: u32 = DISTRIBUTOR + 0x800;
const ROUTES: u32 = DISTRIBUTOR + 0x6000;
/// GICD_CTLR: GICv2's group 0; GICv3's group 1, and routing by affinity.
const ENABLE_V2: u32 = 1;
const ENABLE_V3: u32 = 1 << 4 | 1 << 1;
/// Of [`CONFIGURATION`]: an edge, since an irqfd raises a line and lowers it at once.
const EDGE: u32 = 2;

/// GICv2's CPU interface (IHI 0048 §4.4): control, lowest priority, and acknowledgement, which the end
/// of interrupt comes after.
const INTERFACE: u32 = layout::GIC_CPU_INTERFACE.0 as u32;
const INTERFACE_PRIORITY: u32 = INTERFACE + 4;
const INTERFACE_ACKNOWLEDGE: u32 = INTERFACE + 0xc;
const END_AFTER_ACKNOWLEDGE: u32 = 4;

/// The same of GICv3 (IHI 0069 §12.2); and whether the guest has one, by this bit (DDI 0487 §D19.2).
const ICC_PMR_EL1: u64 = system_register(3, 0, 4, 6, 0);
const ICC_IAR1_EL1: u64 = system_register(3, 0, 12, 12, 0);
const ICC_EOIR1_EL1: u64 = system_register(3, 0, 12, 12, 1);
const ICC_IGRPEN1_EL1: u64 = system_register(3, 0, 12, 12, 7);
const ID_AA64PFR0_EL1: u64 = system_register(3, 0, 0, 4, 0);
const HAS_GIC_V3: u32 = 24;

/// What its general registers are for: setting up; the answer; the interrupt, and where a GICv2 tells.
const ADDRESS: u32 = 0;
const VALUE: u32 = 1;
const ANSWER_ADDRESS: u32 = 2;
const ANSWERED: u32 = 3;
const ASKED: u32 = 4;
const ACKNOWLEDGE: u32 = 5;

/// Puts its code into memory of [`MEMORY`] bytes. It answers once unasked, when it is ready itself.
///
/// # Errors
///
/// The memory is smaller.
pub fn write(memory: &GuestMemoryMmap<()>) -> Result<Entry, GuestMemoryError> {
    let code: Vec<u8> = code().into_iter().flat_map(u32::to_le_bytes).collect();
    memory.write_slice(&code, CODE)?;
    Ok(Entry::Arm64(CODE))
}

/// Its instructions, for either GIC.
fn code() -> Vec<u32> {
    let v3 = with_gic_v3();
    let mut code = vec![mrs(VALUE, ID_AA64PFR0_EL1)];
    code.push(tbz(VALUE, HAS_GIC_V3, 1 + v3.len() as i32)); // past it
    code.extend(v3);
    code.extend(with_gic_v2());
    code
}

/// KVM's GICv3 has its redistributors awake and its system registers on from the start.
fn with_gic_v3() -> Vec<u32> {
    let mut code = Vec::new();
    store(&mut code, DISTRIBUTOR, ENABLE_V3);
    store(&mut code, of_interrupt(GROUPS, 1), in_place(1, 1));
    // To the CPU whose affinity is 0.
    store(&mut code, ROUTES + 8 * INTERRUPT, 0);
    store(&mut code, ROUTES + 8 * INTERRUPT + 4, 0);
    enable(&mut code);
    for (register, value) in [(ICC_PMR_EL1, ANY_PRIORITY), (ICC_IGRPEN1_EL1, 1)] {
        load(&mut code, VALUE, value);
        code.push(msr(register, VALUE));
    }
    code.push(ISB);
    answer(
        &mut code,
        mrs(ASKED, ICC_IAR1_EL1),
        msr(ICC_EOIR1_EL1, ASKED),
    );
    code
}

fn with_gic_v2() -> Vec<u32> {
    let mut code = Vec::new();
    store(&mut code, DISTRIBUTOR, ENABLE_V2);
    store(&mut code, of_interrupt(GROUPS, 1), 0);
    // To the first CPU.
    store(&mut code, of_interrupt(TARGETS, 8), in_place(8, 1));
    enable(&mut code);
    store(&mut code, INTERFACE_PRIORITY, ANY_PRIORITY);
    store(&mut code, INTERFACE, ENABLE_V2);
    load(&mut code, ACKNOWLEDGE, INTERFACE_ACKNOWLEDGE);
    answer(
        &mut code,
        ldr(ASKED, ACKNOWLEDGE),
        str(ASKED, ACKNOWLEDGE, END_AFTER_ACKNOWLEDGE),
    );
    code
}

/// Lets the interrupt through: as an edge, with the highest priority.
fn enable(code: &mut Vec<u32>) {
    store(code, of_interrupt(CONFIGURATION, 2), in_place(2, EDGE));
    store(code, of_interrupt(PRIORITIES, 8), 0);
    store(code, of_interrupt(SET_ENABLE, 1), in_place(1, 1));
}

/// The word of a table in which the interrupt is, of which each has so many bits.
fn of_interrupt(table: u32, bits: u32) -> u32 {
    table + INTERRUPT * bits / 32 * 4
}

/// A value of so many bits where the interrupt has its own in that word.
fn in_place(bits: u32, value: u32) -> u32 {
    value << (INTERRUPT * bits % 32)
}

/// Answers, and then each time that the GIC tells the interrupt, by instructions that get its number and
/// end it.
fn answer(code: &mut Vec<u32>, acknowledge: u32, end: u32) {
    load(code, ANSWER_ADDRESS, ANSWER as u32);
    load(code, ANSWERED, ANSWER_VALUE);
    let answer = str(ANSWERED, ANSWER_ADDRESS, 0);
    code.push(answer);
    code.extend([
        WFI, // wait:
        acknowledge,
        cmp(ASKED, INTERRUPT),
        b_ne(-3), // to wait: something else, or nothing
        answer,
        end,
        b(-6), // to wait
    ]);
}

/// Stores 4 bytes.
fn store(code: &mut Vec<u32>, address: u32, value: u32) {
    load(code, ADDRESS, address);
    load(code, VALUE, value);
    code.push(str(VALUE, ADDRESS, 0));
}

/// `movz wd, #low; movk wd, #high, lsl #16`
fn load(code: &mut Vec<u32>, register: u32, value: u32) {
    let (low, high) = (value & 0xffff, value >> 16);
    code.extend([
        0x5280_0000 | low << 5 | register,
        0x72a0_0000 | high << 5 | register,
    ]);
}

// Instructions (DDI 0487 §C6.2), jumps in instructions from their own place on.

const WFI: u32 = 0xd503_207f;
const ISB: u32 = 0xd503_3fdf;

/// `str wt, [xn, #offset]`
fn str(from: u32, address: u32, offset: u32) -> u32 {
    0xb900_0000 | (offset / 4) << 10 | address << 5 | from
}

/// `ldr wt, [xn]`
fn ldr(to: u32, address: u32) -> u32 {
    0xb940_0000 | address << 5 | to
}

/// `cmp wn, #value`
fn cmp(register: u32, value: u32) -> u32 {
    0x7100_001f | value << 10 | register << 5
}

/// `tbz wt, #bit, jump`
fn tbz(register: u32, bit: u32, jump: i32) -> u32 {
    0x3600_0000 | bit << 19 | (jump as u32 & 0x3fff) << 5 | register
}

/// `b.ne jump`
fn b_ne(jump: i32) -> u32 {
    0x5400_0001 | (jump as u32 & 0x7_ffff) << 5
}

/// `b jump`
fn b(jump: i32) -> u32 {
    0x1400_0000 | jump as u32 & 0x03ff_ffff
}

/// `msr register, xt`: the low 16 bits of KVM's number are those of the instruction.
fn msr(register: u64, from: u32) -> u32 {
    0xd500_0000 | (register as u32 & 0xffff) << 5 | from
}

/// `mrs xt, register`
fn mrs(to: u32, register: u64) -> u32 {
    msr(register, to) | 1 << 21
}
