//! The MP table: how a guest without ACPI finds its CPUs and interrupts (Intel MultiProcessor
//! Specification 1.4, §4).

use vm_memory::{Bytes, GuestMemoryError, GuestMemoryMmap};

use super::layout;

const ENTRY_CPU: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
/// Interrupt types (table 4-10): vectored, NMI, and by the PIC.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const APIC_VERSION: u8 = 0x14;
const ISA_BUS: u8 = 0;

/// Writes the floating pointer at [`layout::MP_TABLE`] and the table right behind it.
///
/// # Errors
///
/// Guest memory ends below 1 MiB.
pub fn write_mptable(memory: &GuestMemoryMmap<()>, cpus: u8) -> Result<(), GuestMemoryError> {
    let table_address = layout::MP_TABLE.0 as u32 + 16;
    let mut pointer = Vec::with_capacity(16);
    pointer.extend_from_slice(b"_MP_");
    pointer.extend_from_slice(&table_address.to_le_bytes());
    pointer.extend_from_slice(&[1, 4, 0, 0, 0, 0, 0, 0]); // 16 bytes long, version 1.4
    set_checksum(&mut pointer, 10);
    pointer.extend_from_slice(&table(cpus));
    memory.write_slice(&pointer, layout::MP_TABLE)
}

/// The configuration table: header and entries.
fn table(cpus: u8) -> Vec<u8> {
    let ioapic_id = cpus; // the first APIC id that no CPU has
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for id in 0..cpus {
        let enabled_and_bsp = if id == 0 { 3 } else { 1 };
        let mut entry = vec![ENTRY_CPU, id, APIC_VERSION, enabled_and_bsp];
        entry.resize(20, 0); // signature and features: Linux asks CPUID
        entries.push(entry);
    }
    entries.push([&[ENTRY_BUS, ISA_BUS], b"ISA   ".as_slice()].concat());
    let address = (layout::IOAPIC as u32).to_le_bytes();
    entries.push([&[ENTRY_IOAPIC, ioapic_id, 0x11, 1], address.as_slice()].concat());
    // Every line of the IOAPIC as an ISA interrupt: edge-triggered, active high, as irqfd does.
    for line in 0..layout::GSI_COUNT as u8 {
        entries.push(vec![
            ENTRY_INTERRUPT,
            INT,
            0,
            0,
            ISA_BUS,
            line,
            ioapic_id,
            line,
        ]);
    }
    entries.push(vec![ENTRY_LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![ENTRY_LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, 0xff, 1]);

    let length = 44 + entries.iter().map(Vec::len).sum::<usize>();
    let mut table = Vec::with_capacity(length);
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&(length as u16).to_le_bytes());
    table.extend_from_slice(&[4, 0]); // version 1.4, checksum
    table.extend_from_slice(b"MOTE    MICROVM     ");
    table.extend_from_slice(&[0; 6]); // no OEM table
    table.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    table.extend_from_slice(&(layout::LOCAL_APIC as u32).to_le_bytes());
    table.extend_from_slice(&[0; 4]); // no extended table
    table.extend(entries.into_iter().flatten());
    set_checksum(&mut table, 7);
    table
}

/// Sets the byte at `position` so that all bytes add up to 0.
fn set_checksum(bytes: &mut [u8], position: usize) {
    bytes[position] = 0;
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    bytes[position] = sum.wrapping_neg();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_CPUS;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    #[test]
    fn the_table_fits_sums_to_zero_and_counts_its_entries() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        for cpus in [1, 2, 32, MAX_CPUS] {
            write_mptable(&memory, cpus).unwrap();
            let mut pointer = [0u8; 16];
            memory.read_slice(&mut pointer, layout::MP_TABLE).unwrap();
            assert_eq!(&pointer[..4], b"_MP_");
            assert_eq!(pointer.iter().fold(0u8, |s, &b| s.wrapping_add(b)), 0);
            let table = table(cpus);
            assert_eq!(table.iter().fold(0u8, |s, &b| s.wrapping_add(b)), 0);
            assert!((table.len() as u64) < layout::BIOS_END - layout::MP_TABLE.0 - 16);
            // Walk the entries by their sizes: the count in the header is what is there.
            let (mut at, mut count) = (44, 0u16);
            while at < table.len() {
                at += if table[at] == ENTRY_CPU { 20 } else { 8 };
                count += 1;
            }
            assert_eq!(at, table.len());
            assert_eq!(table[34..36], count.to_le_bytes());
            assert_eq!(table[4..6], (table.len() as u16).to_le_bytes());
        }
    }
}
