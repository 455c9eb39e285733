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
    /// The host takes each HLT or WFI itself.
    #[error("--idle pass-through: {why}", why = idle::NO_PASS_THROUGH)]
    PassThrough,
    /// No guest's kernel has such a driver.
    #[error(
        "--idle haltpoll: Linux has its driver on x86_64 only: --halt-poll has the host poll instead"
    )]
    Haltpoll,
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
    match config.idle.mode {
        IdleMode::PassThrough => {}
        IdleMode::Haltpoll if idle::HALTPOLL.is_none() => return Err(IdleError::Haltpoll),
        _ => return Ok(OwnWaits::default()),
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
        IdleMode::Haltpoll => idle::HALTPOLL,
        IdleMode::Poll => Some(idle::POLL),
    }
}
