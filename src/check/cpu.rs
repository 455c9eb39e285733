//! The processor: hardware virtualization, its clock and its frequency.

use super::kvm::NESTED_REMEDY;
use super::{Check, Root};

/// The check whose absence means an emulating KVM.
pub(super) const HARDWARE: &str = "cpu.virtualization";

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
    /// AArch64: nothing to see in /proc/cpuinfo, and no /dev/kvm without EL2.
    Arm,
}

impl Vendor {
    /// Reads proc/cpuinfo.
    pub(super) fn of(root: &Root) -> Self {
        let text = root.read("proc/cpuinfo").unwrap_or_default();
        let Some(flags) = flags(&text) else {
            let arm = text.lines().any(|line| line.starts_with("Features"));
            return if arm {
                Vendor::Arm
            } else {
                Vendor::None { guest: false }
            };
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
        (Vendor::Arm, _) => return None,
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

/// The names of the frequency governors in use.
pub(super) fn governors(root: &Root) -> Vec<String> {
    let mut governors: Vec<_> = root
        .list("sys/devices/system/cpu")
        .iter()
        .filter_map(|cpu| {
            root.read(&format!(
                "sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor"
            ))
        })
        .collect();
    governors.sort();
    governors.dedup();
    governors
}

/// The frequency governors; nothing inside most VMs, where there are none.
pub(super) fn governor(root: &Root) -> Option<Check> {
    let (id, subject) = ("cpu.governor", "frequency governor");
    let governors = governors(root);
    if governors.is_empty() {
        return None;
    }
    let found = governors.join(", ");
    if !governors.iter().any(|governor| governor == "powersave") {
        return Some(Check::ok(id, subject, found));
    }
    Some(Check::slow(
        id,
        subject,
        format!("{found}: a boot is over before the clock has risen"),
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    ))
}

#[cfg(test)]
#[path = "cpu_tests.rs"]
mod tests;
