//! A guest's clock over a pause: the virtual counter (CNTVCT_EL0) stands still, so that its CLOCK_MONOTONIC doesn't
//! count the pause. All vCPUs have the same one.

use crate::kvm::native::system_register;
use crate::kvm::{KvmError, Vcpu, Vm};

/// The virtual counter as KVM has it (KVM_REG_ARM_TIMER_CNT in the kernel's uapi/asm/kvm.h: its number is that of
/// another register, by an old mistake).
const COUNTER: u64 = system_register(3, 3, 14, 3, 2);

/// The counter of this processor that the guest's own is made of.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads a register that programs may read; the barrier keeps the read in its place.
    unsafe {
        std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack, nomem))
    };
    ticks
}

/// What is to be the same after a pause as before: nothing besides what vCPUs have.
#[derive(Debug)]
pub struct Stopped;

/// To be asked for while no vCPU runs.
///
/// # Errors
///
/// None on this architecture.
pub fn stop(_vm: &Vm) -> Result<Stopped, KvmError> {
    Ok(Stopped)
}

impl Stopped {
    /// Has the VM's clock go on from there.
    ///
    /// # Errors
    ///
    /// None on this architecture.
    pub fn go_on(self, _vm: &Vm) -> Result<(), KvmError> {
        Ok(())
    }
}

/// For each vCPU, on its thread, before it runs again: it has stood still for `ticks` of [`ticks`]. The first one
/// sets the counter that all have.
pub fn go_on(vcpu: &Vcpu, is_first: bool, ticks: u64) {
    if !is_first || ticks == 0 {
        return;
    }
    let set = |now: u64| vcpu.set_one_reg(COUNTER, now.wrapping_sub(ticks));
    if let Err(error) = vcpu.one_reg(COUNTER).and_then(set) {
        log::debug!("the guest's clock counts the pause: {error}");
    }
}
