//! A64 code of a guest's: what a store does, and where it is in the guest's memory. Both are read out of what
//! the guest has written, so nothing in them may lead out of its memory or take long. Nothing here needs the
//! processor, so that it is tested and fuzzed on every host.

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::memory::over_ram::peek;

/// The register number that stands for the stack pointer in a base register's place.
pub const SP: u32 = 31;

/// What a store does besides storing: nothing, or a base register changes by so many bytes. `None` for what
/// is no store, or one with another outcome (atomics, exclusives, and whatever is too rare for this). DDI 0487
/// §C4.1.94, loads and stores.
pub fn store(word: u32) -> Option<Option<(u32, i64)>> {
    let bits = |from: u32, count: u32| word >> from & ((1 << count) - 1);
    let signed = |from: u32, count: u32| {
        let shift = 32 - count;
        i64::from((bits(from, count) << shift) as i32 >> shift)
    };
    let base = bits(5, 5);
    let simd = bits(26, 1) == 1;
    // DC ZVA, which fills a block with zeros (§C6.2.95).
    if word & !0x1f == 0xd50b_7420 {
        return Some(None);
    }
    match (bits(27, 3), bits(24, 2)) {
        // Pairs: bit 22 is a load's; the offset is in units of a register.
        (0b101, _) if bits(25, 1) == 0 && bits(22, 1) == 0 => {
            let scale = match (simd, bits(30, 2)) {
                (false, 0) => 2,
                (false, 2) => 3,
                (true, opc @ 0..=2) => 2 + opc,
                _ => return None,
            };
            let changes = bits(23, 1) == 1; // after it, or before it
            Some(changes.then(|| (base, signed(15, 7) << scale)))
        }
        // One register. `opc`: 0 is a store, and so is 2 of a whole SIMD register.
        (0b111, place @ (0 | 1)) if bits(22, 2) == 0 || (simd && bits(22, 2) == 2) => {
            match (place, bits(21, 1), bits(10, 2)) {
                (1, ..) | (0, 0, 0 | 2) | (0, 1, 2) => Some(None),
                (0, 0, _) => Some(Some((base, signed(12, 9)))),
                _ => None, // atomics
            }
        }
        _ => None,
    }
}

/// How the guest's addresses become physical ones (DDI 0487 §D8.2), as far as code is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Whether they do at all.
    on: bool,
    /// TTBR0_EL1 or TTBR1_EL1, by which half the address is of.
    root: u64,
    /// Bits of an address, and of what is inside of a page.
    bits: u32,
    page: u32,
}

impl Tables {
    /// By SCTLR_EL1's bit for the MMU, TCR_EL1, and the table base register of the address's half.
    pub fn new(on: bool, tcr: u64, root: u64, upper: bool) -> Self {
        // T1SZ and TG1, T0SZ and TG0: the numbers for a page's size differ.
        let (size, page) = match upper {
            true => (tcr >> 16, [12, 14, 12, 16][(tcr >> 30 & 3) as usize]),
            false => (tcr, [12, 16, 14, 12][(tcr >> 14 & 3) as usize]),
        };
        Tables {
            on,
            root,
            bits: 64 - (size & 0x3f) as u32,
            page,
        }
    }

    /// The physical address; `None` where no table leads there.
    pub fn translate(&self, memory: &GuestMemoryMmap<()>, address: u64) -> Option<GuestAddress> {
        /// Addresses in a table's entries have at most so many bits here: a guest has 40.
        const ADDRESS: u64 = (1 << 48) - 1;
        if !self.on {
            return Some(GuestAddress(address));
        }
        let low = |bits: u32| (1u64 << bits) - 1;
        let stride = self.page - 3; // a table is a page of 8-byte entries
        let address = address & low(self.bits.min(52));
        let levels = self.bits.min(52).checked_sub(self.page)?.div_ceil(stride);
        // Below the address are flags (bit 0), and its own alignment, which is 64 bytes or more.
        let mut table = self.root & ADDRESS & !0x3f;
        for level in (0..levels).rev() {
            let shift = self.page + level * stride;
            let index = address >> shift & low(stride);
            let entry = u64::from_le_bytes(peek(memory, GuestAddress(table + index * 8))?);
            let next = entry & ADDRESS;
            match (entry & 3, level) {
                (1, 1..) | (3, 0) => {
                    return Some(GuestAddress(next & !low(shift) | address & low(shift)));
                }
                (3, _) => table = next & !low(self.page),
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
