//! Whether the vCPUs' CPUs are awake, at full speed, and not shared with a sibling.

use super::{Check, Target};
use crate::config::CpuList;

/// The longest way out of a sleep state, in microseconds, that is not worth a word: as long as a
/// halted vCPU's wake-up takes anyway.
const WAKE_UP: u64 = 10;

pub(super) fn check(target: &Target) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(sleep(target));
    checks.extend(governor(target));
    checks.extend(siblings(target));
    checks
}

/// Sleep states from which the way back is long.
fn sleep(target: &Target) -> Option<Check> {
    let (id, subject) = ("rt.cstates", "sleep states");
    let root = target.root;
    let folder = |cpu: u16| format!("sys/devices/system/cpu/cpu{cpu}/cpuidle");
    if !target.cpus.iter().any(|cpu| root.has(&folder(cpu))) {
        return None;
    }
    // Somebody may hold the whole host to a latency (Documentation/power/pm_qos_interface.rst).
    let allowed = std::fs::read(root.path("dev/cpu_dma_latency")).ok();
    let allowed =
        allowed.and_then(|bytes| Some(i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?)));
    let allowed = allowed
        .and_then(|us| u64::try_from(us).ok())
        .unwrap_or(u64::MAX);
    let deepest = |cpu: u16| {
        let limit = root.read(&format!(
            "sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us"
        ));
        let limit = match limit.as_deref() {
            Some("n/a") => 0,
            Some(text) => text.parse().ok().filter(|us| *us != 0).unwrap_or(u64::MAX),
            None => u64::MAX,
        };
        let states = root.list(&folder(cpu)).into_iter().filter_map(|state| {
            let file = |name: &str| format!("{}/{state}/{name}", folder(cpu));
            let latency = root.number(&file("latency"))?;
            let on = root.read(&file("disable")).as_deref() != Some("1");
            let used = on && latency <= limit && latency <= allowed;
            used.then(|| (latency, root.read(&file("name")).unwrap_or_default()))
        });
        let (latency, name) = states.max()?;
        (latency > WAKE_UP).then(|| format!("{name}, {latency} us"))
    };
    Some(match target.where_found(deepest) {
        None => Check::ok(id, subject, format!("out of each within {WAKE_UP} us")),
        Some((cpus, state)) => Check::jitter(
            id,
            subject,
            format!("CPUs {cpus} go as deep as {state} to wake up again"),
            format!(
                "for c in {}; do echo n/a | sudo tee \
                 /sys/devices/system/cpu/cpu$c/power/pm_qos_resume_latency_us; done (or cpuidle.off=1 on \
                 the host kernel's command line)",
                words(&cpus)
            ),
        ),
    })
}

/// Frequency governors that wait for load.
fn governor(target: &Target) -> Option<Check> {
    let (id, subject) = ("rt.governor", "frequency governor");
    let read = |cpu: u16| {
        let file = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        target.root.read(&file)
    };
    if !target.cpus.iter().any(|cpu| read(cpu).is_some()) {
        return None;
    }
    let slow = |cpu: u16| read(cpu).filter(|governor| governor != "performance");
    Some(match target.where_found(slow) {
        None => Check::ok(id, subject, "performance"),
        Some((cpus, governor)) => Check::jitter(
            id,
            subject,
            format!("{governor} on CPUs {cpus}: their clock follows the load"),
            format!(
                "for c in {}; do echo performance | sudo tee \
                 /sys/devices/system/cpu/cpu$c/cpufreq/scaling_governor; done",
                words(&cpus)
            ),
        ),
    })
}

/// Hyper-threads that share a core with a vCPU's CPU.
fn siblings(target: &Target) -> Option<Check> {
    let (id, subject) = ("rt.smt", "SMT siblings");
    let of = |cpu: u16| {
        let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let list = CpuList::of_kernel(&target.root.read(&file)?)?;
        Some(list.without(&[cpu].into_iter().collect()))
    };
    if !target.cpus.iter().any(|cpu| of(cpu).is_some()) {
        return None;
    }
    let all = target.cpus.iter().filter_map(of);
    let all = all.fold(CpuList::default(), |all, list| all.or(&list));
    if all.is_empty() {
        return Some(Check::ok(id, subject, "none: each CPU is a core"));
    }
    let (found, off) = match all.without(&target.cpus) {
        others if others.is_empty() => (
            format!(
                "CPUs {all} share cores with each other: two vCPUs take from each other's speed"
            ),
            all.iter().skip(all.len() / 2).collect(),
        ),
        others => (
            format!("CPUs {others} share cores with vCPUs: what runs there takes from their speed"),
            others,
        ),
    };
    let remedy = format!("sudo chcpu -d {off} (or nosmt on the host kernel's command line)");
    Some(Check::jitter(id, subject, found, remedy))
}

/// For a shell's loop.
fn words(cpus: &CpuList) -> String {
    let words: Vec<_> = cpus.iter().map(|cpu| cpu.to_string()).collect();
    words.join(" ")
}
