//! What Linux notes in the BIOS data area before it resets the machine, in whatever way
//! (arch/x86/kernel/reboot.c): which kind of boot shall follow.

use vm_memory::{Bytes, GuestMemoryError, GuestMemoryMmap};

use super::layout::WARM_BOOT_WORD;
use crate::arch::Announced;

/// What the warm-boot word is before the guest runs: neither of the values that Linux writes
/// when it resets the machine on purpose.
const NOT_ASKED_FOR: u16 = 0xa5a5;
/// Linux's value for a warm boot, which mote's command line asks for on a panic only.
const WARM: u16 = 0x1234;

/// Prepares guest memory so that a reset that the guest asked for is told from a crash.
///
/// # Errors
///
/// Guest memory ends below the word.
pub fn arm(memory: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
    memory.write_obj(NOT_ASKED_FOR, WARM_BOOT_WORD)
}

/// What the guest has announced; `None` where it was reset without a word.
pub fn announced(memory: &GuestMemoryMmap<()>) -> Option<Announced> {
    match memory.read_obj(WARM_BOOT_WORD).unwrap_or(NOT_ASKED_FOR) {
        NOT_ASKED_FOR => None,
        WARM => Some(Announced::Panic),
        _ => Some(Announced::Reset),
    }
}

/// What a reset by firmware that KVM plays says: there is none on this architecture.
pub fn of_event(_data: &[u64]) -> Announced {
    Announced::Reset
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn a_reboot_is_told_from_a_panic_and_both_from_nothing() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        arm(&memory).unwrap();
        assert_eq!(announced(&memory), None);
        for (word, expected) in [(0u16, Announced::Reset), (WARM, Announced::Panic)] {
            memory.write_obj(word, WARM_BOOT_WORD).unwrap();
            assert_eq!(announced(&memory), Some(expected));
        }
    }
}
