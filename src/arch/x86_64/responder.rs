//! A guest of a few instructions that halts, and answers each interrupt by a write to a device: what
//! a wake-up costs, with no kernel in it (`mote bench idle`).

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;
use crate::boot::Entry;

/// The guest memory that it needs.
pub const MEMORY: u64 = 2 << 20;
/// Where it answers, by a 4-byte write of [`ANSWER_VALUE`].
pub const ANSWER: u64 = layout::VIRTIO_START;
/// What it answers.
pub const ANSWER_VALUE: u32 = 1;
/// The interrupt line that asks it: one that doesn't lead to the PICs, too, which nobody sets up.
pub const GSI: u32 = 16;

const CODE: GuestAddress = GuestAddress(layout::BIOS_END);
const IDT: u32 = 0x1000;
const IDTR: u32 = IDT - 16;
const VECTOR: u32 = 0x30;
/// The code segment of `cpu::boot_sregs`.
const SELECTOR: u32 = 0x10;

/// Local APIC (Intel SDM vol. 3 §12.4.1): spurious vector register, and end of interrupt.
const APIC_SVR: u32 = 0xfee0_00f0;
const APIC_EOI: u32 = 0xfee0_00b0;
const APIC_ENABLED: u32 = 0x1ff;
/// IOAPIC (82093AA datasheet §3.1): register select and window; a line's entry is two registers.
const IOAPIC_SELECT: u32 = 0xfec0_0000;
const IOAPIC_WINDOW: u32 = 0xfec0_0010;
const IOAPIC_ENTRY: u32 = 0x10 + 2 * GSI;

/// Puts its code and its interrupt table into memory of [`MEMORY`] bytes. It answers once unasked, when
/// it is ready itself.
///
/// # Errors
///
/// The memory is smaller.
pub fn write(memory: &GuestMemoryMmap<()>) -> Result<Entry, GuestMemoryError> {
    let (code, handler) = code();
    memory.write_slice(&code, CODE)?;
    let handler = CODE.raw_value() as u32 + handler;
    // An interrupt gate of 64 bits (SDM vol. 3 §6.14.1).
    let gate = [
        SELECTOR << 16 | handler & 0xffff,
        handler & 0xffff_0000 | 0x8e00,
        0,
        0,
    ];
    memory.write_obj(gate, GuestAddress((IDT + VECTOR * 16).into()))?;
    // What lidt reads: the limit, and the address.
    memory.write_obj((VECTOR * 16 + 15) as u16, GuestAddress(IDTR.into()))?;
    memory.write_obj(u64::from(IDT), GuestAddress((IDTR + 2).into()))?;
    Ok(Entry::Linux64(CODE))
}

/// 64-bit code, and the interrupt handler's place in it.
fn code() -> (Vec<u8>, u32) {
    let mut code = Vec::new();
    store(&mut code, APIC_SVR, APIC_ENABLED);
    // To the first vCPU (the upper half), by its vector, as an edge, not masked (the lower half).
    for (register, value) in [(IOAPIC_ENTRY + 1, 0), (IOAPIC_ENTRY, VECTOR)] {
        store(&mut code, IOAPIC_SELECT, register);
        store(&mut code, IOAPIC_WINDOW, value);
    }
    code.extend([0x0f, 0x01, 0x1c, 0x25]); // lidt [IDTR]
    code.extend(IDTR.to_le_bytes());
    store(&mut code, ANSWER as u32, ANSWER_VALUE);
    // An interrupt between the two is held back until the CPU has halted.
    code.extend([0xfb, 0xf4]); // sti; hlt
    code.extend([0xeb, 0xfc]); // jmp to sti
    let handler = code.len() as u32;
    store(&mut code, ANSWER as u32, ANSWER_VALUE);
    store(&mut code, APIC_EOI, 0);
    // Nothing to return to: drop the frame of five words, and halt again.
    code.extend([0x48, 0x83, 0xc4, 0x28]); // add rsp, 40
    code.extend([0xfb, 0xf4]); // sti; hlt
    code.extend([0xeb, 0xfc]); // jmp to sti
    (code, handler)
}

/// `mov edi, address; mov dword [rdi], value`
fn store(code: &mut Vec<u8>, address: u32, value: u32) {
    code.push(0xbf);
    code.extend(address.to_le_bytes());
    code.extend([0xc7, 0x07]);
    code.extend(value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_gate_leads_to_its_handler() {
        let memory =
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let Entry::Linux64(entry) = write(&memory).unwrap() else {
            panic!("another entry")
        };
        assert_eq!(entry, CODE);
        let at = GuestAddress((IDT + VECTOR * 16).into());
        let [low, high]: [u32; 2] = memory.read_obj(at).unwrap();
        let handler = GuestAddress((high & 0xffff_0000 | low & 0xffff).into());
        // The handler begins with its answer.
        let found: [u8; 5] = memory.read_obj(handler).unwrap();
        let mut expected = vec![0xbf];
        expected.extend((ANSWER as u32).to_le_bytes());
        assert_eq!(found[..], expected);
        let small = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        assert!(write(&small).is_err());
    }
}
