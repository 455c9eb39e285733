//! What `mote check` looks at on AArch64 only: which processors, EL2, interrupt controllers, and what KVM
//! can give a vCPU.

use kvm_bindings as kb;

use super::kvm::{CONTAINER_REMEDY, Optional, in_container};
use super::{Check, Root};
use crate::kvm::{Host, KvmError, Vm};

mod midr;

pub(super) use midr::model;

/// What makes the interrupt controller.
pub(super) const IRQCHIP: &str = "KVM_CREATE_DEVICE (GIC)";

/// Debian's kernel for real time.
pub(super) const REALTIME_KERNEL: &str = "linux-image-rt-arm64";

/// What to do about a clock source that is slow to read.
pub(super) const CLOCK_REMEDY: &str =
    "see why the kernel doesn't use the CPU's counter: sudo dmesg | grep -i timer";

const GIC_V2: u32 = kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2;
const GIC_V3: u32 = kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3;
const ITS: u32 = kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS;

/// Nothing to see in files: where there is a /dev/kvm, there is hardware behind it.
pub(super) fn hardware(_root: &Root) -> Option<Check> {
    None
}

/// The rows of the processor itself.
pub(super) fn processor(root: &Root) -> Vec<Check> {
    let model = model(root).map(|model| Check::info("cpu.model", "CPU", model));
    let features = features(root).map(|names| Check::info("cpu.features", "CPU features", names));
    [model, features, el2(root)].into_iter().flatten().collect()
}

/// The features of the first CPU; KVM gives guests what all have.
fn features(root: &Root) -> Option<String> {
    let text = root.read("proc/cpuinfo")?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, names) = lines.find(|(key, _)| key.trim() == "Features")?;
    Some(names.trim().to_owned())
}

/// How the host's kernel uses EL2. It tells nowhere but in its log, and by the timers that it takes for
/// itself: where KVM has the physical one for guests, the kernel has EL2's own, and so is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Vhe,
    Nvhe,
}

impl Mode {
    fn of(root: &Root) -> Option<Self> {
        let text = root.read("proc/interrupts")?;
        match (
            text.contains("kvm guest ptimer"),
            text.contains("kvm guest vtimer"),
        ) {
            (true, _) => Some(Mode::Vhe),
            (_, true) => Some(Mode::Nvhe),
            _ => None,
        }
    }
}

/// What the host kernel's command line says of KVM (kvm-arm.mode=).
fn asked_mode(root: &Root) -> Option<String> {
    let line = root.read("proc/cmdline")?;
    let words = line.split_whitespace();
    let mut asked = words.filter_map(|word| word.strip_prefix("kvm-arm.mode="));
    asked.next_back().map(str::to_owned)
}

/// Whether exits are cheap.
fn el2(root: &Root) -> Option<Check> {
    let (id, subject) = ("cpu.el2", "EL2");
    Some(match (Mode::of(root)?, asked_mode(root).as_deref()) {
        (Mode::Vhe, _) => Check::ok(id, subject, "the host's kernel runs there (VHE)"),
        (Mode::Nvhe, Some(mode @ ("nvhe" | "protected"))) => Check::slow(
            id,
            subject,
            format!("kvm-arm.mode={mode} keeps the host's kernel out of it: each exit costs more"),
            format!("take kvm-arm.mode={mode} off the host kernel's command line, and reboot"),
        ),
        (Mode::Nvhe, _) => Check::info(
            id,
            subject,
            "only a part of KVM runs there (no VHE): each exit costs more",
        ),
    })
}

/// What to do depends on why it is missing: the kernel, its command line, EL2 or a container.
pub(super) fn missing_remedy(root: &Root) -> String {
    let device = root.has("sys/devices/virtual/misc/kvm");
    if device && in_container(root) {
        return CONTAINER_REMEDY.to_owned();
    }
    if device {
        return "sudo mknod -m 660 /dev/kvm c 10 232 && sudo chgrp kvm /dev/kvm".to_owned();
    }
    if asked_mode(root).as_deref() == Some("none") {
        return "take kvm-arm.mode=none off the host kernel's command line, and reboot".to_owned();
    }
    match root.has("sys/module/kvm") {
        true => {
            "have the firmware start the host's kernel at EL2 (sudo dmesg | grep -iE 'kvm|EL2' \
                 tells); on the host of a VM: give it EL2, where the CPU can nest VMs (QEMU: -M \
                 virt,virtualization=on)"
                .to_owned()
        }
        false => "use a kernel built with CONFIG_KVM=y: it can't be loaded later".to_owned(),
    }
}

/// The name of the part of KVM that runs guests.
pub(super) fn module(root: &Root) -> String {
    match Mode::of(root) {
        Some(Mode::Vhe) => "kvm (VHE)".to_owned(),
        Some(Mode::Nvhe) => "kvm (nVHE)".to_owned(),
        None => "kvm".to_owned(),
    }
}

/// Capabilities that only AArch64 has.
pub(super) const OPTIONAL: &[Optional] = &[
    Optional {
        number: kb::KVM_CAP_ARM_SVE,
        id: "kvm.sve",
        subject: "KVM_CAP_ARM_SVE",
        purpose: "scalable vectors",
        since: "5.2",
        of_cpu: true,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_ARM_PTRAUTH_ADDRESS,
        id: "kvm.ptrauth_address",
        subject: "KVM_CAP_ARM_PTRAUTH_ADDRESS",
        purpose: "pointer authentication",
        since: "5.2",
        of_cpu: true,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_ARM_PTRAUTH_GENERIC,
        id: "kvm.ptrauth_generic",
        subject: "KVM_CAP_ARM_PTRAUTH_GENERIC",
        purpose: "pointer authentication of other data",
        since: "5.2",
        of_cpu: true,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_ARM_PMU_V3,
        id: "kvm.pmu",
        subject: "KVM_CAP_ARM_PMU_V3",
        purpose: "performance counters (PMUv3)",
        since: "4.6",
        of_cpu: true,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_ARM_EL1_32BIT,
        id: "kvm.el1_32bit",
        subject: "KVM_CAP_ARM_EL1_32BIT",
        purpose: "32-bit kernels in guests",
        since: "3.14",
        of_cpu: true,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES,
        id: "kvm.writable_id_registers",
        subject: "KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES",
        purpose: "hiding CPU features (--cpu-mask)",
        since: "6.7",
        of_cpu: false,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_ARM_SYSTEM_SUSPEND,
        id: "kvm.system_suspend",
        subject: "KVM_CAP_ARM_SYSTEM_SUSPEND",
        purpose: "guests that suspend themselves",
        since: "5.19",
        of_cpu: false,
        detail: None,
    },
];

/// What KVM can make, and how much of it.
pub(super) fn of_kvm(host: &Host) -> Vec<Check> {
    let mut checks = match host.create_vm().and_then(|vm| of_vm(&vm)) {
        Ok(checks) => checks,
        Err(error) => vec![Check::info(
            "kvm.gic",
            "interrupt controller",
            error.to_string(),
        )],
    };
    let most = host.capability_raw(kb::KVM_CAP_ARM_VM_IPA_SIZE);
    checks.push(addresses(most, host.physical_bits()));
    checks.push(page_size());
    checks
}

/// What has to be asked of a VM.
fn of_vm(vm: &Vm) -> Result<Vec<Check>, KvmError> {
    let (v3, v2) = (vm.can_create_device(GIC_V3)?, vm.can_create_device(GIC_V2)?);
    let its = match vm.can_create_device(ITS)? {
        true => "can be made (mote's devices need none)",
        false => "can't be made (mote's devices need none)",
    };
    let checks = vec![
        gic(v3, v2),
        Check::info("kvm.its", "GICv3 ITS", its),
        psci(psci_version(vm)),
    ];
    Ok(checks)
}

fn gic(v3: bool, v2: bool) -> Check {
    let (id, subject) = ("kvm.gic", "interrupt controller");
    match (v3, v2) {
        (true, true) => Check::ok(id, subject, "GICv3 or GICv2 (mote uses GICv3)"),
        (true, false) => Check::ok(id, subject, "GICv3"),
        (false, true) => Check::ok(id, subject, "GICv2: up to 8 vCPUs per VM"),
        (false, false) => Check::missing(
            id,
            subject,
            "KVM can make neither a GICv3 nor a GICv2",
            "see what the kernel says: sudo dmesg | grep -iE 'kvm|gic'",
        ),
    }
}

/// The version of what guests start CPUs, reset and power off by.
fn psci_version(vm: &Vm) -> Result<u64, KvmError> {
    /// KVM_REG_ARM_PSCI_VERSION of Linux's arch/arm64/include/uapi/asm/kvm.h.
    const VERSION: u64 = kb::KVM_REG_ARM64 | kb::KVM_REG_SIZE_U64 | kb::KVM_REG_ARM_FW as u64;
    let vcpu = vm.create_vcpu(0)?;
    let mut target = vm.preferred_target()?;
    target.features[0] |= 1 << kb::KVM_ARM_VCPU_PSCI_0_2;
    vcpu.init(&target)?;
    vcpu.one_reg(VERSION)
}

fn psci(version: Result<u64, KvmError>) -> Check {
    let found = match version {
        Ok(version) => format!("version {}.{}", version >> 16 & 0xffff, version & 0xffff),
        Err(error) => error.to_string(),
    };
    Check::info("kvm.psci", "PSCI", found)
}

fn addresses(most: i32, used: u32) -> Check {
    let most = match most {
        0 => "40 bits".to_owned(),
        most => format!("up to {most} bits"),
    };
    let found = format!("{most} (mote's guests have {used})");
    Check::info("kvm.ipa_bits", "guest addresses", found)
}

/// The host's; a guest has its own.
fn page_size() -> Check {
    let found = format!("{} KiB", crate::memory::page_size() / 1024);
    Check::info("memory.page_size", "page size", found)
}

/// Whether each CPU has this interrupt for itself, so that it can't be moved: a private one of the GIC's
/// (below 32), such as a timer's.
pub(super) fn is_each_cpus_own(root: &Root, irq: &str) -> bool {
    let chip = root.read(&format!("sys/kernel/irq/{irq}/chip_name"));
    let number = root.number(&format!("sys/kernel/irq/{irq}/hwirq"));
    chip.is_some_and(|chip| chip.starts_with("GIC")) && number.is_some_and(|number| number < 32)
}

/// Makes the interrupt controller that a VM would get; false where KVM can make none.
pub(super) fn create_irqchip(vm: &Vm) -> Result<bool, KvmError> {
    for (name, kind) in [("GICv3", GIC_V3), ("GICv2", GIC_V2)] {
        if vm.create_device(name, kind)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
#[path = "aarch64_tests.rs"]
mod tests;
