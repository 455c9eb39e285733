//! The x86_64 guest that walks a script: 64-bit code, entered by the 64-bit boot protocol. Its first 8 GiB of
//! addresses are mapped to themselves, and so are the places of [`high`].

use std::collections::BTreeSet;

use crate::elf::{Elf, LOAD, Segment};
use crate::script::{self, Op, Script, Width};

pub const RECORD: usize = 48;
/// RAM begins here.
pub const RAM: u64 = 0;
/// Where the file is in memory: what a hostile guest finds to write to as its kernel.
pub const KERNEL: u64 = 0x10_0000;
pub const BOOT_TIMER: u64 = 0xd000_0000;
pub const VIRTIO: u64 = 0xd000_1000;
/// Where drives that are mapped begin.
pub const DRIVES: u64 = 1 << 32;
/// What isn't memory, from here to there.
pub const GAP: std::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;
/// Of how many attacks in a long list one is carried out: here an exit takes some microseconds.
pub const ONE_OF: usize = 1;
/// How much longer than here a guest must wait, in turns of a loop, for what the monitor does.
pub const TURNS: u64 = 1;
/// Interrupt controllers, which KVM has for itself.
pub const CONTROLLERS: [u64; 2] = [0xfec0_0000, 0xfee0_0000];

const PAGE_TABLES: u64 = KERNEL + 0x4000;
const SCRIPT: u64 = KERNEL + 0x2_4000;
const SERIAL: u64 = 0x3f8;
/// String instructions take from here, and put there.
pub const STRINGS: u64 = 20 << 20;

/// The serial port's registers.
pub const SERIAL_REGISTERS: u64 = SERIAL;
/// The first register of each device that is no virtio one, and how many it has: the serial port, the keyboard
/// controller, the power button.
pub const BOARD: [(u64, u64); 3] = [(SERIAL, 8), (KEYBOARD, 5), (SLEEP, 2)];
pub const BOARD_WIDTHS: [Width; 3] = [Width::One, Width::Two, Width::Four];
/// From each first register on there is nothing else up to here.
pub const BOARD_SPAN: u64 = 16;
const KEYBOARD: u64 = 0x60;
const SLEEP: u64 = 0x600;
/// Whether arm64 kernels run here.
pub const RUNS_IMAGES: bool = false;

/// An access to a register of those.
pub fn peek(width: Width) -> script::Act {
    script::Act::Native(Act::In(width))
}

pub fn poke(width: Width) -> script::Act {
    script::Act::Native(Act::Out(width))
}

/// Whether this would reset the machine (by a command, or by data for one) or switch it off.
pub fn ends(register: u64, width: Width, value: u64) -> bool {
    let bytes = &value.to_le_bytes()[..1 << width as usize];
    match register {
        KEYBOARD..SERIAL => bytes.iter().any(|byte| matches!(byte, 0xfe | 0xd1)),
        SLEEP.. => bytes.contains(&0x34),
        _ => false,
    }
}

/// As an arm64 kernel, with nothing behind its header.
pub fn image(_: &Script) -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[16..24].copy_from_slice(&8192u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// What only this architecture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Out(Width),
    In(Width),
    /// `rep outs`, of as many as the value says.
    Outs(Width),
    /// `rep ins`, likewise.
    Ins(Width),
    /// Exchanges memory and the value, locked as it always is.
    Exchange(Width),
}

/// Machine code.
pub type Piece = Vec<u8>;

pub fn print(byte: u8) -> Op {
    Op::new(
        script::Act::Native(Act::Out(Width::One)),
        SERIAL,
        byte.into(),
    )
}

/// `mov dx, 0x600; mov al, 0x34; out dx, al; jmp $`
pub fn power_off() -> Piece {
    vec![0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe]
}

/// An undefined instruction, with no handler for it nor for the faults that follow: a triple fault.
pub fn crash() -> Piece {
    vec![0x0f, 0x0b]
}

/// `jmp $`
pub fn spin_for_ever() -> Piece {
    vec![0xeb, 0xfe]
}

/// `cli; hlt`, over again
pub fn halt_for_ever() -> Piece {
    vec![0xfa, 0xf4, 0xeb, 0xfc]
}

/// Far beyond memory, each the start of a GiB that a guest can reach; the last is at the end of what the
/// processor can address.
pub fn high() -> Vec<u64> {
    // CPUID 0x8000_0008, EAX: physical address bits; virtual ones end before.
    let bits = (std::arch::x86_64::__cpuid(0x8000_0008).eax & 0xff).min(47);
    let mut places = vec![1 << 35, (1 << 36) - (1 << 30)];
    places.extend((37..bits).map(|bit| 1 << bit).step_by(3));
    places.push((1 << bits) - (1 << 30));
    places
}

/// Page tables at [`PAGE_TABLES`], of 2 MiB pages: the root, then a table for each 512 GiB that is used, and one
/// for each GiB.
fn page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    let gibs: BTreeSet<u64> = (0..8).chain(high().iter().map(|a| a >> 30)).collect();
    let regions: BTreeSet<u64> = gibs.iter().map(|gib| gib >> 9).collect();
    let mut tables = vec![0; 4096 * (1 + regions.len() + gibs.len())];
    let mut set = |table: usize, index: u64, entry: u64| {
        let at = table * 4096 + (index % 512) as usize * 8;
        tables[at..at + 8].copy_from_slice(&(entry | PRESENT_WRITABLE).to_le_bytes());
    };
    for (table, region) in (1..).zip(&regions) {
        set(0, *region, PAGE_TABLES + 4096 * table as u64);
    }
    for (table, gib) in (1 + regions.len()..).zip(&gibs) {
        let region = regions.iter().position(|r| *r == gib >> 9).unwrap();
        set(1 + region, *gib, PAGE_TABLES + 4096 * table as u64);
        for page in 0..512 {
            set(table, page, gib << 30 | page << 21 | LARGE);
        }
    }
    tables
}

/// One access of this width: register `rbx` or `ebx` with memory at `rdi`.
fn access(width: Width, opcode: u8) -> Vec<u8> {
    match width {
        Width::One => vec![opcode, 0x1f],
        Width::Two => vec![0x66, opcode | 1, 0x1f],
        Width::Four => vec![opcode | 1, 0x1f],
        Width::Eight => vec![0x48, opcode | 1, 0x1f],
    }
}

/// An instruction for a port, whose number goes to `dx`.
fn port(width: Width, opcode: u8) -> Vec<u8> {
    let prefix: &[u8] = if width == Width::Two { &[0x66] } else { &[] };
    let opcode = opcode | u8::from(width != Width::One);
    [&[0x89, 0xfa, 0x89, 0xd8], prefix, &[opcode]].concat() // mov edx, edi; mov eax, ebx
}

/// The same, repeated: the count is the value, memory is at [`STRINGS`].
fn string(width: Width, opcode: u8) -> Vec<u8> {
    let prefix: &[u8] = if width == Width::Two { &[0x66] } else { &[] };
    let opcode = opcode | u8::from(width != Width::One);
    let memory = (STRINGS as u32).to_le_bytes();
    [
        &[0x49, 0x89, 0xc9][..], // mov r9, rcx
        &[0x49, 0x89, 0xf2],     // mov r10, rsi
        &[0x49, 0x89, 0xfb],     // mov r11, rdi
        &[0x48, 0x89, 0xd9],     // mov rcx, rbx
        &[0x89, 0xfa],           // mov edx, edi
        &[0xbe],
        &memory, // mov esi, STRINGS
        &[0xbf],
        &memory, // mov edi, STRINGS
        prefix,
        &[0xf3, opcode],
        &[0x4c, 0x89, 0xc9], // mov rcx, r9
        &[0x4c, 0x89, 0xd6], // mov rsi, r10
        &[0x4c, 0x89, 0xdf], // mov rdi, r11
    ]
    .concat()
}

fn body(act: script::Act) -> Vec<u8> {
    match act {
        script::Act::Write(width) => access(width, 0x88),
        script::Act::Read(Width::One) => vec![0x8a, 0x07],
        script::Act::Read(Width::Two) => vec![0x66, 0x8b, 0x07],
        script::Act::Read(Width::Four) => vec![0x8b, 0x07],
        script::Act::Read(Width::Eight) => vec![0x48, 0x8b, 0x07],
        // cmp [rdi], bx; jne + 3; xor ecx, ecx; inc ecx: the last time
        script::Act::Await => vec![0x66, 0x39, 0x1f, 0x75, 0x05, 0xb9, 1, 0, 0, 0],
        script::Act::Spin => vec![0x90],
        // mov al, [rdi]; mov edx, SERIAL; out dx, al
        script::Act::Show => vec![0x8a, 0x07, 0xba, 0xf8, 0x03, 0, 0, 0xee],
        script::Act::Code(_) => unreachable!("a piece has its own"),
        script::Act::Native(act) => match act {
            Act::Out(width) => port(width, 0xee),
            Act::In(width) => port(width, 0xec),
            Act::Outs(width) => string(width, 0x6e),
            Act::Ins(width) => string(width, 0x6c),
            Act::Exchange(width) => access(width, 0x86),
        },
    }
}

/// What has been put together so far, at [`KERNEL`].
#[derive(Default)]
struct Image(Vec<u8>);

impl Image {
    fn here(&self) -> u64 {
        KERNEL + self.0.len() as u64
    }

    /// `jmp address`
    fn jump(&mut self, address: u64) {
        let offset = address.wrapping_sub(self.here() + 5) as u32;
        self.0.push(0xe9);
        self.0.extend(offset.to_le_bytes());
    }

    fn fill_to(&mut self, address: u64) {
        assert!(self.here() <= address, "there is no more room");
        self.0.resize((address - KERNEL) as usize, 0);
    }
}

pub fn kernel(script: &Script) -> Vec<u8> {
    let mut image = Image::default();
    let tables = (PAGE_TABLES as u32).to_le_bytes();
    let records = (SCRIPT as u32).to_le_bytes();
    // mov eax, PAGE_TABLES; mov cr3, rax; mov esi, SCRIPT
    image.0.extend([0xb8]);
    image.0.extend(tables);
    image.0.extend([0x0f, 0x22, 0xd8, 0xbe]);
    image.0.extend(records);
    let next = image.here();
    image.0.extend(
        [
            &[0x48, 0x8b, 0x06][..],   // mov rax, [rsi]
            &[0x48, 0x8b, 0x7e, 8],    // mov rdi, [rsi + 8]: address
            &[0x48, 0x8b, 0x5e, 16],   // mov rbx, [rsi + 16]: value
            &[0x48, 0x8b, 0x4e, 24],   // mov rcx, [rsi + 24]: count
            &[0x48, 0x8b, 0x6e, 32],   // mov rbp, [rsi + 32]: stride
            &[0x4c, 0x8b, 0x46, 40],   // mov r8, [rsi + 40]: step
            &[0x48, 0x83, 0xc6, 0x30], // add rsi, 48
            &[0xff, 0xe0],             // jmp rax
        ]
        .concat(),
    );
    let mut acts = Vec::new();
    for op in &script.ops {
        if acts.iter().any(|(act, _)| *act == op.act) {
            continue;
        }
        let start = image.here();
        acts.push((op.act, start));
        if let script::Act::Code(piece) = op.act {
            image.0.extend(&script.pieces[piece]);
        } else {
            image.0.extend(body(op.act));
            image.0.extend([0x48, 0x01, 0xef]); // add rdi, rbp
            image.0.extend([0x4c, 0x01, 0xc3]); // add rbx, r8
            image.0.extend([0x48, 0x83, 0xe9, 1]); // sub rcx, 1
            image.0.extend([0x0f, 0x85]); // jnz start
            let offset = start.wrapping_sub(image.here() + 4) as u32;
            image.0.extend(offset.to_le_bytes());
        }
        image.jump(next);
    }
    image.fill_to(PAGE_TABLES);
    image.0.extend(page_tables());
    image.fill_to(SCRIPT);
    for op in &script.ops {
        let (_, start) = acts.iter().find(|(act, _)| *act == op.act).unwrap();
        image.0.extend(op.record(*start));
    }
    let mut elf = Elf::new(KERNEL);
    elf.segments.push(Segment::new(LOAD, KERNEL, image.0));
    elf.file()
}
