//! What the host is told of how a VM idles, and what its guest's kernel is told.

use std::time::Duration;

use kvm_bindings::KVM_CAP_HALT_POLL;

use crate::arch::idle::{self, OwnWaits};
use crate::config::{HaltPoll, IdleMode, VmConfig};
use crate::kvm::{Host, KvmError, Vm};

/// Why a VM can't idle as it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum IdleError {
    /// The host has one window for all VMs.
    #[error(
        "--halt-poll {0}: this host's KVM has no window for each VM (KVM_CAP_HALT_POLL, Linux 5.9 \
         and later): leave the option out; /sys/module/kvm/parameters/halt_poll_ns holds for all VMs"
    )]
    HaltPoll(HaltPoll),
    /// The host takes each HLT itself.
    #[error(
        "--idle pass-through: this host's KVM doesn't leave HLT to a guest \
         (KVM_CAP_X86_DISABLE_EXITS; kvm.mitigate_smt_rsb forbids it, too): --idle poll keeps a CPU \
         without it"
    )]
    PassThrough,
    /// An ioctl failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// Tells KVM, before there are vCPUs; what the guest's CPUID has to say of it. With the defaults
/// there is nothing to tell, and no system call.
pub(super) fn set_up(host: &Host, fd: &Vm, config: &VmConfig) -> Result<OwnWaits, IdleError> {
    if let HaltPoll::Window(window) = config.halt_poll {
        set_window(host, fd, window)?;
    }
    if config.idle.mode != IdleMode::PassThrough {
        return Ok(OwnWaits::default());
    }
    let own = idle::pass_through(host, fd)?;
    match own.halt {
        true => Ok(own),
        false => Err(IdleError::PassThrough),
    }
}

/// Whether each VM can have its own window on this host.
pub fn has_windows(host: &Host) -> bool {
    host.capability_raw(KVM_CAP_HALT_POLL) > 0
}

/// Sets the window in which KVM polls for the VM's halted vCPUs.
///
/// # Errors
///
/// The host has no such thing, or the ioctl failed.
pub fn set_window(host: &Host, fd: &Vm, window: Duration) -> Result<(), IdleError> {
    if !has_windows(host) {
        return Err(IdleError::HaltPoll(HaltPoll::Window(window)));
    }
    Ok(fd.set_halt_poll(window)?)
}

/// What the guest's kernel is told.
pub(super) fn parameter(mode: IdleMode) -> Option<&'static str> {
    match mode {
        IdleMode::Halt | IdleMode::PassThrough => None,
        IdleMode::Haltpoll => Some(idle::HALTPOLL),
        IdleMode::Poll => Some(idle::POLL),
    }
}
