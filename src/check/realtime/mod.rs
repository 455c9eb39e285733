//! What of this host would disturb a real-time guest, on the CPUs that it is to have: one [`Check`] per
//! fact, as for the rest, with [`super::Level::Jitter`] for what delays a guest now and then.
//!
//! `isolation`: who else uses these CPUs. `power`: whether they are awake, at full speed and undivided.
//! `kernel`: how the host's kernel preempts and what it does by itself. `memory`: who changes guest
//! memory's page tables.

mod isolation;
mod kernel;
mod memory;
mod power;

use super::{Check, Root};
use crate::config::{CpuList, Pin};

/// What a VM is to be given.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `--pin`
    pub pin: Option<Pin>,
    /// `--io-cpus`
    pub io_cpus: Option<CpuList>,
}

/// What is looked at.
struct Target<'a> {
    root: &'a Root,
    /// The CPUs of vCPUs.
    cpus: CpuList,
    /// Those that are left to everything else.
    rest: CpuList,
}

impl Target<'_> {
    /// The CPUs among these for which `look` finds something, with the first thing found.
    fn where_found(&self, look: impl Fn(u16) -> Option<String>) -> Option<(CpuList, String)> {
        let found: Vec<_> = self
            .cpus
            .iter()
            .filter_map(|cpu| Some((cpu, look(cpu)?)))
            .collect();
        let (_, first) = found.first()?.clone();
        Some((found.into_iter().map(|(cpu, _)| cpu).collect(), first))
    }
}

/// Looks at the host below `root`, for what was asked.
pub fn run(root: &Root, asked: &Asked) -> Vec<Check> {
    let of_kernel = |file: &str| CpuList::of_kernel(&root.read(file)?);
    let online = of_kernel("sys/devices/system/cpu/online").unwrap_or_default();
    let isolated = of_kernel("sys/devices/system/cpu/isolated").unwrap_or_default();
    let pinned = asked.pin.as_ref().map(|pin| {
        let all = |all: CpuList, (_, cpus): (u8, &CpuList)| all.or(cpus);
        pin.iter().fold(CpuList::default(), all)
    });
    let cpus = match &pinned {
        Some(cpus) => cpus.and(&online),
        None if !isolated.is_empty() => isolated,
        None => online.clone(),
    };
    let target = Target {
        root,
        rest: online.without(&cpus),
        cpus,
    };
    let mut checks = vec![
        vcpus(&target, pinned.as_ref(), &online),
        others(&target, asked.io_cpus.as_ref(), pinned.is_some(), &online),
    ];
    // Of CPUs that aren't there, no more can be said.
    if !target.cpus.is_empty() {
        checks.extend(isolation::check(&target));
        checks.extend(power::check(&target));
    }
    checks.extend(kernel::check(&target));
    checks.extend(memory::check(&target));
    checks
}

/// The CPUs that this process may use.
fn allowed(root: &Root) -> Option<CpuList> {
    let status = root.read("proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    CpuList::of_kernel(line)
}

/// Whether the vCPUs' CPUs are there, and for this process.
fn vcpus(target: &Target, pinned: Option<&CpuList>, online: &CpuList) -> Check {
    let (id, subject) = ("rt.vcpu_cpus", "CPUs of vCPUs");
    let Some(pinned) = pinned else {
        let found = format!("not named: CPUs {} are looked at", target.cpus);
        let remedy =
            "pin each vCPU to a CPU of its own: mote check --realtime --pin 2-3 --io-cpus 0-1";
        return Check::jitter(id, subject, found, remedy);
    };
    let off = pinned.without(online);
    if !off.is_empty() {
        let found = format!("{off} of {pinned} are not online ({online} are)");
        let remedy = format!("pin to CPUs that are there, or: sudo chcpu -e {off}");
        return Check::jitter(id, subject, found, remedy);
    }
    let foreign = allowed(target.root).map(|allowed| pinned.without(&allowed));
    if let Some(foreign) = foreign.filter(|foreign| !foreign.is_empty()) {
        let found =
            format!("{foreign} of {pinned} are not for this process (its cpuset, or taskset)");
        let remedy =
            format!("start mote in a cpuset that has them: systemd-run -p AllowedCPUs={online}");
        return Check::jitter(id, subject, found, remedy);
    }
    Check::ok(id, subject, pinned.to_string())
}

/// Whether mote's other threads are kept away from them.
fn others(target: &Target, io: Option<&CpuList>, pinned: bool, online: &CpuList) -> Check {
    let (id, subject) = ("rt.io_cpus", "CPUs of other threads");
    let remedy = match target.rest.is_empty() {
        false => format!("--io-cpus {}", target.rest),
        true if pinned => "leave a CPU to them: pin vCPUs to fewer".to_owned(),
        true => "give them CPUs that no vCPU has: --io-cpus LIST".to_owned(),
    };
    let Some(io) = io else {
        let found = "not named: mote's own threads run anywhere, on vCPUs' CPUs too";
        return Check::jitter(id, subject, found, remedy);
    };
    let shared = io.and(&target.cpus);
    if pinned && !shared.is_empty() {
        let found = format!("{io}: vCPUs have {shared}, too");
        return Check::jitter(id, subject, found, remedy);
    }
    let off = io.without(online);
    if !off.is_empty() {
        let found = format!("{off} of {io} are not online ({online} are)");
        return Check::jitter(id, subject, found, remedy);
    }
    Check::ok(id, subject, io.to_string())
}

#[cfg(test)]
mod tests;
