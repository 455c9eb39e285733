//! What `mote check` looks at on x86_64 only: VT-x and AMD-V, nested VMs, the TSC, and KVM's options there.

use kvm_bindings as kb;

use super::cpu::HARDWARE;
use super::kvm::{CONTAINER_REMEDY, Optional, in_container};
use super::{Check, Root};
use crate::kvm::{Host, KvmError, Vm};

/// What makes the interrupt controllers.
pub(super) const IRQCHIP: &str = "KVM_CREATE_IRQCHIP";

/// Debian's kernel for real time.
pub(super) const REALTIME_KERNEL: &str = "linux-image-rt-amd64";

/// What to do about a clock source that is slow to read.
pub(super) const CLOCK_REMEDY: &str =
    "see why the kernel distrusts the TSC: sudo dmesg | grep -i tsc";

/// The virtualization that /proc/cpuinfo tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
    /// An x86 CPU without; in a guest, its hypervisor may hide it.
    None {
        /// Whether this host is itself a VM.
        guest: bool,
    },
}

impl Vendor {
    /// Reads proc/cpuinfo.
    pub(super) fn of(root: &Root) -> Self {
        let text = root.read("proc/cpuinfo").unwrap_or_default();
        let Some(flags) = flags(&text) else {
            return Vendor::None { guest: false };
        };
        let has = |name| flags.split_whitespace().any(|flag| flag == name);
        match (has("vmx"), has("svm")) {
            (true, _) => Vendor::Vmx,
            (_, true) => Vendor::Svm,
            _ => Vendor::None {
                guest: has("hypervisor"),
            },
        }
    }
}

/// The flags of the first CPU (the line `flags`, not `vmx flags`).
fn flags(cpuinfo: &str) -> Option<&str> {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    lines
        .into_iter()
        .find(|(key, _)| key.trim() == "flags")
        .map(|(_, flags)| flags)
}

/// Whether `name` is among the first CPU's flags.
fn has_flag(root: &Root, name: &str) -> bool {
    let text = root.read("proc/cpuinfo").unwrap_or_default();
    flags(&text).is_some_and(|flags| flags.split_whitespace().any(|flag| flag == name))
}

/// Modules that offer /dev/kvm without hardware.
const EMULATING: &[&str] = &["kvm_pvm"];

/// Hardware virtualization, or a KVM that does without and so can't run an ordinary Linux.
pub(super) fn hardware(root: &Root) -> Option<Check> {
    let subject = "virtualization";
    let emulating = EMULATING
        .iter()
        .find(|name| root.has(&format!("sys/module/{name}")));
    let native = root.has("sys/module/kvm_intel") || root.has("sys/module/kvm_amd");
    let found = match (Vendor::of(root), emulating) {
        (Vendor::Vmx | Vendor::Svm, Some(module)) if !native => {
            let remedy = format!("sudo modprobe -r {module} && sudo modprobe -a kvm_intel kvm_amd");
            let found = format!("there, but {module} is loaded in its place, and can't run Linux");
            return Some(Check::missing(HARDWARE, subject, found, remedy));
        }
        (Vendor::Vmx, _) => return Some(Check::ok(HARDWARE, subject, "Intel VT-x (vmx)")),
        (Vendor::Svm, _) => return Some(Check::ok(HARDWARE, subject, "AMD-V (svm)")),
        (Vendor::None { .. }, Some(module)) => {
            format!("no vmx or svm: KVM emulates ({module}), and can't run Linux")
        }
        (Vendor::None { .. }, None) => "no vmx or svm in /proc/cpuinfo".to_owned(),
    };
    let remedy = match Vendor::of(root) {
        Vendor::None { guest: true } => NESTED_REMEDY,
        _ => "enable VT-x (Intel) or AMD-V (SVM) in the firmware's settings",
    };
    Some(Check::missing(HARDWARE, subject, found, remedy))
}

/// Whether the VMs would be guests of a guest.
pub(super) fn nested(root: &Root) -> Option<Check> {
    let virtualization = matches!(Vendor::of(root), Vendor::Vmx | Vendor::Svm);
    if !virtualization || !has_flag(root, "hypervisor") {
        return None;
    }
    Some(Check::slow(
        "cpu.nested",
        "nested",
        "this host is itself a VM: each exit of a guest costs many times more",
        "use a bare-metal host where speed matters",
    ))
}

/// Whether guests' page tables are walked by the hardware.
pub(super) fn nested_paging(root: &Root) -> Option<Check> {
    let (id, subject) = ("cpu.nested_paging", "nested paging");
    for (module, parameter) in [("kvm_intel", "ept"), ("kvm_amd", "npt")] {
        match root
            .read(&format!("sys/module/{module}/parameters/{parameter}"))
            .as_deref()
        {
            Some("Y" | "1") => return Some(Check::ok(id, subject, format!("on ({parameter})"))),
            Some(_) => {
                let remedy =
                    format!("sudo modprobe -r {module} && sudo modprobe {module} {parameter}=1");
                let found =
                    format!("off ({module}.{parameter}): page tables are shadowed in software");
                return Some(Check::slow(id, subject, found, remedy));
            }
            None => {}
        }
    }
    None
}

/// The host's clock source, which guests' clocks build on (x86 only).
pub(super) fn clock(root: &Root) -> Option<Check> {
    let text = root.read("proc/cpuinfo")?;
    flags(&text)?;
    let (id, subject) = ("cpu.tsc", "TSC");
    let wrong: Vec<_> = ["constant_tsc", "nonstop_tsc"]
        .into_iter()
        .filter(|flag| !has_flag(root, flag))
        .collect();
    if !wrong.is_empty() {
        let found = format!(
            "not {}: guests' clocks cost more to read",
            wrong.join(", not ")
        );
        let remedy = match has_flag(root, "hypervisor") {
            true => "on the host of this VM: give it an invariant TSC (QEMU: -cpu host,+invtsc)",
            false => "use a CPU with an invariant TSC (any from 2008 on)",
        };
        return Some(Check::slow(id, subject, found, remedy));
    }
    let folder = "sys/devices/system/clocksource/clocksource0";
    let source = root.read(&format!("{folder}/current_clocksource"));
    let offered = root
        .read(&format!("{folder}/available_clocksource"))
        .unwrap_or_default();
    match source.as_deref() {
        Some(source) if !matches!(source, "tsc" | "hyperv_clocksource_tsc_page") => {
            let remedy = match offered.split_whitespace().any(|name| name == "tsc") {
                true => format!("echo tsc | sudo tee /{folder}/current_clocksource"),
                false => {
                    "see why the kernel distrusts the TSC: sudo dmesg | grep -i tsc".to_owned()
                }
            };
            let found = format!(
                "stable, but the host's clock source is {source}: guests' clocks cost more to read"
            );
            Some(Check::slow(id, subject, found, remedy))
        }
        _ => Some(Check::ok(id, subject, "constant and nonstop")),
    }
}

/// The rows of the processor itself.
pub(super) fn processor(root: &Root) -> Vec<Check> {
    let rows = [nested(root), nested_paging(root), clock(root)];
    rows.into_iter().flatten().collect()
}

/// What to do depends on why it is missing: the CPU, the firmware, the module or a container.
pub(super) fn missing_remedy(root: &Root) -> String {
    let container = in_container(root);
    let module = ["kvm_intel", "kvm_amd"]
        .into_iter()
        .find(|name| root.has(&format!("sys/module/{name}")));
    match (module, Vendor::of(root)) {
        (Some(_), _) if container => CONTAINER_REMEDY.to_owned(),
        (Some(_), _) => "sudo mknod -m 660 /dev/kvm c 10 232 && sudo chgrp kvm /dev/kvm".to_owned(),
        (None, Vendor::Vmx) => "sudo modprobe kvm_intel".to_owned(),
        (None, Vendor::Svm) => "sudo modprobe kvm_amd".to_owned(),
        (None, Vendor::None { guest: true }) => NESTED_REMEDY.to_owned(),
        (None, Vendor::None { guest: false }) => {
            "enable VT-x (Intel) or AMD-V (SVM) in the firmware's settings, then: \
             sudo modprobe -a kvm_intel kvm_amd"
                .to_owned()
        }
    }
}

/// What the owner of the hypervisor can do for a VM with no virtualization in it.
const NESTED_REMEDY: &str = "on the host of this VM: turn on nested virtualization \
     (kvm_intel.nested=1 or kvm_amd.nested=1) and give the VM its flag (QEMU: -cpu host)";

/// Capabilities that only x86_64 has.
pub(super) const OPTIONAL: &[Optional] = &[
    Optional {
        number: kb::KVM_CAP_TSC_DEADLINE_TIMER,
        id: "kvm.tsc_deadline_timer",
        subject: "KVM_CAP_TSC_DEADLINE_TIMER",
        purpose: "guest timers set by one register write",
        since: "3.3",
        of_cpu: false,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_SPLIT_IRQCHIP,
        id: "kvm.split_irqchip",
        subject: "KVM_CAP_SPLIT_IRQCHIP",
        purpose: "only the local APICs in the kernel",
        since: "4.4",
        of_cpu: false,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_X86_DISABLE_EXITS,
        id: "kvm.disable_exits",
        subject: "KVM_CAP_X86_DISABLE_EXITS",
        purpose: "idle guests without exits",
        since: "4.17",
        of_cpu: false,
        detail: Some(exits),
    },
];

/// The exits that can be disabled, out of the capability's bits.
fn exits(bits: u32) -> String {
    let names = [
        (kb::KVM_X86_DISABLE_EXITS_MWAIT, "MWAIT"),
        (kb::KVM_X86_DISABLE_EXITS_HLT, "HLT"),
        (kb::KVM_X86_DISABLE_EXITS_PAUSE, "PAUSE"),
        (kb::KVM_X86_DISABLE_EXITS_CSTATE, "C-states"),
    ];
    let there = names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name);
    there.collect::<Vec<_>>().join(", ")
}

/// How much a vCPU has to save.
pub(super) fn of_kvm(host: &Host) -> Vec<Check> {
    let found = match host.msr_index_list() {
        Ok(msrs) => format!("{} per vCPU", msrs.len()),
        Err(error) => error.to_string(),
    };
    vec![Check::info("kvm.msrs", "saved MSRs", found)]
}

/// Whether each CPU has an interrupt of that number for itself: those have no numbers here.
pub(super) fn is_each_cpus_own(_root: &Root, _irq: &str) -> bool {
    false
}

/// Makes the interrupt controllers.
pub(super) fn create_irqchip(vm: &Vm) -> Result<bool, KvmError> {
    vm.create_irqchip()?;
    Ok(true)
}

/// What /proc/cpuinfo calls the processor.
pub(super) fn model(root: &Root) -> Option<String> {
    let text = root.read("proc/cpuinfo")?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, name) = lines.find(|(key, _)| key.trim() == "model name")?;
    Some(name.trim().to_owned())
}

/// The module behind /dev/kvm, and whether there is hardware behind it.
pub(super) fn module(root: &Root) -> String {
    let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let mut loaded = modules
        .iter()
        .filter(|name| root.has(&format!("sys/module/{name}")));
    let name = loaded.next().map_or("kvm", |name| name);
    match super::has_hardware(root) {
        true => name.to_owned(),
        false => format!("{name}, emulating"),
    }
}

#[cfg(test)]
#[path = "x86_64_tests.rs"]
mod tests;
