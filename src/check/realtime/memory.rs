//! What changes the page tables of a guest's memory while it runs, so that it faults or its CPUs are
//! interrupted to forget them.

use super::{Check, Target};
use crate::check::Root;
use crate::config::CpuList;

pub(super) fn check(target: &Target) -> Vec<Check> {
    let root = target.root;
    let checks = [huge_pages(root), merging(root), balancing(root), swap(root)];
    checks.into_iter().flatten().collect()
}

/// khugepaged replaces small pages by huge ones.
fn huge_pages(root: &Root) -> Option<Check> {
    let (id, subject) = ("rt.thp", "transparent huge pages");
    let text = root.read("sys/kernel/mm/transparent_hugepage/enabled")?;
    // "always [madvise] never"
    let chosen = text.split(['[', ']']).nth(1)?;
    Some(match chosen {
        "never" => Check::ok(id, subject, "never"),
        chosen => Check::jitter(
            id,
            subject,
            format!("{chosen}: khugepaged replaces a guest's pages while it runs"),
            "have the guest's memory there from the start, in huge pages that are reserved (hugetlbfs), or: \
             echo never | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    })
}

/// KSM merges pages of the same content.
fn merging(root: &Root) -> Option<Check> {
    let (id, subject) = ("rt.ksm", "page merging (KSM)");
    Some(match root.number("sys/kernel/mm/ksm/run")? {
        1 => Check::jitter(
            id,
            subject,
            "on: a write to a merged page faults",
            "echo 2 | sudo tee /sys/kernel/mm/ksm/run",
        ),
        _ => Check::ok(id, subject, "off"),
    })
}

/// Automatic NUMA balancing unmaps pages to see who uses them.
fn balancing(root: &Root) -> Option<Check> {
    let (id, subject) = ("rt.numa_balancing", "NUMA balancing");
    let nodes = CpuList::of_kernel(&root.read("sys/devices/system/node/online")?)?;
    let on = root.number("proc/sys/kernel/numa_balancing")?;
    if nodes.len() < 2 || on == 0 {
        return Some(Check::ok(id, subject, "off"));
    }
    Some(Check::jitter(
        id,
        subject,
        "on: pages are unmapped now and then to see who uses them",
        "sudo sysctl kernel.numa_balancing=0 (and bind memory: --numa-node N)",
    ))
}

/// Swap takes what hasn't been used for long.
fn swap(root: &Root) -> Option<Check> {
    let (id, subject) = ("rt.swap", "swap");
    let text = root.read("proc/swaps")?;
    Some(match text.lines().count() {
        0 | 1 => Check::ok(id, subject, "none"),
        _ => Check::jitter(
            id,
            subject,
            "on: a page of the guest's may have to be read from a disk first",
            "sudo swapoff -a, or lock the guest's memory",
        ),
    })
}
