//! What only KVM on AArch64 has: registers by number, vCPU targets, and devices such as the vGIC.

use std::sync::OnceLock;

use kvm_bindings as kb;
use kvm_bindings::{
    KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_create_device, kvm_device_attr,
    kvm_vcpu_init,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VmFd};
use vmm_sys_util::errno;

use super::{Host, KvmError, Vcpu, Vm, named};

/// Capabilities without which no VM of mote's runs here, and what for.
pub(super) const REQUIRED: &[(Cap, &str, &str)] = &[
    (Cap::OneReg, "KVM_CAP_ONE_REG", "the registers of a vCPU"),
    (
        Cap::ArmPsci02,
        "KVM_CAP_ARM_PSCI_0_2",
        "starting vCPUs, and switching the guest off",
    ),
    (
        Cap::DeviceCtrl,
        "KVM_CAP_DEVICE_CTRL",
        "the interrupt controller",
    ),
];

/// What to do where there is no /dev/kvm.
pub(super) const MISSING: &str = "the host's kernel must be built with KVM and started at EL2 \
     (`dmesg | grep -i kvm` tells); firmware or a hypervisor below it may keep EL2 for itself";

/// The bits of a guest's physical address on the first hosts, which can't tell of others
/// (Linux Documentation/virt/kvm/api.rst, KVM_CREATE_VM).
const DEFAULT_PHYSICAL_BITS: u32 = 40;

/// What is remembered of this host's KVM.
#[derive(Debug, Default)]
pub(super) struct Facts {
    physical_bits: OnceLock<u32>,
}

impl Facts {
    fn physical_bits(&self, kvm: &Kvm) -> u32 {
        *self
            .physical_bits
            .get_or_init(|| physical_bits(kvm.get_host_ipa_limit()))
    }
}

/// A VM whose guest has as many physical address bits as are usual, or as the host has.
pub(super) fn create_vm(kvm: &Kvm, facts: &Facts) -> Result<VmFd, errno::Error> {
    // More bits are more levels of tables for each fault.
    let fd = match facts.physical_bits(kvm) {
        DEFAULT_PHYSICAL_BITS => kvm.create_vm_with_type(0)?,
        bits => kvm.create_vm_with_ipa_size(bits)?,
    };
    // An access outside of memory that the processor doesn't describe is then told as such. Before
    // Linux 5.5, where this fails, KVM_RUN fails at it.
    let _ = fd.enable_cap(&kb::kvm_enable_cap {
        cap: kb::KVM_CAP_ARM_NISV_TO_USER,
        ..Default::default()
    });
    Ok(fd)
}

fn physical_bits(limit: i32) -> u32 {
    match u32::try_from(limit) {
        Ok(limit) if limit > 0 => limit.min(DEFAULT_PHYSICAL_BITS),
        _ => DEFAULT_PHYSICAL_BITS,
    }
}

/// The number by which KVM knows a system register, from how an instruction names it (DDI 0487
/// §D19; Linux Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG).
pub const fn system_register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    let name = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | name
}

/// A device that KVM plays.
#[derive(Debug)]
pub struct Device {
    name: &'static str,
    fd: DeviceFd,
}

impl Device {
    /// Sets an attribute whose value is 32 bits wide.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_u32(
        &self,
        what: &str,
        group: u32,
        attribute: u32,
        value: u32,
    ) -> Result<(), KvmError> {
        self.set(what, group, attribute, (&raw const value) as u64)
    }

    /// Sets an attribute whose value is 64 bits wide.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_u64(
        &self,
        what: &str,
        group: u32,
        attribute: u32,
        value: u64,
    ) -> Result<(), KvmError> {
        self.set(what, group, attribute, (&raw const value) as u64)
    }

    /// Has the device do something.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn command(&self, what: &str, group: u32, attribute: u32) -> Result<(), KvmError> {
        self.set(what, group, attribute, 0)
    }

    fn set(&self, what: &str, group: u32, attribute: u32, addr: u64) -> Result<(), KvmError> {
        let attribute = kvm_device_attr {
            group,
            attr: attribute.into(),
            addr,
            flags: 0,
        };
        let operation = format!("KVM_SET_DEVICE_ATTR of the {}'s {what}", self.name);
        named(&operation, self.fd.set_device_attr(&attribute))
    }
}

mod number {
    vmm_sys_util::ioctl_ior_nr!(
        KVM_ARM_GET_REG_WRITABLE_MASKS,
        kvm_bindings::KVMIO,
        0xb6,
        kvm_bindings::reg_mask_range
    );
    vmm_sys_util::ioctl_iowr_nr!(
        KVM_CREATE_DEVICE,
        kvm_bindings::KVMIO,
        0xe0,
        kvm_bindings::kvm_create_device
    );
}

/// How many ID registers there can be.
const ID_REGISTERS: usize = kb::KVM_ARM_FEATURE_ID_RANGE_SIZE as usize;

impl Host {
    /// Whether some ID registers of a VM can be changed before it runs (since Linux 6.7).
    pub fn has_writable_id_registers(&self) -> bool {
        let ranges = self.capability_raw(kb::KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES);
        ranges > 0 && ranges & 1 << kb::KVM_ARM_FEATURE_ID_RANGE != 0
    }

    /// How many bits the physical addresses of a guest have.
    pub fn physical_bits(&self) -> u32 {
        self.facts.physical_bits(&self.kvm)
    }

    /// How often KVM_GET_SUPPORTED_CPUID was called: there is no such thing here.
    pub fn supported_cpuid_calls(&self) -> u32 {
        0
    }
}

impl Vm {
    /// Which bits of which ID registers can be changed: a mask for each, in the order of
    /// KVM_ARM_FEATURE_ID_RANGE_IDX. To be asked for where [`Host::has_writable_id_registers`].
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn writable_id_registers(&self) -> Result<[u64; ID_REGISTERS], KvmError> {
        let mut masks = [0u64; ID_REGISTERS];
        let range = kb::reg_mask_range {
            addr: masks.as_mut_ptr() as u64,
            range: kb::KVM_ARM_FEATURE_ID_RANGE,
            ..Default::default()
        };
        // SAFETY: KVM writes as many values as this range has registers, which is as many as
        // `masks` has; it lives as long as the call.
        let result = unsafe {
            vmm_sys_util::ioctl::ioctl_with_ref(
                &self.fd,
                number::KVM_ARM_GET_REG_WRITABLE_MASKS(),
                &range,
            )
        };
        let result = match result {
            0 => Ok(masks),
            _ => Err(vmm_sys_util::errno::Error::last()),
        };
        named("KVM_ARM_GET_REG_WRITABLE_MASKS", result)
    }

    /// Makes a device; `None` where this host's KVM can't.
    ///
    /// # Errors
    ///
    /// The ioctl failed for another reason.
    pub fn create_device(&self, name: &'static str, kind: u32) -> Result<Option<Device>, KvmError> {
        let mut device = kvm_create_device {
            type_: kind,
            fd: 0,
            flags: 0,
        };
        match self.fd.create_device(&mut device) {
            Ok(fd) => Ok(Some(Device { name, fd })),
            Err(e) if e.errno() == libc::ENODEV => Ok(None),
            Err(e) => named(&format!("KVM_CREATE_DEVICE of a {name}"), Err(e)),
        }
    }

    /// Whether this host's KVM can make such a device. Nothing is made.
    ///
    /// # Errors
    ///
    /// The ioctl failed for another reason than that it can't.
    pub fn can_create_device(&self, kind: u32) -> Result<bool, KvmError> {
        let mut device = kvm_create_device {
            type_: kind,
            fd: 0,
            flags: kb::KVM_CREATE_DEVICE_TEST,
        };
        // Not by kvm-ioctls, which would own, and close, a descriptor that isn't there.
        // SAFETY: KVM reads and writes this struct, which lives as long as the call.
        let result = unsafe {
            vmm_sys_util::ioctl::ioctl_with_mut_ref(
                &self.fd,
                number::KVM_CREATE_DEVICE(),
                &mut device,
            )
        };
        match (result, errno::Error::last()) {
            (0, _) => Ok(true),
            (_, error) if error.errno() == libc::ENODEV => Ok(false),
            (_, error) => named("KVM_CREATE_DEVICE (a test)", Err(error)),
        }
    }

    /// What the host would have its guests' processors be.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn preferred_target(&self) -> Result<kvm_vcpu_init, KvmError> {
        let mut target = kvm_vcpu_init::default();
        let result = self.fd.get_preferred_target(&mut target);
        named("KVM_ARM_PREFERRED_TARGET", result)?;
        Ok(target)
    }
}

impl Vcpu {
    /// Resets the vCPU to a target, with its features.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn init(&self, target: &kvm_vcpu_init) -> Result<(), KvmError> {
        named("KVM_ARM_VCPU_INIT", self.fd.vcpu_init(target))
    }

    /// Ends the configuration of a feature.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn finalize(&self, feature: u32) -> Result<(), KvmError> {
        let result = self.fd.vcpu_finalize(&(feature as i32));
        named("KVM_ARM_VCPU_FINALIZE", result)
    }

    /// A register of 64 bits, by KVM's number for it.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn one_reg(&self, register: u64) -> Result<u64, KvmError> {
        let mut bytes = [0; 8];
        let result = self.fd.get_one_reg(register, &mut bytes);
        result.map_err(|source| of_register("KVM_GET_ONE_REG", register, source))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The same of an ID register; `None` where this kernel's KVM doesn't know it.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn id_register(&self, number: u64) -> Result<Option<u64>, KvmError> {
        match self.one_reg(number) {
            Err(error) if error.source.errno() == libc::ENOENT => Ok(None),
            result => result.map(Some),
        }
    }

    /// Sets a register of 64 bits.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_one_reg(&self, register: u64, value: u64) -> Result<(), KvmError> {
        let result = self.fd.set_one_reg(register, &value.to_le_bytes());
        result.map_err(|source| of_register("KVM_SET_ONE_REG", register, source))?;
        Ok(())
    }

    /// Gives the guest an exception for the access that KVM couldn't emulate: an external abort (Linux
    /// Documentation/virt/kvm/api.rst, KVM_EXIT_ARM_NISV).
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn refuse_access(&self) -> Result<(), KvmError> {
        let mut events = kb::kvm_vcpu_events::default();
        events.exception.ext_dabt_pending = 1;
        named("KVM_SET_VCPU_EVENTS", self.fd.set_vcpu_events(&events))
    }

    /// The access at which the guest stopped, where the processor hasn't told KVM what the instruction does
    /// (KVM_EXIT_ARM_NISV): its syndrome without the class (DDI 0487 §D17.2.37), and its guest address.
    pub fn unexplained_access(&mut self) -> Option<(u64, u64)> {
        let run = self.fd.get_kvm_run();
        let it_is = run.exit_reason == kb::KVM_EXIT_ARM_NISV;
        // SAFETY: every variant of the union is plain integers, and KVM filled this one.
        let access = unsafe { run.__bindgen_anon_1.arm_nisv };
        it_is.then_some((access.esr_iss, access.fault_ipa))
    }

    /// Sets an attribute of the vCPU's: to a value of 32 bits, or to nothing where that is what it is
    /// about.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn set_attribute(
        &self,
        what: &str,
        group: u32,
        attribute: u32,
        value: Option<u32>,
    ) -> Result<(), KvmError> {
        let attribute = kvm_device_attr {
            group,
            attr: attribute.into(),
            addr: value.as_ref().map_or(0, |value| &raw const *value as u64),
            flags: 0,
        };
        let operation = format!("KVM_SET_DEVICE_ATTR of a vCPU's {what}");
        named(&operation, self.fd.set_device_attr(&attribute))
    }
}

fn of_register(operation: &str, register: u64, source: errno::Error) -> KvmError {
    let operation = format!("{operation} of {register:#x}");
    KvmError { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_registers_have_the_kernels_numbers() {
        // MPIDR_EL1 (Linux tools/testing/selftests/kvm/aarch64/get-reg-list.c prints it so).
        assert_eq!(system_register(3, 0, 0, 0, 5), 0x6030_0000_0013_c005);
    }

    #[test]
    fn a_guest_has_40_bits_or_what_the_host_has() {
        assert_eq!([0, 36, 40, 48].map(physical_bits), [40, 36, 40, 40]);
    }
}
