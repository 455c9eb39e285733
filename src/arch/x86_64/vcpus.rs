//! The vCPUs, and the state with which they start.

use std::sync::Arc;

use kvm_ioctls::Cap;
use vm_memory::{GuestMemoryError, GuestMemoryMmap};

use super::cpu;
use super::cpuid::{self, CpuidOptions};
use super::irqchip::Irqchip;
use crate::arch::CpuOptions;
use crate::boot::Entry;
use crate::kvm::{Host, KvmError, Vcpu, Vm};
use crate::vcpu::Prepare;

/// Why there are no vCPUs.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory ends below the first MiB.
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
    /// What each still needs, on its own thread.
    pub prepare: Prepare,
}

/// Makes all vCPUs. The first gets its CPUID here; the others get theirs on their own threads, beside
/// the first: it costs as much again as making a vCPU does. The guest starts them by itself.
///
/// # Errors
///
/// See [`CpuError`].
pub fn create(
    host: &Host,
    fd: &Vm,
    _irqchip: &Irqchip,
    options: &CpuOptions,
) -> Result<Cpus, CpuError> {
    let supported = host.supported_cpuid()?;
    let tsc_deadline = host.capability(Cap::TscDeadlineTimer) > 0;
    let vcpus = (0..options.cpus).map(|id| fd.create_vcpu(id));
    let vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    let template = CpuidOptions {
        cpus: options.cpus,
        tsc_khz: vcpus.first().and_then(|first| first.tsc_khz().ok()),
        tsc_deadline,
        own_waits: options.own_waits,
        mask: options.mask,
        pmu: options.pmu,
    };
    let mut template = cpuid::template(supported, &template);
    if let Some(first) = vcpus.first() {
        cpuid::set_apic_id(&mut template, first.id());
        first.set_cpuid(&template)?;
        first.set_msrs(cpu::FIRMWARE_MSRS)?;
    }
    let prepare = move |vcpu: &Vcpu| {
        if vcpu.id() == 0 {
            return Ok(());
        }
        let mut cpuid = template.clone();
        cpuid::set_apic_id(&mut cpuid, vcpu.id());
        vcpu.set_cpuid(&cpuid)?;
        vcpu.set_msrs(cpu::FIRMWARE_MSRS)
    };
    let prepare = Arc::new(prepare);
    Ok(Cpus { vcpus, prepare })
}

impl Cpus {
    /// Has the first vCPU start at `entry`, with the tables in memory that this takes.
    ///
    /// # Errors
    ///
    /// See [`CpuError`].
    pub fn enter(&self, entry: Entry, memory: &GuestMemoryMmap<()>) -> Result<(), CpuError> {
        if let Some(first) = self.vcpus.first() {
            first.set_sregs(&cpu::boot_sregs(entry, memory, first.sregs()?)?)?;
            first.set_regs(&cpu::boot_regs(entry))?;
        }
        Ok(())
    }
}
