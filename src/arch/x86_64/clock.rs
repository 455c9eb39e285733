//! A guest's clocks over a pause: kvmclock and the time-stamp counter stand still, so that its CLOCK_MONOTONIC
//! doesn't count the pause, whichever of the two its kernel reads. Before Linux 5.16, whose KVM can't set a counter
//! back exactly, the time-stamp counter goes on.

use kvm_bindings::kvm_clock_data;

use crate::kvm::{KvmError, Vcpu, Vm};

/// The counter of this processor that the guest's own is made of.
pub fn ticks() -> u64 {
    // SAFETY: every x86_64 processor has it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// What is to be the same after a pause as before.
#[derive(Debug)]
pub struct Stopped(kvm_clock_data);

/// To be asked for while no vCPU runs.
///
/// # Errors
///
/// The ioctl failed.
pub fn stop(vm: &Vm) -> Result<Stopped, KvmError> {
    vm.clock().map(Stopped)
}

impl Stopped {
    /// Has the VM's clock go on from there. Before any vCPU runs again.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn go_on(self, vm: &Vm) -> Result<(), KvmError> {
        // No flags: from the value alone, whatever time of day it was.
        vm.set_clock(&kvm_clock_data {
            clock: self.0.clock,
            ..Default::default()
        })
    }
}

/// For each vCPU, on its thread, before it runs again: it has stood still for `ticks` of [`ticks`].
pub fn go_on(vcpu: &Vcpu, _is_first: bool, ticks: u64) {
    // A host that can't leaves the counter as it is.
    if let Err(error) = vcpu.set_tsc_back(ticks) {
        log::debug!("{error}");
    }
    // The guest's watchdogs are to know; a guest without kvmclock has none that could.
    if let Err(error) = vcpu.tell_of_pause() {
        log::debug!("{error}");
    }
}
