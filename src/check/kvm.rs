//! /dev/kvm: whether it opens, and what it offers.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;

use kvm_bindings as kb;

use super::cpu::Vendor;
use super::{Check, Root};
use crate::config::MAX_CPUS;
use crate::kvm::{Host, HostError};

/// Opens the device file below `root`.
pub(super) fn open(root: &Root) -> Result<Host, HostError> {
    Host::open_path(&root.path("dev/kvm"))
}

/// Whether the device opens and is KVM.
pub(super) fn device(root: &Root, host: &Result<Host, HostError>) -> Check {
    let missing = |found: &str, remedy| Check::missing("kvm.device", "/dev/kvm", found, remedy);
    match host {
        Ok(_) | Err(HostError::Capability { .. }) => {
            let found = format!("opens, API version {}", kb::KVM_API_VERSION);
            Check::ok("kvm.device", "/dev/kvm", found)
        }
        Err(HostError::Missing(_)) => missing("is not there", missing_remedy(root)),
        Err(HostError::Permission(_)) => {
            missing("this user may not open it", permission_remedy(root))
        }
        Err(HostError::NotKvm(_)) => missing(
            "is another file, not KVM's device",
            "sudo mv /dev/kvm /dev/kvm.other && sudo mknod -m 660 /dev/kvm c 10 232".to_owned(),
        ),
        Err(HostError::ApiVersion { found, .. }) => missing(
            &format!("speaks API version {found}, not {}", kb::KVM_API_VERSION),
            "update the host's kernel".to_owned(),
        ),
        Err(error @ (HostError::Open { .. } | HostError::Kvm(_))) => missing(
            &error.to_string(),
            "see what the kernel says: sudo dmesg | grep -i kvm".to_owned(),
        ),
    }
}

/// What to do depends on why it is missing: the CPU, the firmware, the module or a container.
fn missing_remedy(root: &Root) -> String {
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
        (None, Vendor::Arm) => {
            "boot the host at EL2 with a kernel that has CONFIG_KVM=y (sudo dmesg | grep -i kvm \
             tells); inside a VM or container, ask its host for KVM"
                .to_owned()
        }
    }
}

/// Docker and Podman leave a file that says so.
fn in_container(root: &Root) -> bool {
    root.has(".dockerenv") || root.has("run/.containerenv")
}

const CONTAINER_REMEDY: &str = "give it to the container: docker run --device /dev/kvm ...";

/// What the owner of the hypervisor can do for a VM with no virtualization in it.
pub(super) const NESTED_REMEDY: &str = "on the host of this VM: turn on nested virtualization \
     (kvm_intel.nested=1 or kvm_amd.nested=1) and give the VM its flag (QEMU: -cpu host)";

/// A group that may open it, where there is one.
fn permission_remedy(root: &Root) -> String {
    let group = std::fs::metadata(root.path("dev/kvm"))
        .ok()
        .filter(|file| file.mode() & 0o060 == 0o060 && file.gid() != 0)
        .and_then(|file| group_name(&root.read("etc/group")?, file.gid()));
    match group {
        Some(group) => format!("sudo usermod -aG {group} $USER, then log in again"),
        None if in_container(root) => CONTAINER_REMEDY.to_owned(),
        None => "sudo setfacl -m u:$USER:rw /dev/kvm (until the next boot)".to_owned(),
    }
}

fn group_name(groups: &str, gid: u32) -> Option<String> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

/// Whether all capabilities that every VM needs are there.
pub(super) fn required(host: &Result<Host, HostError>) -> Option<Check> {
    let (id, subject) = ("kvm.required", "required capabilities");
    match host {
        Ok(_) => Some(Check::ok(id, subject, "all there")),
        Err(HostError::Capability { name, purpose }) => Some(Check::missing(
            id,
            subject,
            format!("{name} is not there ({purpose})"),
            "use a newer kernel on the host: 5.10 and later have it",
        )),
        Err(_) => None,
    }
}

/// A capability that some options, or later boots, are better with.
struct Optional {
    number: u32,
    id: &'static str,
    subject: &'static str,
    purpose: &'static str,
    since: &'static str,
}

macro_rules! optional {
    ($name:ident, $id:literal, $purpose:literal, $since:literal) => {
        Optional {
            number: kb::$name,
            id: $id,
            subject: stringify!($name),
            purpose: $purpose,
            since: $since,
        }
    };
}

const OPTIONAL: &[Optional] = &[
    #[cfg(target_arch = "x86_64")]
    optional!(
        KVM_CAP_TSC_DEADLINE_TIMER,
        "kvm.tsc_deadline_timer",
        "guest timers set by one register write",
        "3.3"
    ),
    #[cfg(target_arch = "x86_64")]
    optional!(
        KVM_CAP_SPLIT_IRQCHIP,
        "kvm.split_irqchip",
        "only the local APICs in the kernel",
        "4.4"
    ),
    #[cfg(target_arch = "x86_64")]
    optional!(
        KVM_CAP_X86_DISABLE_EXITS,
        "kvm.disable_exits",
        "idle guests without exits",
        "4.17"
    ),
    optional!(
        KVM_CAP_HALT_POLL,
        "kvm.cap_halt_poll",
        "halt polling set for each VM",
        "5.8"
    ),
    optional!(
        KVM_CAP_READONLY_MEM,
        "kvm.readonly_mem",
        "memory that the guest can't write",
        "3.7"
    ),
    optional!(
        KVM_CAP_USER_MEMORY2,
        "kvm.user_memory2",
        "guest memory of its own file",
        "6.8"
    ),
    optional!(
        KVM_CAP_BINARY_STATS_FD,
        "kvm.stats",
        "KVM's counters for each VM",
        "5.14"
    ),
];

/// One line per optional capability.
pub(super) fn optional(host: &Host) -> impl Iterator<Item = Check> {
    OPTIONAL
        .iter()
        .map(|capability| capability.check(host.capability_raw(capability.number)))
}

impl Optional {
    fn check(&self, value: i32) -> Check {
        if value <= 0 {
            let found = format!("not there: no {}", self.purpose);
            return Check::info(self.id, self.subject, found)
                .with_remedy(format!("kernels from {} on have it", self.since));
        }
        let mut found = self.purpose.to_owned();
        if self.number == kb::KVM_CAP_X86_DISABLE_EXITS {
            let _ = write!(found, " ({})", exits(value.unsigned_abs()));
        }
        Check::ok(self.id, self.subject, found)
    }
}

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

/// How much of everything a VM can have.
pub(super) fn amounts(host: &Host) -> Vec<Check> {
    let most = host.capability_raw(kb::KVM_CAP_MAX_VCPUS);
    let slots = host.capability_raw(kb::KVM_CAP_NR_MEMSLOTS);
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
    let mut checks = vec![
        vcpus(most, host.capability_raw(kb::KVM_CAP_NR_VCPUS)),
        Check::info("kvm.memslots", "memory slots", format!("{slots} per VM")),
    ];
    #[cfg(target_arch = "x86_64")]
    checks.push(match host.msr_index_list() {
        Ok(msrs) => Check::info("kvm.msrs", "saved MSRs", format!("{} per vCPU", msrs.len())),
        Err(error) => Check::info("kvm.msrs", "saved MSRs", error.to_string()),
    });
    checks
}

fn vcpus(most: i32, recommended: i32) -> Check {
    let found =
        format!("up to {most} per VM (KVM recommends {recommended}; mote uses up to {MAX_CPUS})");
    Check::info("kvm.max_vcpus", "vCPUs", found)
}

/// Whether KVM looks for work a little before it lets an idle vCPU's CPU go.
pub(super) fn halt_polling(root: &Root) -> Option<Check> {
    let ns = root.number("sys/module/kvm/parameters/halt_poll_ns")?;
    let (id, subject) = ("kvm.halt_poll_ns", "halt polling");
    Some(match ns {
        0 => Check::info(
            id,
            subject,
            "off: an idle vCPU takes longer to wake, and costs no CPU",
        )
        .with_remedy(
            "to turn it on: echo 200000 | sudo tee /sys/module/kvm/parameters/halt_poll_ns",
        ),
        ns => Check::ok(
            id,
            subject,
            format!("up to {} us before an idle vCPU sleeps", ns / 1000),
        ),
    })
}

#[cfg(test)]
#[path = "kvm_tests.rs"]
mod tests;
