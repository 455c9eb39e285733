//! /dev/kvm: whether it opens, and what it offers.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;

use kvm_bindings as kb;

use super::{Check, Root, native};
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
        Err(HostError::Missing(_)) => missing("is not there", native::missing_remedy(root)),
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

/// Docker and Podman leave a file that says so.
pub(super) fn in_container(root: &Root) -> bool {
    root.has(".dockerenv") || root.has("run/.containerenv")
}

pub(super) const CONTAINER_REMEDY: &str =
    "give it to the container: docker run --device /dev/kvm ...";

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
pub(super) struct Optional {
    pub number: u32,
    pub id: &'static str,
    /// Its name.
    pub subject: &'static str,
    pub purpose: &'static str,
    /// The first kernels that have it.
    pub since: &'static str,
    /// Whether it takes a CPU that has it, too.
    pub of_cpu: bool,
    /// What its value says, where it is more than yes or no.
    pub detail: Option<fn(u32) -> String>,
}

/// Those that there may be on any architecture.
const OPTIONAL: &[Optional] = &[
    Optional {
        number: kb::KVM_CAP_HALT_POLL,
        id: "kvm.cap_halt_poll",
        subject: "KVM_CAP_HALT_POLL",
        purpose: "halt polling set for each VM",
        since: "5.8",
        of_cpu: false,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_READONLY_MEM,
        id: "kvm.readonly_mem",
        subject: "KVM_CAP_READONLY_MEM",
        purpose: "memory that the guest can't write",
        since: "3.7",
        of_cpu: false,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_USER_MEMORY2,
        id: "kvm.user_memory2",
        subject: "KVM_CAP_USER_MEMORY2",
        purpose: "guest memory of its own file",
        since: "6.8",
        of_cpu: false,
        detail: None,
    },
    Optional {
        number: kb::KVM_CAP_BINARY_STATS_FD,
        id: "kvm.stats",
        subject: "KVM_CAP_BINARY_STATS_FD",
        purpose: "KVM's counters for each VM",
        since: "5.14",
        of_cpu: false,
        detail: None,
    },
];

/// One line per optional capability.
pub(super) fn optional(host: &Host) -> impl Iterator<Item = Check> {
    native::OPTIONAL
        .iter()
        .chain(OPTIONAL)
        .map(|capability| capability.check(host.capability_raw(capability.number)))
}

impl Optional {
    pub(super) fn check(&self, value: i32) -> Check {
        if value <= 0 {
            let found = format!("not there: no {}", self.purpose);
            let cpu = if self.of_cpu { ", on CPUs that do" } else { "" };
            return Check::info(self.id, self.subject, found)
                .with_remedy(format!("kernels from {} on have it{cpu}", self.since));
        }
        let mut found = self.purpose.to_owned();
        if let Some(detail) = self.detail {
            let _ = write!(found, " ({})", detail(value.unsigned_abs()));
        }
        Check::ok(self.id, self.subject, found)
    }
}

/// How much of everything a VM can have.
pub(super) fn amounts(host: &Host) -> Vec<Check> {
    let most = host.capability_raw(kb::KVM_CAP_MAX_VCPUS);
    let slots = host.capability_raw(kb::KVM_CAP_NR_MEMSLOTS);
    let mut checks = vec![
        vcpus(most, host.capability_raw(kb::KVM_CAP_NR_VCPUS)),
        Check::info("kvm.memslots", "memory slots", format!("{slots} per VM")),
    ];
    checks.extend(native::of_kvm(host));
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
