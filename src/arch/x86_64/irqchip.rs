//! The interrupt controllers and the timer of a PC, in KVM.

use super::layout;
use crate::kvm::{Host, KvmError, Vm};

/// Why there are no interrupt controllers.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct IrqchipError(#[from] KvmError);

impl IrqchipError {
    /// Whether it is the host's part to mend this, and not the user's.
    pub fn is_of_host(&self) -> bool {
        true
    }
}

/// What must be there before a vCPU is made: on x86_64 KVM keeps all of it.
#[derive(Debug)]
pub struct Irqchip(());

/// Tells KVM what has to be told before there is memory: where it may put the pages that real mode
/// on Intel needs.
///
/// # Errors
///
/// The ioctl failed.
pub fn prepare(fd: &Vm) -> Result<(), KvmError> {
    fd.set_tss_address(layout::KVM_TSS)
}

/// Makes PICs, IOAPIC and PIT, and a local APIC in each vCPU that is made later. All memory of the
/// guest's must be there already (see [`Vm::set_memory`]).
///
/// # Errors
///
/// An ioctl failed.
pub fn create(_host: &Host, fd: &Vm, _cpus: u8) -> Result<Irqchip, IrqchipError> {
    fd.create_irqchip()?;
    fd.create_pit()?;
    Ok(Irqchip(()))
}
