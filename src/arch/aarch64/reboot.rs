//! What Linux says when it resets the machine: the firmware's call for it (PSCI, DEN 0022) tells a
//! cold from a warm reset, which mote's command line asks for on a panic only.

use kvm_bindings::KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2;
use vm_memory::{GuestMemoryError, GuestMemoryMmap};

use crate::arch::Announced;

/// Prepares guest memory: nothing is noted there.
///
/// # Errors
///
/// None on this architecture.
pub fn arm(_memory: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
    Ok(())
}

/// What the guest has announced in its memory: nothing.
pub fn announced(_memory: &GuestMemoryMmap<()>) -> Option<Announced> {
    None
}

/// What the firmware's reset says: KVM tells SYSTEM_RESET2, a warm reset, from SYSTEM_RESET by a flag
/// (Linux 5.19; before that, a guest has no SYSTEM_RESET2, and a panic is a reset).
pub fn of_event(data: &[u64]) -> Announced {
    let flags = data.first().copied().unwrap_or(0);
    match flags & u64::from(KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2) {
        0 => Announced::Reset,
        _ => Announced::Panic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_reset_is_a_panics() {
        assert_eq!(of_event(&[]), Announced::Reset);
        assert_eq!(of_event(&[0]), Announced::Reset);
        assert_eq!(of_event(&[1]), Announced::Panic);
    }
}
