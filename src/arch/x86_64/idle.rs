//! How a vCPU idles: what its kernel is told of it, and which instructions of its are left alone.

use kvm_bindings::{
    KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_CSTATE, KVM_X86_DISABLE_EXITS_HLT,
    KVM_X86_DISABLE_EXITS_MWAIT, KVM_X86_DISABLE_EXITS_PAUSE,
};

use crate::kvm::{Host, KvmError, Vm};

/// The guest's kernel polls and never halts (Linux Documentation/admin-guide/kernel-parameters.rst).
pub const POLL: &str = "idle=poll";

/// The guest's kernel polls a while before it halts, if it has the driver (Linux
/// Documentation/virt/guest-halt-polling.rst). By itself the driver does so only where the
/// hypervisor says that the CPUs are the guest's own; it brings its governor with it.
pub const HALTPOLL: Option<&str> = Some("cpuidle_haltpoll.force=Y");

/// Why a guest can't have HLT to itself.
pub const NO_PASS_THROUGH: &str = "this host's KVM doesn't leave HLT to a guest \
     (KVM_CAP_X86_DISABLE_EXITS; kvm.mitigate_smt_rsb forbids it, too): --idle poll keeps a CPU \
     without it";

/// Which ways of waiting a guest has to itself, and so what its CPUID says (`cpuid`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnWaits {
    /// HLT: the CPU is the guest's own, and it needn't reckon with the host taking it away.
    pub halt: bool,
    /// MONITOR and MWAIT.
    pub monitor: bool,
}

/// Lets the guest wait without an exit, in all ways that the host allows; none where it doesn't
/// allow HLT. To be called before there are vCPUs.
///
/// # Errors
///
/// The ioctl failed.
pub fn pass_through(host: &Host, fd: &Vm) -> Result<OwnWaits, KvmError> {
    let exits = wanted(host.capability_raw(KVM_CAP_X86_DISABLE_EXITS));
    if exits != 0 {
        fd.disable_exits(exits)?;
    }
    Ok(OwnWaits {
        halt: exits & KVM_X86_DISABLE_EXITS_HLT != 0,
        monitor: exits & KVM_X86_DISABLE_EXITS_MWAIT != 0,
    })
}

/// What of `offered` to take: HLT, and with it PAUSE, MWAIT and the counters of C-states.
fn wanted(offered: i32) -> u32 {
    let known = KVM_X86_DISABLE_EXITS_HLT
        | KVM_X86_DISABLE_EXITS_PAUSE
        | KVM_X86_DISABLE_EXITS_CSTATE
        | KVM_X86_DISABLE_EXITS_MWAIT;
    match u32::try_from(offered).unwrap_or(0) & known {
        exits if exits & KVM_X86_DISABLE_EXITS_HLT != 0 => exits,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_and_known_is_taken_and_nothing_without_hlt() {
        for (offered, expected) in [(0, 0), (-1, 0), (4, 0), (2, 2), (14, 14), (31, 15), (5, 0)] {
            assert_eq!(wanted(offered), expected, "{offered}");
        }
    }
}
