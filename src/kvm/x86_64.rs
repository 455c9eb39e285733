//! What only KVM on x86_64 has: CPUID and MSRs, the PC's interrupt controllers and timer.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, MsrList};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::errno;

use super::{Host, KvmError, Vcpu, Vm, named};

/// Capabilities without which no VM of mote's runs here, and what for.
pub(super) const REQUIRED: &[(Cap, &str, &str)] = &[
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID", "the guest's CPUID"),
    (
        Cap::SetTssAddr,
        "KVM_CAP_SET_TSS_ADDR",
        "real mode on Intel",
    ),
    (Cap::Pit2, "KVM_CAP_PIT2", "the guest's timer"),
];

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)` and the one after it, which the kvm-ioctls crate has not for x86_64.
const SET_DEVICE_ATTR: u32 = 0x4018_aee1;
const GET_DEVICE_ATTR: u32 = 0x4018_aee2;

/// What to do where there is no /dev/kvm.
pub(super) const MISSING: &str = "load kvm_intel or kvm_amd (modprobe), or enable virtualization \
     (VT-x, AMD-V) in the firmware";

/// What is remembered of this host's KVM.
#[derive(Debug, Default)]
pub(super) struct Facts {
    cpuid: OnceLock<CpuId>,
    msrs: OnceLock<MsrList>,
    cpuid_calls: AtomicU32,
    /// Held while asking, so that two threads don't both do.
    asking: Mutex<()>,
}

/// A VM of the only kind that mote has.
pub(super) fn create_vm(kvm: &Kvm, _facts: &Facts) -> Result<VmFd, errno::Error> {
    kvm.create_vm()
}

impl Host {
    /// What KVM_GET_SUPPORTED_CPUID says: asked at the first call only, since it costs up to
    /// tens of milliseconds on hosts with many features.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn supported_cpuid(&self) -> Result<&CpuId, KvmError> {
        if let Some(cpuid) = self.facts.cpuid.get() {
            return Ok(cpuid);
        }
        let _asking = self
            .facts
            .asking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(cpuid) = self.facts.cpuid.get() {
            return Ok(cpuid);
        }
        self.facts.cpuid_calls.fetch_add(1, Ordering::Relaxed);
        let cpuid = named(
            "KVM_GET_SUPPORTED_CPUID",
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES),
        )?;
        Ok(self.facts.cpuid.get_or_init(|| cpuid))
    }

    /// How often KVM_GET_SUPPORTED_CPUID was called: once, whatever the number of VMs.
    pub fn supported_cpuid_calls(&self) -> u32 {
        self.facts.cpuid_calls.load(Ordering::Relaxed)
    }

    /// The MSRs that KVM can save and restore: asked at the first call only.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn msr_index_list(&self) -> Result<&[u32], KvmError> {
        if self.facts.msrs.get().is_none() {
            let list = named("KVM_GET_MSR_INDEX_LIST", self.kvm.get_msr_index_list())?;
            let _ = self.facts.msrs.set(list);
        }
        Ok(self.facts.msrs.get().map_or(&[], |list| list.as_slice()))
    }
}

impl Vm {
    /// Makes the in-kernel interrupt controllers: two PICs, an IOAPIC of 24 lines, and a local
    /// APIC in each vCPU created from now on.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        named("KVM_CREATE_IRQCHIP", self.fd.create_irq_chip())
    }

    /// Makes the in-kernel timer (8254), with a speaker port that does nothing.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn create_pit(&self) -> Result<(), KvmError> {
        let config = kvm_bindings::kvm_pit_config {
            flags: kvm_bindings::KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        named("KVM_CREATE_PIT2", self.fd.create_pit2(config))
    }

    /// Where KVM may put the pages that it needs for real mode on Intel (3 pages).
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_tss_address(&self, address: u64) -> Result<(), KvmError> {
        named(
            "KVM_SET_TSS_ADDR",
            self.fd.set_tss_address(address as usize),
        )
    }

    /// The VM's clock (kvmclock).
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn clock(&self) -> Result<kvm_bindings::kvm_clock_data, KvmError> {
        named("KVM_GET_CLOCK", self.fd.get_clock())
    }

    /// Sets the VM's clock.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_clock(&self, clock: &kvm_bindings::kvm_clock_data) -> Result<(), KvmError> {
        named("KVM_SET_CLOCK", self.fd.set_clock(clock))
    }

    /// Lets the guest execute these instructions (KVM_X86_DISABLE_EXITS_*) without an exit. To be
    /// called before there are vCPUs.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn disable_exits(&self, exits: u32) -> Result<(), KvmError> {
        self.enable(
            "KVM_CAP_X86_DISABLE_EXITS",
            kvm_bindings::KVM_CAP_X86_DISABLE_EXITS,
            exits,
        )
    }
}

impl Vcpu {
    /// Gives the guest an exception for the access that KVM couldn't emulate: it has queued one, an
    /// invalid opcode, by itself (Linux arch/x86/kvm/x86.c, handle_emulation_failure).
    ///
    /// # Errors
    ///
    /// None on this architecture.
    pub fn refuse_access(&self) -> Result<(), KvmError> {
        Ok(())
    }

    /// Sets the guest's time-stamp counter back by `ticks` of the host's.
    ///
    /// # Errors
    ///
    /// The ioctl failed, as it does before Linux 5.16.
    pub fn set_tsc_back(&self, ticks: u64) -> Result<(), KvmError> {
        let offset = Cell::new(0u64);
        let attribute = kvm_bindings::kvm_device_attr {
            group: kvm_bindings::KVM_VCPU_TSC_CTRL,
            attr: kvm_bindings::KVM_VCPU_TSC_OFFSET.into(),
            addr: offset.as_ptr() as u64,
            flags: 0,
        };
        let ask = |name: &str, request: u32| {
            // SAFETY: KVM reads the attribute, and reads or writes the 8 bytes of `offset`.
            let result =
                unsafe { libc::ioctl(self.fd.as_raw_fd(), request as libc::Ioctl, &attribute) };
            let result = if result < 0 {
                Err(errno::Error::last())
            } else {
                Ok(())
            };
            named(&format!("{name} of a vCPU's TSC offset"), result)
        };
        ask("KVM_GET_DEVICE_ATTR", GET_DEVICE_ATTR)?;
        offset.set(offset.get().wrapping_sub(ticks));
        ask("KVM_SET_DEVICE_ATTR", SET_DEVICE_ATTR)
    }

    /// Has the guest's watchdogs know that it has stood still for a while (KVM_KVMCLOCK_CTRL).
    ///
    /// # Errors
    ///
    /// The ioctl failed; EINVAL where the guest has no kvmclock.
    pub fn tell_of_pause(&self) -> Result<(), KvmError> {
        named("KVM_KVMCLOCK_CTRL", self.fd.kvmclock_ctrl())
    }

    /// What the guest's CPUID instruction returns.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_cpuid(&self, cpuid: &kvm_bindings::CpuId) -> Result<(), KvmError> {
        named("KVM_SET_CPUID2", self.fd.set_cpuid2(cpuid))
    }

    /// The frequency of the guest's time-stamp counter, in kHz.
    ///
    /// # Errors
    ///
    /// The ioctl failed, or KVM doesn't know.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        named("KVM_GET_TSC_KHZ", self.fd.get_tsc_khz())
    }

    /// The general registers.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn regs(&self) -> Result<kvm_bindings::kvm_regs, KvmError> {
        named("KVM_GET_REGS", self.fd.get_regs())
    }

    /// Sets the general registers.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_regs(&self, regs: &kvm_bindings::kvm_regs) -> Result<(), KvmError> {
        named("KVM_SET_REGS", self.fd.set_regs(regs))
    }

    /// The segment, control and descriptor-table registers.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn sregs(&self) -> Result<kvm_bindings::kvm_sregs, KvmError> {
        named("KVM_GET_SREGS", self.fd.get_sregs())
    }

    /// Sets the segment, control and descriptor-table registers.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_sregs(&self, sregs: &kvm_bindings::kvm_sregs) -> Result<(), KvmError> {
        named("KVM_SET_SREGS", self.fd.set_sregs(sregs))
    }

    /// Sets model-specific registers; `entries` are (index, value).
    ///
    /// # Errors
    ///
    /// The ioctl failed, or KVM refused one of them.
    pub fn set_msrs(&self, entries: &[(u32, u64)]) -> Result<(), KvmError> {
        let entries: Vec<_> = entries
            .iter()
            .map(|&(index, data)| kvm_bindings::kvm_msr_entry {
                index,
                data,
                ..Default::default()
            })
            .collect();
        let einval = || vmm_sys_util::errno::Error::new(libc::EINVAL);
        let list = kvm_bindings::Msrs::from_entries(&entries);
        let list = named("KVM_SET_MSRS", list.map_err(|_| einval()))?;
        let done = named("KVM_SET_MSRS", self.fd.set_msrs(&list))?;
        match entries.get(done) {
            Some(refused) => named(
                &format!("KVM_SET_MSRS of {:#x}", refused.index),
                Err(einval()),
            ),
            None => Ok(()),
        }
    }

    /// Translates a guest virtual address by the vCPU's page tables.
    pub fn translate(&self, address: u64) -> Option<u64> {
        let translation = self.fd.translate_gva(address).ok()?;
        (translation.valid != 0).then_some(translation.physical_address)
    }
}
