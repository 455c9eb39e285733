//! The interrupt controller, which KVM plays: a GICv3 where the host has one, else a GICv2.
//!
//! There is no ITS: it turns messages (MSIs) into interrupts, and virtio-mmio devices send none.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2 as VGIC_V2,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3 as VGIC_V3,
};

use super::layout;
use crate::arch::fdt::{Gic, Range};
use crate::kvm::native::Device;
use crate::kvm::{Host, KvmError, Vm};

/// Interrupts that are a vCPU's own come before those of devices (GIC architecture §2.2).
pub(super) const PRIVATE_INTERRUPTS: u32 = 32;
/// KVM counts interrupts in steps of so many.
const INTERRUPTS_STEP: u32 = 32;
/// The most vCPUs that a GICv2 serves (IHI 0048 §1.1).
const MAX_CPUS_V2: u8 = 8;

/// Why there is no interrupt controller.
#[derive(Debug, thiserror::Error)]
pub enum IrqchipError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// This host's KVM can make neither.
    #[error("this host's KVM can make neither a GICv3 nor a GICv2: `mote check` tells what it has")]
    None,
    /// More vCPUs than a GICv2 serves.
    #[error("--cpus {0}: this host's KVM has a GICv2 only, which serves at most {MAX_CPUS_V2}")]
    Cpus(u8),
}

impl IrqchipError {
    /// Whether it is the host's part to mend this, and not the user's.
    pub fn is_of_host(&self) -> bool {
        !matches!(self, IrqchipError::Cpus(_))
    }
}

/// The interrupt controller of a VM.
#[derive(Debug)]
pub struct Irqchip {
    device: Device,
    /// What the guest is told of it.
    pub gic: Gic,
}

/// Tells KVM what has to be told before there are interrupt controllers: nothing.
///
/// # Errors
///
/// None on this architecture.
pub fn prepare(_fd: &Vm) -> Result<(), KvmError> {
    Ok(())
}

/// Makes it for so many vCPUs, which come later. All memory of the guest's must be there already
/// (see [`Vm::set_memory`]).
///
/// # Errors
///
/// See [`IrqchipError`].
pub fn create(_host: &Host, fd: &Vm, cpus: u8) -> Result<Irqchip, IrqchipError> {
    let address = KVM_DEV_ARM_VGIC_GRP_ADDR;
    let distributor = layout::GIC_DISTRIBUTOR;
    let irqchip = if let Some(device) = fd.create_device("GICv3", VGIC_V3)? {
        let redistributors = redistributors(cpus);
        device.set_u64(
            "distributor",
            address,
            KVM_VGIC_V3_ADDR_TYPE_DIST,
            distributor.0,
        )?;
        // Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst: count, base, flags, index.
        let region = u64::from(cpus) << 52 | redistributors.0;
        let kind = KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION;
        device.set_u64("redistributors", address, kind, region)?;
        let gic = Gic::V3 {
            distributor,
            redistributors,
        };
        Irqchip { device, gic }
    } else if let Some(device) = fd.create_device("GICv2", VGIC_V2)? {
        if cpus > MAX_CPUS_V2 {
            return Err(IrqchipError::Cpus(cpus));
        }
        let cpu_interface = layout::GIC_CPU_INTERFACE;
        device.set_u64(
            "distributor",
            address,
            KVM_VGIC_V2_ADDR_TYPE_DIST,
            distributor.0,
        )?;
        device.set_u64(
            "CPU interface",
            address,
            KVM_VGIC_V2_ADDR_TYPE_CPU,
            cpu_interface.0,
        )?;
        let gic = Gic::V2 {
            distributor,
            cpu_interface,
        };
        Irqchip { device, gic }
    } else {
        return Err(IrqchipError::None);
    };
    let interrupts = (PRIVATE_INTERRUPTS + layout::GSI_COUNT).next_multiple_of(INTERRUPTS_STEP);
    let device = &irqchip.device;
    device.set_u32("interrupts", KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, interrupts)?;
    Ok(irqchip)
}

fn redistributors(cpus: u8) -> Range {
    let size = u64::from(cpus) * layout::GIC_REDISTRIBUTOR_SIZE;
    (layout::GIC_REDISTRIBUTORS, size)
}

impl Irqchip {
    /// Makes it ready, once all vCPUs are there; no irqfd is taken before that.
    pub(super) fn finish(&self) -> Result<(), KvmError> {
        let (group, init) = (KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT);
        self.device.command("initialization", group, init)
    }
}
