//! How a vCPU idles: what its kernel is told of it, and which instructions of its are left alone.

use crate::kvm::{Host, KvmError, Vm};

/// The guest's kernel polls and never halts (Linux Documentation/admin-guide/kernel-parameters.rst).
pub const POLL: &str = "nohlt";

/// There is no driver by which the guest's kernel polls a while before it halts.
pub const HALTPOLL: Option<&str> = None;

/// Why a guest's WFI always exits, and what there is in place of that.
pub const NO_PASS_THROUGH: &str = "KVM on AArch64 decides by itself when a guest's WFI exits, which it \
     doesn't where the vCPU is alone on its CPU (kvm-arm.wfi_trap_policy=notrap on the host's command \
     line, Linux 6.13 and later, makes it never exit): --idle poll keeps a CPU";

/// Which ways of waiting a guest has to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnWaits {
    /// WFI: never by the monitor's doing.
    pub halt: bool,
}

/// Lets the guest wait without an exit: the monitor has no say in that.
///
/// # Errors
///
/// None on this architecture.
pub fn pass_through(_host: &Host, _fd: &Vm) -> Result<OwnWaits, KvmError> {
    Ok(OwnWaits::default())
}
