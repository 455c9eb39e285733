//! The AArch64 guest that walks a script. The MMU is on, with all of the first 512 GiB at their addresses as
//! normal memory, so that accesses which aren't aligned arrive too; an exception passes over what caused it.

use crate::common::Code;
use crate::common::a64::{self, SystemRegister};
use crate::script::{self, Op, Script, Width};

pub const RECORD: usize = 48;
/// RAM begins here.
pub const RAM: u64 = 0x4000_0000;
/// Where the file is in memory: what a hostile guest finds to write to as its kernel.
pub const KERNEL: u64 = RAM + (2 << 20);
pub const BOOT_TIMER: u64 = 0x0902_0000;
pub const VIRTIO: u64 = 0x0a00_0000;
/// Where drives that are mapped begin.
pub const DRIVES: u64 = 0x4800_0000;
/// What isn't memory, from here to there.
pub const GAP: std::ops::Range<u64> = 0..0x4000_0000;
/// Of how many attacks in a long list one is carried out: where the machine is emulated, as it mostly is in the
/// tests, an exit takes a hundred times as long as elsewhere.
pub const ONE_OF: usize = 12;
/// How much longer than on x86_64 a guest must wait, in turns of a loop, for what the monitor does.
pub const TURNS: u64 = 20;
/// Interrupt controllers, which KVM has for itself.
pub const CONTROLLERS: [u64; 2] = [0x0800_0000, 0x080a_0000];

const SERIAL: u64 = 0x0900_0000;
const VECTORS: u64 = KERNEL + 0x1_0000;
const PAGE_TABLE: u64 = KERNEL + 0x1_1000;
const SCRIPT: u64 = KERNEL + 0x1_2000;

/// The serial port's registers.
pub const SERIAL_REGISTERS: u64 = SERIAL;
/// The first register of each device that is no virtio one, and how many it has: the serial port, the clock (which
/// says at the end of its page who it is).
pub const BOARD: [(u64, u64); 3] = [(SERIAL, 8), (CLOCK, 0x20), (CLOCK + 0xfe0, 0x20)];
pub const BOARD_WIDTHS: [Width; 4] = script::WIDTHS;
/// From each first register on there is nothing else up to here.
pub const BOARD_SPAN: u64 = 0x40;
const CLOCK: u64 = 0x0901_0000;
/// Whether arm64 kernels run here.
pub const RUNS_IMAGES: bool = true;

/// An access to a register of those.
pub fn peek(width: Width) -> script::Act {
    script::Act::Read(width)
}

pub fn poke(width: Width) -> script::Act {
    script::Act::Write(width)
}

/// Whether this would reset the machine or switch it off: nothing does.
pub fn ends(_: u64, _: Width, _: u64) -> bool {
    false
}

/// As an arm64 kernel.
pub fn image(script: &Script) -> Vec<u8> {
    kernel(script)
}

const SCRATCH: u32 = 0;
const ADDRESS: u32 = 1;
const VALUE: u32 = 2;
const COUNT: u32 = 3;
const STRIDE: u32 = 4;
const STEP: u32 = 5;
const SERIAL_AT: u32 = 6;
const INSTRUCTIONS: u32 = 9;
const NEXT: u32 = 28;

/// Nothing that a script would have of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {}

/// Instructions.
pub type Piece = Code;

pub fn print(byte: u8) -> Op {
    Op::new(script::Act::Write(Width::One), SERIAL, byte.into())
}

pub fn power_off() -> Piece {
    Code::new().power_off()
}

/// An access where there is nothing, by an instruction of which the processor doesn't tell what it wants.
pub fn crash() -> Piece {
    Code::new().crash()
}

pub fn spin_for_ever() -> Piece {
    Code::new().spin()
}

pub fn halt_for_ever() -> Piece {
    Code::new().halt()
}

/// Far beyond memory, each the start of a GiB that a guest can reach.
pub fn high() -> Vec<u64> {
    (35..39)
        .map(|bit| 1 << bit)
        .chain([(1 << 39) - (1 << 30)])
        .collect()
}

fn body(act: script::Act) -> Vec<u32> {
    match act {
        script::Act::Write(width) => vec![a64::str(width as u32, VALUE, ADDRESS)],
        script::Act::Read(width) => vec![a64::ldr(width as u32, SCRATCH, ADDRESS)],
        // Equal: this was the last time.
        script::Act::Await => vec![
            a64::ldr(1, SCRATCH, ADDRESS),
            a64::subs_register(a64::ZR, SCRATCH, VALUE),
            a64::b_cond(a64::NE, 8),
            a64::movz(COUNT, 1, 0),
        ],
        script::Act::Spin => vec![a64::NOP],
        script::Act::Show => vec![
            a64::ldr(0, SCRATCH, ADDRESS),
            a64::str(0, SCRATCH, SERIAL_AT),
        ],
        script::Act::Code(_) => unreachable!("a piece has its own"),
        script::Act::Native(act) => match act {},
    }
}

/// Goes on with the next operation.
fn to(code: Code, address: u64) -> Code {
    let offset = address.wrapping_sub(code.here()) as i32;
    code.emit(&[a64::b(offset)])
}

fn system(code: Code, register: SystemRegister, value: u64) -> Code {
    code.write_system(register, value)
}

pub fn kernel(script: &Script) -> Vec<u8> {
    // Device-nGnRnE (unused), and normal memory, write-back; as for `Code::see_drives`.
    let code = system(Code::new(), a64::VBAR_EL1, VECTORS);
    let code = system(code, a64::MAIR_EL1, 0xff00);
    let code = system(code, a64::TCR_EL1, 2 << 32 | 1 << 23 | 25);
    let code = system(code, a64::TTBR0_EL1, PAGE_TABLE).emit(&[a64::DSB, a64::ISB]);
    let code = system(code, a64::SCTLR_EL1, 0x30d0_0800 | 1 << 12 | 1 << 2 | 1);
    let code = code.load(NEXT, SCRIPT).load(SERIAL_AT, SERIAL);
    let code = code.emit(&[a64::ISB]);
    let next = code.here();
    let pairs = [(INSTRUCTIONS, ADDRESS), (VALUE, COUNT), (STRIDE, STEP)];
    let mut code = pairs.iter().fold(code, |code, (first, second)| {
        code.emit(&[
            a64::ldp(*first, *second, NEXT),
            a64::add(NEXT, NEXT, 16, false),
        ])
    });
    code = code.emit(&[a64::br(INSTRUCTIONS)]);
    let mut acts = Vec::new();
    for op in &script.ops {
        if acts.iter().any(|(act, _)| *act == op.act) {
            continue;
        }
        let start = code.here();
        acts.push((op.act, start));
        if let script::Act::Code(piece) = op.act {
            code = code.emit(script.pieces[piece].words());
        } else {
            code = code.emit(&body(op.act)).emit(&[
                a64::add_register(ADDRESS, ADDRESS, STRIDE),
                a64::add_register(VALUE, VALUE, STEP),
                a64::subs(COUNT, COUNT, 1),
            ]);
            let offset = start.wrapping_sub(code.here()) as i32;
            code = code.emit(&[a64::b_cond(a64::NE, offset)]);
        }
        code = to(code, next);
    }

    assert!(code.here() <= VECTORS, "there is no more room");
    let at = |address: u64| (address - KERNEL) as usize;
    let end = at(SCRIPT) + script.ops.len() * RECORD;
    let mut image = code.kernel_of_size(end);
    // Whatever the exception: behind the instruction.
    let handler = Code::new()
        .read_system(a64::ELR_EL1)
        .emit(&[a64::add(SCRATCH, SCRATCH, 4, false)])
        .emit(&[a64::msr(a64::ELR_EL1, SCRATCH), a64::ERET]);
    let words = handler.words().iter().flat_map(|word| word.to_le_bytes());
    let words: Vec<u8> = words.collect();
    for vector in 0..16 {
        let start = at(VECTORS) + vector * 0x80;
        image[start..start + words.len()].copy_from_slice(&words);
    }
    for gib in 0..512u64 {
        // A block, accessed, inner shareable, of the second attribute.
        let entry = gib << 30 | 1 << 10 | 3 << 8 | 1 << 2 | 1;
        let start = at(PAGE_TABLE) + 8 * gib as usize;
        image[start..start + 8].copy_from_slice(&entry.to_le_bytes());
    }
    for (place, op) in image[at(SCRIPT)..].chunks_mut(RECORD).zip(&script.ops) {
        let (_, start) = acts.iter().find(|(act, _)| *act == op.act).unwrap();
        place.copy_from_slice(&op.record(*start));
    }
    image
}
