//! A64 code for tiny guests, in an arm64 Image; and where things are in its guests.

use std::io::Write;

#[path = "a64.rs"]
pub mod a64;

use a64::{SystemRegister, ZR};

/// RAM begins here.
pub const RAM: u64 = 0x4000_0000;
/// The boot timer.
pub const BOOT_TIMER: u64 = 0x0902_0000;
/// The registers of the first virtio device; a page for each.
pub const VIRTIO: u64 = 0x0a00_0000;
/// Neither memory nor a device.
pub const NOWHERE: u64 = 0x0b00_0000;
/// Where the first drive that is mapped is, behind 128 MiB of RAM.
pub const DRIVE: u64 = 0x4800_0000;
/// A crash report has this before the address of the instruction.
pub const PROGRAM_COUNTER: &str = "pc 0x";
/// What a user is advised to give as the kernel.
pub const KERNEL_ADVICE: &str = "give an arm64 Image";
/// How a report tells of two more of [`Code::exit_in_vain`].
pub const EXITS_IN_VAIN: &str = "exits.unclaimed-MMIO 5 -> 7";
/// Metrics that are of this architecture's KVM.
pub const METRICS: [&str; 2] = [
    "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"wfi\"} ",
    "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"mmio_user\"} 3",
];

/// The serial port's data register; its line status is 5 bytes behind it.
const SERIAL: u64 = 0x0900_0000;
/// Where mote puts the file.
const KERNEL: u64 = RAM + (2 << 20);
/// The Image's header, before the code.
const HEADER: usize = 64;

/// What was read last, and results of PSCI.
const READ: u32 = 0;
const ADDRESS: u32 = 1;
const VALUE: u32 = 2;
const COUNT: u32 = 3;

/// A64 code, as an Image is entered: EL1, no MMU, interrupts masked, X0 the address of the device tree.
#[derive(Default)]
pub struct Code(Vec<u32>);

impl Code {
    pub fn new() -> Self {
        Code::default()
    }

    /// Any instructions.
    pub fn emit(mut self, words: &[u32]) -> Self {
        self.0.extend(words);
        self
    }

    /// The instructions so far.
    pub fn words(&self) -> &[u32] {
        &self.0
    }

    /// Where the next instruction is.
    pub fn here(&self) -> u64 {
        KERNEL + (HEADER + 4 * self.0.len()) as u64
    }

    /// Puts another piece of code here that isn't run in passing; and its address.
    pub fn aside(self, other: Code) -> (Self, u64) {
        let code = self.emit(&[a64::b(4 + 4 * other.0.len() as i32)]);
        let address = code.here();
        (code.emit(&other.0), address)
    }

    /// A register with this value: `movz`, and a `movk` for each further 16 bits that aren't 0.
    pub fn load(self, register: u32, value: u64) -> Self {
        let part = |hw| (value >> (16 * hw)) as u16;
        let first = (0..4).find(|hw| part(*hw) != 0).unwrap_or(0);
        let code = self.emit(&[a64::movz(register, part(first), first)]);
        (first + 1..4)
            .filter(|hw| part(*hw) != 0)
            .fold(code, |code, hw| {
                code.emit(&[a64::movk(register, part(hw), hw)])
            })
    }

    /// A store of 1 << `size` bytes.
    fn write(self, size: u32, address: u64, value: u64) -> Self {
        let code = self.load(ADDRESS, address).load(VALUE, value);
        code.emit(&[a64::str(size, VALUE, ADDRESS)])
    }

    /// A load of 1 << `size` bytes.
    fn read(self, size: u32, address: u64) -> Self {
        self.load(ADDRESS, address)
            .emit(&[a64::ldr(size, READ, ADDRESS)])
    }

    /// Prints a byte.
    pub fn print_one(self, byte: u8) -> Self {
        self.write_byte(SERIAL, byte)
    }

    /// An exit for nothing: a write to where nobody is.
    pub fn exit_in_vain(self) -> Self {
        self.write_byte(NOWHERE, 0)
    }

    /// Reads a byte.
    pub fn read_byte(self, address: u64) -> Self {
        self.read(0, address)
    }

    /// Reads 4 bytes.
    pub fn read_long(self, address: u64) -> Self {
        self.read(2, address)
    }

    /// Of what was read last, the bits from this one up.
    pub fn shift(self, bits: u8) -> Self {
        self.emit(&[a64::lsr(READ, READ, bits.into())])
    }

    /// Prints the low byte of what was read last.
    pub fn print_read(self) -> Self {
        self.load(ADDRESS, SERIAL)
            .emit(&[a64::str(0, READ, ADDRESS)])
    }

    /// Prints that byte + `base`.
    pub fn print_read_plus(self, base: u8) -> Self {
        self.emit(&[a64::add(READ, READ, base.into(), false)])
            .print_read()
    }

    /// Prints so many bytes of what was read last, the lowest first.
    pub fn print_bytes(self, count: usize) -> Self {
        (0..count).fold(self, |code, _| code.print_read().shift(8))
    }

    /// Writes a byte.
    pub fn write_byte(self, address: u64, value: u8) -> Self {
        self.write(0, address, value.into())
    }

    /// Writes 2 bytes.
    pub fn write_word(self, address: u64, value: u16) -> Self {
        self.write(1, address, value.into())
    }

    /// Writes 4 bytes.
    pub fn write_long(self, address: u64, value: u32) -> Self {
        self.write(2, address, value.into())
    }

    /// Writes 8 bytes.
    pub fn write_quad(self, address: u64, value: u64) -> Self {
        self.write(3, address, value)
    }

    /// Writes a byte into each of so many pages.
    pub fn touch(self, address: u64, pages: u32) -> Self {
        let code = self.load(ADDRESS, address).load(COUNT, pages.into());
        code.load(VALUE, 1).emit(&[
            a64::str(0, VALUE, ADDRESS), // again:
            a64::add(ADDRESS, ADDRESS, 1, true),
            a64::subs(COUNT, COUNT, 1),
            a64::b_cond(a64::NE, -12), // to again
        ])
    }

    /// Prints so many bytes from the address in a register, which goes on with them.
    pub fn print_memory(self, register: u32, bytes: u32) -> Self {
        let code = self.load(ADDRESS, SERIAL).load(COUNT, bytes.into());
        code.emit(&[
            a64::ldr(0, VALUE, register), // again:
            a64::str(0, VALUE, ADDRESS),
            a64::add(register, register, 1, false),
            a64::subs(COUNT, COUNT, 1),
            a64::b_cond(a64::NE, -16), // to again
        ])
    }

    /// Echoes serial input until a `q`: waits for the line status's data-ready bit, reads a
    /// byte, writes it back.
    pub fn echo_until_q(self) -> Self {
        const STATUS: u32 = COUNT;
        let code = self.load(ADDRESS, SERIAL).load(STATUS, SERIAL + 5);
        code.emit(&[
            a64::ldr(0, VALUE, STATUS), // wait:
            a64::tbz(VALUE, 0, -4),     // to wait
            a64::ldr(0, VALUE, ADDRESS),
            a64::str(0, VALUE, ADDRESS),
            a64::subs(ZR, VALUE, b'q'.into()),
            a64::b_cond(a64::NE, -20), // to wait
        ])
    }

    /// Turns the MMU and caches on, so that the host sees in a mapped file what the guest writes there
    /// (all addresses stay): 1 GiB of devices, and 4 GiB of memory from the start of RAM (DDI 0487 D8.3).
    pub fn see_drives(self) -> Self {
        const TABLE: u64 = RAM + (24 << 20);
        const BLOCK: u64 = 1; // of 1 GiB, at level 1
        const ACCESSED: u64 = 1 << 10;
        const INNER_SHAREABLE: u64 = 3 << 8;
        const MEMORY: u64 = 1 << 2; // the second attribute of MAIR
        let code = self.write_quad(TABLE, BLOCK | ACCESSED);
        let code = (1..5).fold(code, |code, gib| {
            let entry = gib << 30 | BLOCK | ACCESSED | INNER_SHAREABLE | MEMORY;
            code.write_quad(TABLE + gib * 8, entry)
        });
        code.emit(&[a64::DSB])
            // Device-nGnRnE, and normal memory, write-back
            .write_system(a64::MAIR_EL1, 0xff00)
            // 39 bits of addresses by TTBR0, of which the walks aren't cached; 40 bits of physical ones
            .write_system(a64::TCR_EL1, 2 << 32 | 1 << 23 | 25)
            .write_system(a64::TTBR0_EL1, TABLE)
            .emit(&[a64::ISB])
            // the bits that are 1, caches, MMU
            .write_system(a64::SCTLR_EL1, 0x30d0_0800 | 1 << 12 | 1 << 2 | 1)
            .emit(&[a64::ISB])
    }

    /// From here on devices' writes to memory are seen: by the caches, as on the host.
    pub fn with_caches(self) -> Self {
        self.see_drives()
    }

    /// Notifies a device, of what is in memory by then.
    pub fn notify(self, address: u64, queue: u32) -> Self {
        self.emit(&[a64::DSB]).write_long(address, queue)
    }

    /// Waits until there is this number, of 12 bits at most.
    pub fn wait_for_word(self, address: u64, value: u16) -> Self {
        self.load(ADDRESS, address).emit(&[
            a64::ldr(1, VALUE, ADDRESS), // again:
            a64::subs(ZR, VALUE, value.into()),
            a64::b_cond(a64::NE, -8), // to again
        ])
    }

    /// Writes to memory in many ways, of which none should arrive at a read-only one. A pair of registers is
    /// one of those that the processor doesn't describe to KVM.
    pub fn write_in_many_ways(self, address: u64) -> Self {
        let pair = self.load(ADDRESS, address);
        let pair = pair.emit(&[a64::stp(VALUE, VALUE, ADDRESS)]);
        (0..8).fold(pair, |code, at| {
            (0..4).fold(code, |code, size| {
                code.write(size, address + at * 8, 0x5555_5555_5555_5555)
            })
        })
    }

    /// `stxr`, which the processor doesn't describe to KVM, and whose outcome a guest waits for. The exception
    /// of that (an external abort) goes on behind it, with an `U` printed.
    pub fn write_unemulated(self, address: u64) -> Self {
        const TABLE: u64 = 2048; // the table's size and alignment
        const OWN_SYNCHRONOUS: u64 = 0x200; // of this level's own (DDI 0487 D1.3.1)
        let handler = Code::new()
            .read_system(a64::ELR_EL1)
            .emit(&[a64::add(READ, READ, 4, false), a64::msr(a64::ELR_EL1, READ)])
            .print("U")
            .emit(&[a64::ERET]);
        // Behind the branch around it.
        let behind = (self.here() + 4) % TABLE;
        let fill = (TABLE + OWN_SYNCHRONOUS - behind) % TABLE / 4;
        let code = (0..fill).fold(self, |code, _| code.emit(&[a64::NOP]));
        let (code, handler) = code.aside(handler);
        let table = handler - OWN_SYNCHRONOUS;
        assert_eq!(table % TABLE, 0);
        code.write_system(a64::VBAR_EL1, table)
            .load(ADDRESS, address)
            .emit(&[
                a64::ISB,
                a64::ldxr(VALUE, ADDRESS),
                a64::stxr(READ, VALUE, ADDRESS),
            ])
    }

    /// `mrs`: reads a system register.
    pub fn read_system(self, register: SystemRegister) -> Self {
        self.emit(&[a64::mrs(READ, register)])
    }

    /// `msr`: writes a system register.
    pub fn write_system(self, register: SystemRegister, value: u64) -> Self {
        self.load(VALUE, value).emit(&[a64::msr(register, VALUE)])
    }

    /// Calls PSCI (Arm DEN 0022), as KVM offers it: by `hvc`. Its result is what was read last.
    pub fn psci(self, function: u32, arguments: &[u64]) -> Self {
        let arguments = (1..).zip(arguments);
        let code = self.load(0, function.into());
        arguments
            .fold(code, |code, (register, value)| code.load(register, *value))
            .emit(&[a64::HVC])
    }

    /// `b .`
    pub fn spin(self) -> Self {
        self.emit(&[a64::b(0)])
    }

    /// Counts in memory for ever, and exits each time, by a read from where nothing is.
    pub fn count(self, address: u64) -> Self {
        let code = self.load(ADDRESS, address).load(VALUE, 0);
        code.load(COUNT, NOWHERE).emit(&[
            a64::add(VALUE, VALUE, 1, false), // again:
            a64::str(2, VALUE, ADDRESS),
            a64::ldr(0, READ, COUNT),
            a64::b(-12), // to again
        ])
    }

    /// `wfi`, and no interrupt comes: for ever.
    pub fn halt(self) -> Self {
        self.emit(&[a64::WFI, a64::b(-4)])
    }

    /// What KVM can't go on after: an instruction of which the processor doesn't tell what it wants,
    /// where there is nothing.
    pub fn crash(self) -> Self {
        self.load(ADDRESS, NOWHERE)
            .emit(&[a64::ldp(READ, VALUE, ADDRESS)])
    }

    /// Resets the machine, then waits to be ended: PSCI SYSTEM_RESET.
    pub fn reset(self) -> Self {
        self.psci(0x8400_0009, &[]).spin()
    }

    /// Switches the machine off, then waits to be ended: PSCI SYSTEM_OFF.
    pub fn power_off(self) -> Self {
        self.psci(0x8400_0008, &[]).spin()
    }

    /// Resets the machine as Linux does when it has panicked: PSCI SYSTEM_RESET2, a warm one.
    pub fn panic(self) -> Self {
        self.psci(0xc400_0012, &[0, 0]).spin()
    }

    /// A kernel file in which at least `size` bytes are loaded: an Image (Linux
    /// Documentation/arch/arm64/booting.rst) of this code, and other bytes after it.
    pub fn kernel_of_size(&self, size: usize) -> Vec<u8> {
        const LITTLE_ENDIAN_4K_ANYWHERE: u64 = 1 << 3 | 1 << 1;
        let size = size.max(HEADER + 4 * self.0.len());
        let mut image = Vec::with_capacity(size);
        image.extend(a64::b(HEADER as i32).to_le_bytes());
        image.extend([0; 4]);
        // Offset from a border of 2 MiB, size, flags, three reserved.
        for value in [0, size as u64, LITTLE_ENDIAN_4K_ANYWHERE, 0, 0, 0] {
            image.extend(value.to_le_bytes());
        }
        image.extend(b"ARM\x64\0\0\0\0");
        image.extend(self.0.iter().flat_map(|word| word.to_le_bytes()));
        image.resize(size, 0x5a);
        image
    }

    /// The same, compressed: an Image.gz.
    pub fn compressed_kernel(&self, size: usize) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&self.kernel_of_size(size)).unwrap();
        gzip.finish().unwrap()
    }
}
