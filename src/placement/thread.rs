//! Moving threads: their CPUs and their scheduling policy.

use std::fs;
use std::io;
use std::marker::PhantomData;

use super::{PlacementError, VcpuPlace};
use crate::config::{CPU_NUMBERS, CpuList, Policy};

const WORD: usize = u64::BITS as usize;
const WORDS: usize = CPU_NUMBERS as usize / WORD;

/// The CPUs that the calling thread may run on.
///
/// # Errors
///
/// The host didn't say.
pub fn current() -> Result<CpuList, PlacementError> {
    let mut words = [0u64; WORDS];
    // SAFETY: the array and its size; the call fills what the kernel knows and clears the rest.
    let result =
        unsafe { libc::sched_getaffinity(0, size_of_val(&words), words.as_mut_ptr().cast()) };
    if result != 0 {
        return Err(PlacementError::Mask(io::Error::last_os_error()));
    }
    let set = |cpu: &u16| words[usize::from(*cpu) / WORD] >> (usize::from(*cpu) % WORD) & 1 == 1;
    Ok((0..CPU_NUMBERS).filter(set).collect())
}

/// Moves the calling thread to these CPUs. Threads that it starts from now on are there, too.
///
/// # Errors
///
/// None of them is there any more, or for this process.
pub fn move_to(cpus: &CpuList) -> Result<(), PlacementError> {
    let mut words = [0u64; WORDS];
    for cpu in cpus.iter().map(usize::from) {
        words[cpu / WORD] |= 1 << (cpu % WORD);
    }
    // SAFETY: the array and its size.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&words), words.as_ptr().cast()) };
    match result {
        0 => Ok(()),
        _ => Err(PlacementError::Affinity {
            cpus: cpus.clone(),
            source: io::Error::last_os_error(),
        }),
    }
}

/// The calling thread elsewhere, until this is dropped.
#[derive(Debug)]
pub struct Moved {
    back: CpuList,
    /// It is about the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl Moved {
    /// Moves the calling thread to these CPUs.
    ///
    /// # Errors
    ///
    /// As for [`move_to`].
    pub fn to(cpus: &CpuList) -> Result<Self, PlacementError> {
        let back = current()?;
        move_to(cpus)?;
        Ok(Moved {
            back,
            _not_send: PhantomData,
        })
    }

    /// Where it comes from.
    pub fn back(&self) -> &CpuList {
        &self.back
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.back) {
            log::warn!("{error}");
        }
    }
}

/// Makes the calling thread that of a vCPU: on `place`'s CPUs, or else on `own`, with its policy.
///
/// # Errors
///
/// The host refused.
pub fn become_vcpu(vcpu: u8, place: &VcpuPlace, own: &CpuList) -> Result<(), PlacementError> {
    move_to(place.cpus.as_ref().unwrap_or(own))?;
    set_policy(vcpu, place.policy)
}

fn set_policy(vcpu: u8, policy: Policy) -> Result<(), PlacementError> {
    let (number, priority) = match policy {
        Policy::Other => return Ok(()),
        Policy::Fifo(priority) => (libc::SCHED_FIFO, priority),
        Policy::RoundRobin(priority) => (libc::SCHED_RR, priority),
    };
    let param = libc::sched_param {
        sched_priority: priority.into(),
    };
    // Threads that a real-time one starts are ordinary ones.
    let number = number | libc::SCHED_RESET_ON_FORK;
    // SAFETY: a valid parameter, for the calling thread.
    if unsafe { libc::sched_setscheduler(0, number, &raw const param) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let problem = match error.raw_os_error() {
        Some(libc::EPERM) => not_permitted(priority),
        _ => format!("the host refused (sched_setscheduler): {error}"),
    };
    Err(PlacementError::Policy {
        vcpu,
        policy,
        problem,
    })
}

/// Why EPERM: a privilege is missing, or the process's cgroup has no real-time share.
fn not_permitted(priority: u8) -> String {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place for the answer.
    unsafe { libc::getrlimit(libc::RLIMIT_RTPRIO, &raw mut limit) };
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let cgroups = fs::read_to_string("/proc/thread-self/cgroup").unwrap_or_default();
    if limit.rlim_cur >= priority.into() || has_sys_nice(&status) {
        return format!(
            "the host refused (EPERM), although the privilege is there: the cpu cgroup of this process \
             ({}) has no real-time share (RT_GROUP_SCHED). Move it to the root cpu cgroup, or write one to \
             cpu.rt_runtime_us there",
            cpu_cgroup(&cgroups)
        );
    }
    format!(
        "the host refused (EPERM): a real-time policy needs CAP_SYS_NICE, or a limit of at least {priority} \
         for real-time priorities (RLIMIT_RTPRIO is {}: ulimit -r {priority}, or rtprio in \
         /etc/security/limits.conf)",
        limit.rlim_cur
    )
}

/// Whether CAP_SYS_NICE (23) is among the effective capabilities in proc/PID/status.
fn has_sys_nice(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> 23 & 1 == 1)
}

/// The path of the cpu cgroup in /proc/PID/cgroup: of cgroup v1's cpu controller, or else v2's.
fn cpu_cgroup(cgroups: &str) -> &str {
    let entries = || {
        cgroups.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        })
    };
    let v1 = entries().find(|(controllers, _)| controllers.split(',').any(|name| name == "cpu"));
    let found = v1.or_else(|| entries().find(|(controllers, _)| controllers.is_empty()));
    found.map_or("unknown", |(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn one(list: &CpuList) -> CpuList {
        list.iter().take(1).collect()
    }

    #[test]
    fn a_thread_is_moved_and_comes_back() {
        // A thread of its own: the others of this program stay where they are.
        let test = || {
            let all = current().unwrap();
            {
                let moved = Moved::to(&one(&all)).unwrap();
                assert_eq!(moved.back(), &all);
                assert_eq!(current().unwrap(), one(&all));
                let child = thread::spawn(|| current().unwrap()).join().unwrap();
                assert_eq!(child, one(&all), "threads inherit it");
            }
            assert_eq!(current().unwrap(), all);
        };
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn cpus_that_are_not_there_are_an_error_that_names_them() {
        let error = move_to(&[8191].into_iter().collect()).unwrap_err();
        assert!(error.to_string().contains("CPUs 8191"), "{error}");
    }

    #[test]
    fn a_missing_privilege_is_told_from_a_cgroup_without_a_share() {
        let status = |mask: &str| format!("Name:\tx\nCapEff:\t{mask}\n");
        assert!(has_sys_nice(&status("000001ffffffffff")));
        assert!(!has_sys_nice(&status("00000000a80425fb")));
        assert!(!has_sys_nice("nonsense"));
        let v1 = "3:cpuset:/\n4:cpu,cpuacct:/user.slice\n0::/unified\n";
        assert_eq!(cpu_cgroup(v1), "/user.slice");
        assert_eq!(cpu_cgroup("0::/a:b\n"), "/a:b");
        assert_eq!(cpu_cgroup(""), "unknown");
    }
}
