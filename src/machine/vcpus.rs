//! The vCPUs, and the state with which they start.

use std::sync::Arc;

use kvm_ioctls::Cap;

use super::error::BuildError;
use crate::arch::cpu;
use crate::arch::cpuid::{self, CpuidOptions};
use crate::arch::features::Feature;
use crate::arch::idle::OwnWaits;
use crate::boot::LoadedKernel;
use crate::config::ConfigError;
use crate::kvm::{self, Host};
use crate::vcpu::Prepare;

/// All vCPUs, the first ready to enter the kernel; the guest starts the others by itself. They get
/// their state on their own threads, beside the first: it costs as much again as making a vCPU does.
pub(super) fn create_vcpus(
    host: &Host,
    fd: &kvm::Vm,
    memory: &vm_memory::GuestMemoryMmap<()>,
    kernel: &LoadedKernel,
    cpus: u8,
    mask: &[Feature],
    own_waits: OwnWaits,
) -> Result<(Vec<kvm::Vcpu>, Prepare), BuildError> {
    let supported = host.supported_cpuid()?;
    let tsc_deadline = host.capability(Cap::TscDeadlineTimer) > 0;
    let vcpus = (0..cpus).map(|id| fd.create_vcpu(id));
    let vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    let first = vcpus.first().ok_or(ConfigError::Cpus(cpus))?;
    let options = CpuidOptions {
        cpus,
        tsc_khz: first.tsc_khz().ok(),
        tsc_deadline,
        own_waits,
        mask,
    };
    let mut template = cpuid::template(supported, &options);
    cpuid::set_apic_id(&mut template, first.id());
    first.set_cpuid(&template)?;
    first.set_msrs(cpu::FIRMWARE_MSRS)?;
    first.set_sregs(&cpu::boot_sregs(kernel.entry, memory, first.sregs()?)?)?;
    first.set_regs(&cpu::boot_regs(kernel.entry))?;
    let prepare = move |vcpu: &kvm::Vcpu| {
        if vcpu.id() == 0 {
            return Ok(());
        }
        let mut cpuid = template.clone();
        cpuid::set_apic_id(&mut cpuid, vcpu.id());
        vcpu.set_cpuid(&cpuid)?;
        vcpu.set_msrs(cpu::FIRMWARE_MSRS)
    };
    Ok((vcpus, Arc::new(prepare)))
}
