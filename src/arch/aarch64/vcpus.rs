//! The vCPUs, and the state with which they start.

use std::sync::Arc;

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT,
    KVM_ARM_VCPU_PMU_V3_IRQ, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE,
    KVM_CAP_ARM_PMU_V3, KVM_CAP_ARM_PTRAUTH_ADDRESS, KVM_CAP_ARM_PTRAUTH_GENERIC, KVM_CAP_ARM_SVE,
};
use vm_memory::{GuestMemoryError, GuestMemoryMmap};

use super::caches;
use super::cpu;
use super::irqchip::Irqchip;
use super::layout;
use super::mask::{Mask, MaskError};
use crate::arch::{CpuOptions, fdt};
use crate::boot::Entry;
use crate::kvm::{Host, KvmError, Vcpu, Vm};
use crate::vcpu::Prepare;

/// Why there are no vCPUs.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A feature can't be hidden.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// The host has no performance counters to give.
    #[error(
        "--pmu: this host's KVM has no performance counters for guests (KVM_CAP_ARM_PMU_V3): leave the option out"
    )]
    Pmu,
    /// Writing to guest memory failed.
    #[error("writing boot structures: {0}")]
    GuestMemory(#[from] GuestMemoryError),
}

impl CpuError {
    /// Whether it is the host's part to mend this, and not the user's.
    pub fn is_of_host(&self) -> bool {
        matches!(self, CpuError::Kvm(_))
    }
}

/// A VM's vCPUs, made and not yet running.
pub struct Cpus {
    /// In the order of their numbers.
    pub vcpus: Vec<Vcpu>,
    /// What each still needs, on its own thread: nothing. One that isn't complete can't be started by
    /// another.
    pub prepare: Prepare,
    /// The affinity of each, by which the guest knows it (MPIDR_EL1, DDI 0487 §D19.2).
    pub(super) affinities: Vec<u64>,
    /// Whether they have performance counters.
    pub(super) pmu: bool,
}

/// Makes all vCPUs, and with them the interrupt controller complete. All but the first are off until
/// the guest starts them (PSCI CPU_ON).
///
/// # Errors
///
/// See [`CpuError`].
pub fn create(
    host: &Host,
    fd: &Vm,
    irqchip: &Irqchip,
    options: &CpuOptions,
) -> Result<Cpus, CpuError> {
    let mask = Mask::new(options.mask);
    let has = |capability| host.capability_raw(capability) > 0;
    let sve = mask.wants_sve() && has(KVM_CAP_ARM_SVE);
    let pauth =
        mask.wants_pauth() && has(KVM_CAP_ARM_PTRAUTH_ADDRESS) && has(KVM_CAP_ARM_PTRAUTH_GENERIC);
    if options.pmu && !has(KVM_CAP_ARM_PMU_V3) {
        return Err(CpuError::Pmu);
    }
    let mut target = fd.preferred_target()?;
    let mut want = |feature: u32| target.features[0] |= 1 << feature;
    want(KVM_ARM_VCPU_PSCI_0_2);
    if sve {
        want(KVM_ARM_VCPU_SVE);
    }
    if pauth {
        want(KVM_ARM_VCPU_PTRAUTH_ADDRESS);
        want(KVM_ARM_VCPU_PTRAUTH_GENERIC);
    }
    if options.pmu {
        want(KVM_ARM_VCPU_PMU_V3);
    }
    let mut vcpus = Vec::with_capacity(options.cpus.into());
    let mut affinities = Vec::with_capacity(options.cpus.into());
    for id in 0..options.cpus {
        let vcpu = fd.create_vcpu(id)?;
        vcpu.init(&target)?;
        if id == 0 {
            // The others wait to be started.
            target.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
            mask.apply(host, fd, &vcpu)?;
        }
        caches::show(&vcpu, fdt::host::caches())?;
        if sve {
            vcpu.finalize(KVM_ARM_VCPU_SVE)?;
        }
        affinities.push(cpu::affinity(&vcpu)?);
        vcpus.push(vcpu);
    }
    irqchip.finish()?;
    if options.pmu {
        for vcpu in &vcpus {
            let set = |what, attribute, value| {
                vcpu.set_attribute(what, KVM_ARM_VCPU_PMU_V3_CTRL, attribute, value)
            };
            set(
                "PMU's interrupt",
                KVM_ARM_VCPU_PMU_V3_IRQ,
                Some(layout::PMU_INTERRUPT),
            )?;
            set("PMU's initialization", KVM_ARM_VCPU_PMU_V3_INIT, None)?;
        }
    }
    Ok(Cpus {
        vcpus,
        prepare: Arc::new(|_| Ok(())),
        affinities,
        pmu: options.pmu,
    })
}

impl Cpus {
    /// Has the first vCPU start at `entry`, with the device tree's address where Linux expects it.
    ///
    /// # Errors
    ///
    /// See [`CpuError`].
    pub fn enter(&self, entry: Entry, _memory: &GuestMemoryMmap<()>) -> Result<(), CpuError> {
        if let Some(first) = self.vcpus.first() {
            cpu::set_entry(first, entry)?;
        }
        Ok(())
    }
}
