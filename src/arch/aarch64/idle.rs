//! How a vCPU idles: what its kernel is told of it, and which instructions of its are left alone.

use crate::kvm::{Host, KvmError, Vm};

/// The guest's kernel polls and never halts (Linux Documentation/admin-guide/kernel-parameters.rst).
pub const POLL: &str = "nohlt";

/// There is no driver by which the guest's kernel polls a while before it halts.
pub const HALTPOLL: Option<&str> = None;

/// Why a guest can't have WFI to itself, and what there is in place of that.
pub const NO_PASS_THROUGH: &str = "on AArch64 whether WFI exits is for the host to say, and for all \
     guests at once (kvm-arm.wfi_trap_policy=notrap on its kernel's command line, in Linux 6.12 for \
     one, leaves WFI to them): --idle poll keeps a CPU without it";

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
