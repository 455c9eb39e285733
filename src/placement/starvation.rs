//! Real-time threads run until they wait, and a guest waits when it likes. These rules say who would
//! wait for it meanwhile: what could stop the VM or the host is refused, what could delay is a warning.

use super::{HostCpus, KernelThread, PlacementError};
use crate::config::{CpuList, Policy};

/// A vCPU, where it may run, and how.
pub(super) struct Runner {
    pub vcpu: u8,
    pub cpus: CpuList,
    pub policy: Policy,
}

/// Checks the vCPUs of a VM whose other threads are on `io`; the warnings. With `force`, what would be
/// refused is one of them.
pub(super) fn check(
    runners: &[Runner],
    io: &CpuList,
    host: &HostCpus,
    force: bool,
) -> Result<Vec<String>, PlacementError> {
    let real_time = |runner: &&Runner| runner.policy.priority().is_some();
    let (rt, others): (Vec<&Runner>, Vec<&Runner>) = runners.iter().partition(real_time);
    if rt.is_empty() {
        return Ok(Vec::new());
    }
    let mut warnings = Vec::new();
    let mut refuse = |problem: String| match force {
        true => {
            warnings.push(problem);
            Ok(())
        }
        false => Err(PlacementError::Starvation(problem)),
    };
    let all = union(&rt);
    if let Some((vcpus, cpus)) = crowded(&rt) {
        refuse(format!(
            "the real-time vCPUs {vcpus} have only CPU {cpus} between them, and one that spins keeps the \
             others from ever running; give each a CPU of its own (--pin)"
        ))?;
    }
    let free = host.allowed.without(&all);
    let io_remedy = match free.is_empty() {
        true => "leave a CPU to them (--pin, --io-cpus)".to_owned(),
        false => format!("give them others (--io-cpus {free})"),
    };
    let fills_host = fills(&host.online, &rt);
    if fills_host && host.rt_runtime.is_none() {
        refuse(
            "real-time vCPUs can take every CPU of this host, and real-time throttling is off \
             (kernel.sched_rt_runtime_us=-1): a guest that spins would stop the host for ever; leave a CPU \
             free (--pin)"
                .to_owned(),
        )?;
    }
    if fills(io, &rt) {
        refuse(format!(
            "real-time vCPUs can take every CPU of mote's other threads ({io}), so that a guest that waits \
             for its drives or its console would wait for ever; {io_remedy}"
        ))?;
    } else if !io.and(&all).is_empty() {
        warnings.push(format!(
            "real-time vCPUs and mote's other threads share CPU {}: the latter wait there whenever the \
             guest runs; {io_remedy}",
            io.and(&all)
        ));
    }
    if host.rt_runtime.is_none() && !fills_host {
        warnings.push(format!(
            "real-time throttling is off (kernel.sched_rt_runtime_us=-1): what the kernel does on CPU {all} \
             itself waits for as long as the guest runs; isolate it (mote check --realtime)"
        ));
    } else if fills_host && host.rt_runtime.is_some() {
        warnings.push(
            "real-time vCPUs can take every CPU of this host; only real-time throttling \
             (kernel.sched_rt_runtime_us) or the kernel's fair server leaves others some time"
                .to_owned(),
        );
    }
    for runner in others.iter().filter(|runner| fills(&runner.cpus, &rt)) {
        warnings.push(format!(
            "vCPU {} is not real-time and has no CPU ({}) that real-time vCPUs can't take: it may never \
             run; pin it elsewhere (--pin)",
            runner.vcpu, runner.cpus
        ));
    }
    warnings.extend(above_the_kernel(&rt, &host.kernel_threads()));
    Ok(warnings)
}

fn union(runners: &[&Runner]) -> CpuList {
    runners
        .iter()
        .fold(CpuList::default(), |all, runner| all.or(&runner.cpus))
}

/// Whether `runners` can be on every CPU of `cpus` at the same time, and so leave none to others.
fn fills(cpus: &CpuList, runners: &[&Runner]) -> bool {
    !cpus.is_empty() && seats(runners, Some(cpus)) == cpus.len()
}

/// The runners that can't all run at the same time, if it is so, and the CPUs that they have.
fn crowded(runners: &[&Runner]) -> Option<(String, CpuList)> {
    if seats(runners, None) == runners.len() {
        return None;
    }
    // The fewest that show it: those that one after another are too many for their CPUs.
    let names = |runners: &[&Runner]| {
        let names: Vec<_> = runners.iter().map(|r| r.vcpu.to_string()).collect();
        (names.join(", "), union(runners))
    };
    for runner in runners {
        let within = |other: &&&Runner| other.cpus.without(&runner.cpus).is_empty();
        let group: Vec<_> = runners.iter().filter(within).copied().collect();
        if group.len() > runner.cpus.len() {
            return Some(names(&group));
        }
    }
    Some(names(runners))
}

/// How many of `runners` can run at the same time, each on a CPU of its own, of those in `within`:
/// the size of a maximum matching (augmenting paths).
fn seats(runners: &[&Runner], within: Option<&CpuList>) -> usize {
    fn seat(
        index: usize,
        choices: &[Vec<u16>],
        taken: &mut Vec<(u16, usize)>,
        tried: &mut Vec<u16>,
    ) -> bool {
        for &cpu in &choices[index] {
            if tried.contains(&cpu) {
                continue;
            }
            tried.push(cpu);
            let holder = taken.iter().position(|(taken, _)| *taken == cpu);
            let free = match holder {
                None => true,
                Some(at) => {
                    let other = taken[at].1;
                    seat(other, choices, taken, tried)
                }
            };
            if free {
                taken.retain(|(taken, _)| *taken != cpu);
                taken.push((cpu, index));
                return true;
            }
        }
        false
    }
    let choices: Vec<Vec<u16>> = runners
        .iter()
        .map(|runner| match within {
            Some(within) => runner.cpus.and(within).iter().collect(),
            None => runner.cpus.iter().collect(),
        })
        .collect();
    let mut taken = Vec::new();
    (0..choices.len())
        .filter(|&index| seat(index, &choices, &mut taken, &mut Vec::new()))
        .count()
}

/// The warning about the kernel's own threads that a vCPU goes before.
fn above_the_kernel(rt: &[&Runner], threads: &[KernelThread]) -> Option<String> {
    let goes_before = |thread: &&KernelThread| {
        // These are in a class above all others (the stop class), whatever `ps` says.
        let stop = thread.name.starts_with("migration/");
        let by = |runner: &&Runner| {
            let same_cpu = !runner.cpus.and(&thread.cpus).is_empty();
            same_cpu
                && runner
                    .policy
                    .priority()
                    .is_some_and(|p| p >= thread.priority)
        };
        !stop && rt.iter().any(by)
    };
    let before: Vec<_> = threads.iter().filter(goes_before).collect();
    let highest = rt
        .iter()
        .filter_map(|runner| runner.policy.priority())
        .max()?;
    if before.is_empty() {
        return None;
    }
    let name = |thread: &&KernelThread| format!("{} ({})", thread.name, thread.priority);
    let mut names: Vec<_> = before.iter().take(3).map(name).collect();
    if before.len() > names.len() {
        names.push(format!("{} more", before.len() - names.len()));
    }
    let lowest = before.iter().map(|thread| thread.priority).min()?;
    let remedy = match lowest {
        0 | 1 => "move them to other CPUs".to_owned(),
        lowest => format!("a priority below {lowest} is enough where nothing else is real-time"),
    };
    Some(format!(
        "priority {highest} is not below that of the host kernel's own threads {} on the same CPUs, which \
         wait for the guest; {remedy}",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests;
