//! 32-bit code for tiny guests, in an ELF file with a PVH note; and where things are in its guests.

use std::io::Write;

/// RAM begins here.
pub const RAM: u64 = 0;
/// The boot timer.
pub const BOOT_TIMER: u64 = 0xd000_0000;
/// The registers of the first virtio device; a page for each.
pub const VIRTIO: u64 = 0xd000_1000;
/// Neither memory nor a device.
pub const NOWHERE: u64 = 0xd00f_0000;
/// Where [`Code::see_drives`] puts the first drive that is mapped.
pub const DRIVE: u64 = 4 << 20;
/// A crash report has this before the address of the instruction.
pub const PROGRAM_COUNTER: &str = "rip 0x";
/// What a user is advised to give as the kernel.
pub const KERNEL_ADVICE: &str = "vmlinux or a bzImage";
/// How a report tells of two more of [`Code::exit_in_vain`].
pub const EXITS_IN_VAIN: &str = "exits.pio-out 5 -> 7";
/// Metrics that are of this architecture's KVM.
pub const METRICS: [&str; 2] = [
    "mote_kvm_exits_by_reason_total{vcpu=\"0\",reason=\"halt\"} ",
    "mote_kvm_mapped_pages{size=\"4k\"} ",
];

/// 32-bit protected-mode code, as PVH enters it: flat segments, no paging, no interrupts.
#[derive(Default)]
pub struct Code(Vec<u8>);

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

    /// Prints a byte.
    pub fn print_one(self, byte: u8) -> Self {
        self.out(0x3f8, byte)
    }

    /// An exit for nothing: a write to a port that nobody has.
    pub fn exit_in_vain(self) -> Self {
        self.out(0x80, 0)
    }

    /// `mov dx, port; in al, dx`
    pub fn read_port(self, port: u16) -> Self {
        self.emit(&[&[0x66, 0xba], &port.to_le_bytes(), &[0xec]])
    }

    /// Reads a port `count` times into memory by one instruction: `mov edi, address;
    /// mov ecx, count; mov dx, port; rep insb`
    pub fn read_string(self, port: u16, address: u64, count: u32) -> Self {
        self.emit(&[
            &[0xbf],
            &at(address),
            &[0xb9],
            &count.to_le_bytes(),
            &[0x66, 0xba],
            &port.to_le_bytes(),
            &[0xf3, 0x6c],
        ])
    }

    /// `mov al, [address]`
    pub fn read_byte(self, address: u64) -> Self {
        self.emit(&[&[0xa0], &at(address)])
    }

    /// `mov eax, [address]`
    pub fn read_long(self, address: u64) -> Self {
        self.emit(&[&[0xa1], &at(address)])
    }

    /// Of what was read last, the bits from this one up: `shr eax, bits`
    pub fn shift(self, bits: u8) -> Self {
        self.emit(&[&[0xc1, 0xe8, bits]])
    }

    /// Prints the low byte of what was read last: `mov dx, 0x3f8; out dx, al`.
    pub fn print_read(self) -> Self {
        self.emit(&[&[0x66, 0xba, 0xf8, 0x03, 0xee]])
    }

    /// Prints that byte + `base`: `add al, base`, then as [`Code::print_read`].
    pub fn print_read_plus(self, base: u8) -> Self {
        self.emit(&[&[0x04, base]]).print_read()
    }

    /// `mov byte [address], value`
    pub fn write_byte(self, address: u64, value: u8) -> Self {
        self.emit(&[&[0xc6, 0x05], &at(address), &[value]])
    }

    /// `mov word [address], value`
    pub fn write_word(self, address: u64, value: u16) -> Self {
        self.emit(&[&[0x66, 0xc7, 0x05], &at(address), &value.to_le_bytes()])
    }

    /// `mov dword [address], value`
    pub fn write_long(self, address: u64, value: u32) -> Self {
        self.emit(&[&[0xc7, 0x05], &at(address), &value.to_le_bytes()])
    }

    /// Writes a byte into each of so many pages: a loop of `mov byte [edi], 1; add edi, 4096`.
    pub fn touch(self, address: u64, pages: u32) -> Self {
        self.emit(&[
            &[0xbf],
            &at(address), // mov edi, address
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

    /// Brings the drives that are mapped, at 4 GiB, within reach: turns paging on, of long mode but still
    /// with 32-bit code. The first 4 MiB are where they were, and the 4 MiB after them are what is there.
    pub fn see_drives(self) -> Self {
        const TABLE: u32 = 3; // present, writable
        const LARGE: u32 = 0x83;
        let code = [0x20_0000u32, 0x20_1000].iter().fold(self, |code, table| {
            code.write_long((*table).into(), table + 0x1000 + TABLE)
        });
        let code = (0..4).fold(code, |code, n| {
            let entry = 0x20_2000 + u64::from(n) * 8;
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
    pub fn write_in_many_ways(self, address: u64) -> Self {
        let at = at(address);
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

    /// `movss [address], xmm0`, which KVM doesn't emulate; to come after [`Code::see_drives`]. The
    /// exception of that (invalid opcode) goes on behind it, with an `U` printed.
    pub fn write_unemulated(self, address: u64) -> Self {
        const HANDLER: u64 = 0x20_4000;
        const HANDLER_LOW: u32 = HANDLER as u32;
        const IDT: u64 = 0x20_5000;
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
            .write_long(IDT + 96, 8 << 16 | HANDLER_LOW & 0xffff)
            .write_long(IDT + 100, HANDLER_LOW & 0xffff_0000 | 0x8e00)
            .write_word(IDT - 6, 0x7f)
            .write_long(IDT - 4, IDT as u32)
            .emit(&[
                &[0x0f, 0x01, 0x1d],
                &at(IDT - 6), // lidt [IDT - 6]
                &[0xf3, 0x0f, 0x11, 0x05],
                &at(address), // movss [address], xmm0
            ])
    }

    /// From here on devices' writes to memory are seen, as ever.
    pub fn with_caches(self) -> Self {
        self
    }

    /// Notifies a device, of what is in memory by then.
    pub fn notify(self, address: u64, queue: u32) -> Self {
        self.write_long(address, queue)
    }

    /// Waits until there is this word: `cmp word [address], value; jne` back.
    pub fn wait_for_word(self, address: u64, value: u16) -> Self {
        self.emit(&[
            &[0x66, 0x81, 0x3d],
            &at(address),
            &value.to_le_bytes(),
            &[0x75, 0xf5],
        ])
    }

    /// `jmp $`
    pub fn spin(self) -> Self {
        self.emit(&[&[0xeb, 0xfe]])
    }

    /// Counts in memory for ever, and exits each time: `again: inc dword [address]; out 0x80, al; jmp again`
    pub fn count(self, address: u64) -> Self {
        self.emit(&[&[0xff, 0x05], &at(address), &[0xe6, 0x80, 0xeb, 0xf6]])
    }

    /// `hlt`, with interrupts off: for ever.
    pub fn halt(self) -> Self {
        self.emit(&[&[0xf4]])
    }

    /// What the guest can't go on after: an undefined instruction, with no handler for it nor for the
    /// faults that follow, which is a triple fault.
    pub fn crash(self) -> Self {
        self.emit(&[&[0x0f, 0x0b]])
    }

    /// Jumps to an address: `mov eax, address; jmp eax`.
    pub fn jump(self, address: u64) -> Self {
        self.emit(&[&[0xb8], &at(address), &[0xff, 0xe0]])
    }

    /// Resets the machine through the keyboard controller, then waits to be ended.
    pub fn reset(self) -> Self {
        self.out(0x64, 0xfe).spin()
    }

    /// Switches the machine off by ACPI's sleep control register, then waits to be ended.
    pub fn power_off(self) -> Self {
        self.out(0x600, 0x34).spin()
    }

    /// Resets the machine as Linux does when it has panicked: with a warm boot announced.
    pub fn panic(self) -> Self {
        self.announce_boot(0x1234).reset()
    }

    /// Writes the warm-boot word of the BIOS data area.
    pub fn announce_boot(self, word: u16) -> Self {
        self.write_word(0x472, word)
    }

    /// A kernel file in which at least `size` bytes are loaded: an ELF file with this code at 1 MiB
    /// and other bytes after it, and a PVH note that points at the code.
    pub fn kernel_of_size(&self, size: usize) -> Vec<u8> {
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

    /// The same, compressed: a bzImage (Linux Documentation/arch/x86/boot.rst).
    pub fn compressed_kernel(&self, size: usize) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&self.kernel_of_size(size)).unwrap();
        let payload = gzip.finish().unwrap();
        let mut image = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]); // one sector of set-up
        put(0x1fe, &[0x55, 0xaa]);
        put(0x202, b"HdrS");
        put(0x206, &0x20fu16.to_le_bytes());
        put(0x211, &[1]); // loaded high
        put(0x236, &[1]); // has a 64-bit entry
        put(0x24c, &(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image
    }
}

/// An address as instructions have it.
fn at(address: u64) -> [u8; 4] {
    u32::try_from(address).unwrap().to_le_bytes()
}
