//! Who else uses the vCPUs' CPUs: the scheduler, its tick, RCU, and interrupts.

use super::{Check, Target};
use crate::check::native;
use crate::config::CpuList;

pub(super) fn check(target: &Target) -> Vec<Check> {
    let mut checks = vec![isolated(target), tickless(target), rcu(target)];
    checks.push(interrupts(target));
    checks.extend(default_interrupts(target));
    checks
}

/// What of the vCPUs' CPUs `list` doesn't have.
fn missing(target: &Target, list: &CpuList) -> Option<CpuList> {
    Some(target.cpus.without(list)).filter(|missing| !missing.is_empty())
}

/// How to boot the host with an option for these CPUs.
fn boot(option: &str, target: &Target) -> String {
    let cpus = &target.cpus;
    format!("on the host kernel's command line, and reboot: {option}{cpus}")
}

/// Whether the scheduler leaves them alone.
fn isolated(target: &Target) -> Check {
    let (id, subject) = ("rt.isolcpus", "isolated CPUs");
    let list = |file: &str| CpuList::of_kernel(&target.root.read(file)?);
    let by_boot = list("sys/devices/system/cpu/isolated").unwrap_or_default();
    // cgroup v2's isolated partitions (Linux 6.7).
    let by_cpuset = list("sys/fs/cgroup/cpuset.cpus.isolated").unwrap_or_default();
    let all = by_boot.or(&by_cpuset);
    match missing(target, &all) {
        None => Check::ok(id, subject, all.to_string()),
        Some(missing) => Check::jitter(
            id,
            subject,
            format!("not {missing}: the scheduler puts other programs there"),
            boot("isolcpus=managed_irq,domain,", target),
        ),
    }
}

/// Whether their tick stops while a guest runs.
fn tickless(target: &Target) -> Check {
    let (id, subject) = ("rt.nohz_full", "tickless CPUs");
    let Some(text) = target.root.read("sys/devices/system/cpu/nohz_full") else {
        let found = "the kernel has none (CONFIG_NO_HZ_FULL): each CPU is interrupted at each tick";
        return Check::jitter(id, subject, found, "use a kernel that has it");
    };
    let list = CpuList::of_kernel(&text).unwrap_or_default();
    match missing(target, &list) {
        None => Check::ok(id, subject, list.to_string()),
        Some(missing) => {
            let found = format!("not {missing}: the tick interrupts the guest");
            Check::jitter(id, subject, found, boot("nohz_full=", target))
        }
    }
}

/// Whether RCU's callbacks run elsewhere.
fn rcu(target: &Target) -> Check {
    let (id, subject) = ("rt.rcu_nocbs", "RCU callbacks");
    let line = target.root.read("proc/cmdline").unwrap_or_default();
    let of = |key: &str| {
        let value = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key))?;
        match value {
            "all" => Some(target.cpus.clone()),
            value => CpuList::of_kernel(value),
        }
    };
    // nohz_full= implies it (Documentation/admin-guide/kernel-parameters.txt).
    let away = of("rcu_nocbs=").unwrap_or_default();
    let away = away.or(&of("nohz_full=").unwrap_or_default());
    match missing(target, &away) {
        None => Check::ok(id, subject, format!("not on {away}")),
        Some(missing) => {
            let found = format!("on {missing}: they run after the guest's exits");
            Check::jitter(id, subject, found, boot("rcu_nocbs=", target))
        }
    }
}

/// Interrupts that may come to them.
fn interrupts(target: &Target) -> Check {
    let (id, subject) = ("rt.irqs", "interrupts");
    let root = target.root;
    let mut here = Vec::new();
    for irq in root.list("proc/irq") {
        if native::is_each_cpus_own(root, &irq) {
            continue;
        }
        let read = |file: &str| CpuList::of_kernel(&root.read(&format!("proc/irq/{irq}/{file}"))?);
        // Where it comes, or where it may.
        let effective = read("effective_affinity_list").filter(|list| !list.is_empty());
        let Some(cpus) = effective.or_else(|| read("smp_affinity_list")) else {
            continue;
        };
        if cpus.and(&target.cpus).is_empty() {
            continue;
        }
        // Each action of it is a folder there; without one, nobody waits for it.
        let names = root.list(&format!("proc/irq/{irq}"));
        let name = |name: &&String| root.path(&format!("proc/irq/{irq}/{name}")).is_dir();
        if let Some(name) = names.iter().find(name) {
            here.push((irq, name.clone()));
        }
    }
    if here.is_empty() {
        return Check::ok(id, subject, format!("none comes to {}", target.cpus));
    }
    let name = |(irq, name): &(String, String)| format!("{irq} ({name})");
    let mut names: Vec<_> = here.iter().take(4).map(name).collect();
    if here.len() > names.len() {
        names.push(format!("{} more", here.len() - names.len()));
    }
    let rest = &target.rest;
    let remedy = match rest.is_empty() {
        true => "leave CPUs for them: pin vCPUs to fewer".to_owned(),
        false => {
            let irqs: Vec<_> = here.iter().map(|(irq, _)| irq.as_str()).collect();
            format!(
                "for i in {}; do echo {rest} | sudo tee /proc/irq/$i/smp_affinity_list; done (and stop \
                 irqbalance; what refuses is moved by isolcpus=managed_irq)",
                irqs.join(" ")
            )
        }
    };
    let found = format!("to CPUs {}: {}", target.cpus, names.join(", "));
    Check::jitter(id, subject, found, remedy)
}

/// Where interrupts of devices that come later go.
fn default_interrupts(target: &Target) -> Option<Check> {
    let (id, subject) = ("rt.default_irq", "later interrupts");
    let mask = target.root.read("proc/irq/default_smp_affinity")?;
    let cpus = CpuList::of_mask(&mask)?.and(&target.cpus);
    if cpus.is_empty() {
        return Some(Check::ok(id, subject, format!("not to {}", target.cpus)));
    }
    let found = format!("those of devices that come later may come to {cpus}");
    let remedy = format!(
        "on the host kernel's command line, and reboot: irqaffinity={}",
        target.rest
    );
    let remedy = match target.rest.is_empty() {
        true => "leave CPUs for them: pin vCPUs to fewer".to_owned(),
        false => remedy,
    };
    Some(Check::jitter(id, subject, found, remedy))
}
