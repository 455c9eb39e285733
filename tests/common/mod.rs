//! What the KVM tests share: a tiny assembler, an ELF file around its code, and a VM of it.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use motevm::config::{Console, VmConfig};
use motevm::{BuildOptions, Host, Vm, build};

/// Whether the tests of `kind` can run; if not, says why. Where `MOTE_REQUIRE` names the kind,
/// not being able to is a failure.
pub fn can_run(kind: &str, obstacle: Option<String>) -> bool {
    let Some(obstacle) = obstacle else {
        return true;
    };
    let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|word| word == kind);
    assert!(!required, "MOTE_REQUIRE={kind}, but {obstacle}");
    // Straight to the stream: the test harness would swallow what a passing test prints.
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(
        std::io::stderr(),
        "NOT RUN (kind {kind}): {test}: {obstacle}"
    );
    false
}

/// How long a tiny guest and its monitor may take: the host may be slow, and have much else to do.
#[allow(dead_code)] // each test binary uses its own part
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The host, or `None` (said aloud) where tests with tiny guests can't run.
#[allow(dead_code)] // each test binary uses its own part
pub fn kvm() -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(e) => {
            can_run("kvm", Some(e.to_string()));
            None
        }
    }
}

/// 32-bit protected-mode code, as PVH enters it: flat segments, no paging, no interrupts.
#[derive(Default)]
pub struct Code(Vec<u8>);

#[allow(dead_code)] // each test binary uses its own part
impl Code {
    pub fn new() -> Self {
        Code::default()
    }

    fn emit(mut self, bytes: &[&[u8]]) -> Self {
        self.0.extend(bytes.concat());
        self
    }

    /// `mov dx, port; mov al, value; out dx, al`
    pub fn out(self, port: u16, value: u8) -> Self {
        self.emit(&[&[0x66, 0xba], &port.to_le_bytes(), &[0xb0, value, 0xee]])
    }

    /// One `out` to the serial port for each byte.
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out(0x3f8, byte))
    }

    /// `mov dx, port; in al, dx`
    pub fn read_port(self, port: u16) -> Self {
        self.emit(&[&[0x66, 0xba], &port.to_le_bytes(), &[0xec]])
    }

    /// Reads a port `count` times into memory by one instruction: `mov edi, address;
    /// mov ecx, count; mov dx, port; rep insb`
    pub fn read_string(self, port: u16, address: u32, count: u32) -> Self {
        self.emit(&[
            &[0xbf],
            &address.to_le_bytes(),
            &[0xb9],
            &count.to_le_bytes(),
            &[0x66, 0xba],
            &port.to_le_bytes(),
            &[0xf3, 0x6c],
        ])
    }

    /// `mov al, [address]`
    pub fn read_byte(self, address: u32) -> Self {
        self.emit(&[&[0xa0], &address.to_le_bytes()])
    }

    /// `mov eax, [address]`
    pub fn read_long(self, address: u32) -> Self {
        self.emit(&[&[0xa1], &address.to_le_bytes()])
    }

    /// `shr eax, bits`
    pub fn shift(self, bits: u8) -> Self {
        self.emit(&[&[0xc1, 0xe8, bits]])
    }

    /// Prints the byte in AL: `mov dx, 0x3f8; out dx, al`.
    pub fn print_al(self) -> Self {
        self.emit(&[&[0x66, 0xba, 0xf8, 0x03, 0xee]])
    }

    /// Prints AL + `base`: `add al, base`, then as [`Code::print_al`].
    pub fn out_al_plus(self, base: u8) -> Self {
        self.emit(&[&[0x04, base]]).print_al()
    }

    /// `mov byte [address], value`
    pub fn write_byte(self, address: u32, value: u8) -> Self {
        self.emit(&[&[0xc6, 0x05], &address.to_le_bytes(), &[value]])
    }

    /// `mov word [address], value`
    pub fn write_word(self, address: u32, value: u16) -> Self {
        self.emit(&[
            &[0x66, 0xc7, 0x05],
            &address.to_le_bytes(),
            &value.to_le_bytes(),
        ])
    }

    /// `mov dword [address], value`
    pub fn write_long(self, address: u32, value: u32) -> Self {
        self.emit(&[&[0xc7, 0x05], &address.to_le_bytes(), &value.to_le_bytes()])
    }

    /// Writes a byte into each of so many pages: a loop of `mov byte [edi], 1; add edi, 4096`.
    pub fn touch(self, address: u32, pages: u32) -> Self {
        self.emit(&[
            &[0xbf],
            &address.to_le_bytes(), // mov edi, address
            &[0xb9],
            &pages.to_le_bytes(),                  // mov ecx, pages
            &[0xc6, 0x07, 1],                      // again: mov byte [edi], 1
            &[0x81, 0xc7, 0x00, 0x10, 0x00, 0x00], // add edi, 4096
            &[0xe2, 0xf5],                         // loop again
        ])
    }

    /// Echoes serial input until a `q`: waits for the line status's data-ready bit, reads a
    /// byte, writes it back.
    pub fn echo_until_q(self) -> Self {
        self.emit(&[&[
            0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
            0xec, // in al, dx
            0xa8, 0x01, // test al, 1
            0x74, 0xf7, // jz wait
            0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
            0xec, // in al, dx
            0xee, // out dx, al
            0x3c, b'q', // cmp al, 'q'
            0x75, 0xed, // jne wait
        ]])
    }

    /// Turns paging on, of long mode but still with 32-bit code: the first 4 MiB are where they
    /// were, and the 4 MiB after them are what is at 4 GiB.
    pub fn map_high(self) -> Self {
        const TABLE: u32 = 3; // present, writable
        const LARGE: u32 = 0x83;
        let code = [0x20_0000u32, 0x20_1000].iter().fold(self, |code, table| {
            code.write_long(*table, table + 0x1000 + TABLE)
        });
        let code = (0..4).fold(code, |code, n| {
            let entry = 0x20_2000 + n * 8;
            code.write_long(entry, (n % 2) << 21 | LARGE)
                .write_long(entry + 4, n / 2)
        });
        code.emit(&[&[
            0xb8, 0, 0, 0x20, 0, // mov eax, 0x200000
            0x0f, 0x22, 0xd8, // mov cr3, eax
            0xb8, 0x20, 0x06, 0, 0, // mov eax, PAE | OSFXSR | OSXMMEXCPT
            0x0f, 0x22, 0xe0, // mov cr4, eax
            0xb9, 0x80, 0, 0, 0xc0, // mov ecx, EFER
            0xb8, 0, 1, 0, 0, // mov eax, LME
            0x31, 0xd2, // xor edx, edx
            0x0f, 0x30, // wrmsr
            0x0f, 0x20, 0xc0, // mov eax, cr0
            0x0d, 0, 0, 0, 0x80, // or eax, PG
            0x0f, 0x22, 0xc0, // mov cr0, eax
        ]])
    }

    /// Writes to memory in many ways, of which none should arrive at a read-only one: stores,
    /// a string of them, exchanges, arithmetic and bits, with and without a lock.
    pub fn write_in_many_ways(self, address: u32) -> Self {
        let at = address.to_le_bytes();
        self.write_byte(address, 0x55)
            .write_word(address, 0x5555)
            .write_long(address, 0x5555_5555)
            .emit(&[
                &[0xbf],
                &at,                  // mov edi, address
                &[0xb9, 16, 0, 0, 0], // mov ecx, 16
                &[0xf3, 0xab],        // rep stosd
                &[0x87, 0x05],
                &at, // xchg [address], eax
                &[0xf0, 0xff, 0x05],
                &at, // lock inc dword [address]
                &[0x81, 0x0d],
                &at,
                &[1, 2, 3, 4], // or dword [address], 0x04030201
                &[0xf0, 0x0f, 0xab, 0x0d],
                &at, // lock bts [address], ecx
                &[0xa1],
                &at, // mov eax, [address]
                &[0xf0, 0x0f, 0xb1, 0x0d],
                &at, // lock cmpxchg [address], ecx
                &[0x0f, 0xc3, 0x05],
                &at, // movnti [address], eax
                &[0xf0, 0x0f, 0xc7, 0x0d],
                &at, // lock cmpxchg8b [address]
            ])
    }

    /// `movss [address], xmm0`, which KVM doesn't emulate; to come after [`Code::map_high`]. The
    /// exception of that (invalid opcode) goes on behind it, with an `U` printed.
    pub fn write_float(self, address: u32) -> Self {
        const HANDLER: u32 = 0x20_4000;
        const IDT: u32 = 0x20_5000;
        // In 64-bit code, as long mode has it.
        let handler = [
            [0x66, 0xba, 0xf8, 0x03], // mov dx, 0x3f8
            [0xb0, b'U', 0xee, 0x90], // mov al, 'U'; out dx, al; nop
            [0x48, 0x83, 0x04, 0x24], // add qword [rsp], 8
            [0x08, 0x48, 0xcf, 0x90], // iretq
        ];
        let code = (HANDLER..)
            .step_by(4)
            .zip(handler)
            .fold(self, |code, (at, bytes)| {
                code.write_long(at, u32::from_le_bytes(bytes))
            });
        // The second segment is for 64-bit code; vector 6 is an interrupt gate to it.
        code.write_long(0x508, 0xffff)
            .write_long(0x50c, 0x00af_9b00)
            .write_long(IDT + 96, 8 << 16 | HANDLER & 0xffff)
            .write_long(IDT + 100, HANDLER & 0xffff_0000 | 0x8e00)
            .write_word(IDT - 6, 0x7f)
            .write_long(IDT - 4, IDT)
            .emit(&[
                &[0x0f, 0x01, 0x1d],
                &(IDT - 6).to_le_bytes(), // lidt [IDT - 6]
                &[0xf3, 0x0f, 0x11, 0x05],
                &address.to_le_bytes(), // movss [address], xmm0
            ])
    }

    /// `jmp $`
    pub fn spin(self) -> Self {
        self.emit(&[&[0xeb, 0xfe]])
    }

    /// `hlt`, with interrupts off: for ever.
    pub fn halt(self) -> Self {
        self.emit(&[&[0xf4]])
    }

    /// An undefined instruction, with no handler for it nor for the faults that follow.
    pub fn triple_fault(self) -> Self {
        self.emit(&[&[0x0f, 0x0b]])
    }

    /// Jumps to an address: `mov eax, address; jmp eax`.
    pub fn jump(self, address: u32) -> Self {
        self.emit(&[&[0xb8], &address.to_le_bytes(), &[0xff, 0xe0]])
    }

    /// Resets the machine through the keyboard controller, then waits to be ended.
    pub fn reset(self) -> Self {
        self.out(0x64, 0xfe).spin()
    }

    /// An ELF file with this code at 1 MiB and a PVH note that points at it.
    pub fn elf(&self) -> Vec<u8> {
        self.elf_of_size(0)
    }

    /// The same, with bytes after the code, so that at least `size` bytes are loaded.
    pub fn elf_of_size(&self, size: usize) -> Vec<u8> {
        const BASE: u64 = 0x10_0000;
        const CODE_AT: u64 = 0x1000;
        let note_at = 64 + 2 * 56;
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        elf.resize(16, 0);
        elf.extend([2u16, 62].iter().flat_map(|v| v.to_le_bytes())); // ET_EXEC, x86-64
        elf.extend(1u32.to_le_bytes());
        elf.extend([BASE, 64, 0].iter().flat_map(|v| v.to_le_bytes())); // entry, phoff, shoff
        elf.extend(0u32.to_le_bytes());
        elf.extend(
            [64u16, 56, 2, 64, 0, 0]
                .iter()
                .flat_map(|v| v.to_le_bytes()),
        );
        let size = self.0.len().max(size) as u64;
        for (kind, flags, offset, address, length) in
            [(1u32, 7u32, CODE_AT, BASE, size), (4, 4, note_at, 0, 20)]
        {
            elf.extend(kind.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            for value in [offset, address, address, length, length, 4] {
                elf.extend(value.to_le_bytes());
            }
        }
        elf.extend([4u32, 4, 18].iter().flat_map(|v| v.to_le_bytes())); // name, content, type
        elf.extend(b"Xen\0");
        elf.extend((BASE as u32).to_le_bytes());
        elf.resize(CODE_AT as usize, 0);
        elf.extend(&self.0);
        elf.resize((CODE_AT + size) as usize, 0x5a);
        elf
    }

    /// A VM that runs this code; `folder` is for its files, and "out" there is its console.
    pub fn vm(&self, host: &Host, folder: &Path, change: impl FnOnce(&mut VmConfig)) -> Vm {
        let kernel = folder.join("kernel");
        std::fs::write(&kernel, self.elf()).unwrap();
        let mut config = VmConfig {
            console: Console::File(folder.join("out")),
            ..Default::default()
        };
        config.boot.kernel = Some(kernel);
        change(&mut config);
        build(host, &config, BuildOptions::default()).unwrap()
    }
}
