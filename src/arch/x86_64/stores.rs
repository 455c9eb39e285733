//! Stores to memory that the guest may only read: KVM emulates them, and hands over what is stored.

use vm_memory::GuestMemoryMmap;

use crate::kvm::{KvmError, Vcpu};

/// The address of a store that KVM has just handed over so: never.
pub fn handed_over(_vcpu: &mut Vcpu) -> Option<u64> {
    None
}

/// Passes over the store at which the guest is: never.
///
/// # Errors
///
/// None on this architecture.
pub fn pass_over(_vcpu: &Vcpu, _memory: &GuestMemoryMmap<()>) -> Result<bool, KvmError> {
    Ok(false)
}
