//! A virtual machine: its memory slots, interrupt controllers and event file descriptors.

use std::time::Duration;

use kvm_bindings::KVM_CAP_HALT_POLL;
use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{KvmError, Statistics, StatisticsError, Vcpu, named};

/// A KVM virtual machine.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
}

/// Memory of this process that the guest sees.
#[derive(Clone, Copy, Debug)]
pub struct MemorySlot {
    /// The slot's number: one that no other memory of the VM has.
    pub slot: u32,
    /// The guest physical address, a multiple of the host's page size.
    pub guest: u64,
    /// The host address, likewise.
    pub host: u64,
    /// The length in bytes, likewise.
    pub len: u64,
    /// Whether a guest's write exits as if nothing were there, instead of changing it.
    pub read_only: bool,
}

impl Vm {
    pub(super) fn new(fd: VmFd) -> Self {
        Vm { fd }
    }

    /// Gives all of `memory` to the guest, one slot per region, at the addresses it has there.
    /// To be called before the interrupt controllers are made: their I/O bus makes each later slot
    /// wait for a grace period of the host's kernel (milliseconds).
    ///
    /// # Safety
    ///
    /// The mappings behind `memory` must live until this `Vm` and all its vCPUs are dropped.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub unsafe fn set_memory(&self, memory: &GuestMemoryMmap<()>) -> Result<(), KvmError> {
        for (slot, region) in memory.iter().enumerate() {
            let range = MemorySlot {
                slot: slot as u32,
                guest: region.start_addr().raw_value(),
                host: region.as_ptr() as u64,
                len: region.len(),
                read_only: false,
            };
            // SAFETY: the caller's promise.
            unsafe { self.set_slot(range)? };
        }
        Ok(())
    }

    /// Shows the guest memory of this process that is not its RAM. The same as for
    /// [`Vm::set_memory`] holds for when to call it.
    ///
    /// # Safety
    ///
    /// The range must stay mapped until this `Vm` and all its vCPUs are dropped, and the guest's
    /// access to it must not break Rust's rules: nobody may have a reference to it, unless to
    /// atomics, or to what the guest can't write either.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub unsafe fn set_slot(&self, slot: MemorySlot) -> Result<(), KvmError> {
        let region = kvm_bindings::kvm_userspace_memory_region {
            slot: slot.slot,
            flags: match slot.read_only {
                true => kvm_bindings::KVM_MEM_READONLY,
                false => 0,
            },
            guest_phys_addr: slot.guest,
            memory_size: slot.len,
            userspace_addr: slot.host,
        };
        // SAFETY: the range is mapped, and stays so (the caller's promise).
        let result = unsafe { self.fd.set_user_memory_region(region) };
        named("KVM_SET_USER_MEMORY_REGION", result)
    }

    /// How long KVM polls for a wake-up at most when a vCPU of this VM has halted, before its
    /// thread sleeps; zero for not at all. From now on, in place of the host's own setting.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_halt_poll(&self, window: Duration) -> Result<(), KvmError> {
        let nanoseconds = u32::try_from(window.as_nanos()).unwrap_or(u32::MAX);
        self.enable("KVM_CAP_HALT_POLL", KVM_CAP_HALT_POLL, nanoseconds)
    }

    pub(super) fn enable(
        &self,
        name: &str,
        capability: u32,
        argument: u32,
    ) -> Result<(), KvmError> {
        let capability = kvm_bindings::kvm_enable_cap {
            cap: capability,
            args: [argument.into(), 0, 0, 0],
            ..Default::default()
        };
        let operation = format!("KVM_ENABLE_CAP of {name}");
        named(&operation, self.fd.enable_cap(&capability))
    }

    /// What KVM counts of this VM apart from its vCPUs.
    ///
    /// # Errors
    ///
    /// See [`StatisticsError`].
    pub fn statistics(&self) -> Result<Statistics, StatisticsError> {
        Statistics::of(&self.fd, "KVM_GET_STATS_FD of a VM")
    }

    /// Each write to `event` raises the interrupt line `gsi` (as an edge).
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        named("KVM_IRQFD", self.fd.register_irqfd(event, gsi))
    }

    /// Raises the interrupt line `gsi` (as an edge), where there is no irqfd for it.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn pulse_line(&self, gsi: u32) -> Result<(), KvmError> {
        for active in [true, false] {
            named("KVM_IRQ_LINE", self.fd.set_irq_line(gsi, active))?;
        }
        Ok(())
    }

    /// A 4-byte guest write of `value` to `address` signals `event` and does not exit.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn register_ioeventfd(
        &self,
        event: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(address);
        named(
            "KVM_IOEVENTFD",
            self.fd.register_ioevent(event, &address, value),
        )
    }

    /// Makes a vCPU; `id` is its APIC id on x86_64, and what KVM makes its MPIDR from on AArch64.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn create_vcpu(&self, id: u8) -> Result<Vcpu, KvmError> {
        named("KVM_CREATE_VCPU", self.fd.create_vcpu(id.into())).map(|fd| Vcpu::new(id, fd))
    }
}
