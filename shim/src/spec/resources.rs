//! `linux.resources`: limits of a cgroup of version 2 in the guest.

use mote_agent_protocol::container::Limits;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{Place, SpecError, ignored, list, one_string};

/// A period of processor time where only the quota is said, in microseconds: the kernel's own.
pub const PERIOD: u64 = 100_000;

/// The limits. Not set are:
///
/// - lists of devices (`devices`): the guest has none of the host's, so there is nothing to keep a container from
/// - numbers of the host's processors and NUMA nodes (`cpus`, `mems`), which in a guest are others: how many processors
///   there are in the list counts for the size of the virtual machine
/// - swap: the guest has none, so each limit on it is kept
/// - limits of a guest's first container where the kernel has no controller for it: the virtual machine's size is its
///   limit then, and a warning says so
///
/// # Errors
///
/// There is a limit that can't be kept.
pub fn limits(resources: Option<&LinuxResources>, place: &Place) -> Result<Limits, SpecError> {
    let Some(resources) = resources else {
        return Ok(Limits::default());
    };
    not_there(resources)?;
    let mut limits = Limits::default();
    if let Some(memory) = resources.memory() {
        limits.memory = self::memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        limits.cpu = quota(cpu)?;
        limits.cpu_weight = cpu.shares().filter(|shares| *shares > 0).map(weight);
        other_cpu(cpu)?;
    }
    let pids = resources.pids().as_ref().map(|pids| pids.limit());
    limits.pids = pids.and_then(positive);
    keep("memory", "memory", &mut limits.memory, place)?;
    keep("cpu", "cpu.quota", &mut limits.cpu, place)?;
    keep("cpu", "cpu.shares", &mut limits.cpu_weight, place)?;
    keep("pids", "pids", &mut limits.pids, place)?;
    Ok(limits)
}

/// Drops a limit for which the kernel has no controller, or refuses it.
fn keep<T>(
    controller: &str,
    field: &str,
    limit: &mut Option<T>,
    place: &Place,
) -> Result<(), SpecError> {
    if limit.is_none()
        || place
            .kernel
            .controllers
            .iter()
            .any(|name| name == controller)
    {
        return Ok(());
    }
    let field = format!("linux.resources.{field}");
    if !place.is_first() {
        let why = format!(
            "the guest's kernel has no cgroup controller {controller}; configure one that has"
        );
        return Err(SpecError::refused(field, why));
    }
    let why = format!(
        "the guest's kernel has no cgroup controller {controller}; the virtual machine's size is the limit"
    );
    ignored(&field, &why);
    *limit = None;
    Ok(())
}

/// A number that limits; none, or -1 as in "unlimited", doesn't.
pub fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

fn memory(memory: &LinuxMemory) -> Result<Option<u64>, SpecError> {
    let limit = memory.limit().and_then(positive);
    let wrong = |what: String| Err(SpecError::wrong("linux.resources.memory.swap", what));
    match (memory.swap().and_then(positive), limit) {
        (Some(_), None) => {
            return wrong("is together with the memory, so memory.limit must be there".to_owned());
        }
        (Some(both), Some(limit)) if both < limit => {
            return wrong(format!(
                "{both}: is together with the memory, and less than memory.limit {limit}"
            ));
        }
        _ => {}
    }
    if memory.disable_oom_killer() == Some(true) {
        let why = "cgroup v2 has no way to do so; leave it out";
        return Err(SpecError::refused(
            "linux.resources.memory.disableOOMKiller",
            why,
        ));
    }
    let some = |number: Option<i64>| number.and_then(positive).is_some();
    for (field, is_there, why) in [
        (
            "reservation",
            some(memory.reservation()),
            "the agent sets hard limits only",
        ),
        (
            "kernel",
            some(memory.kernel()),
            "cgroup v2 counts it as memory",
        ),
        (
            "kernelTCP",
            some(memory.kernel_tcp()),
            "cgroup v2 counts it as memory",
        ),
        (
            "swappiness",
            memory.swappiness().is_some(),
            "the guest has no swap",
        ),
    ] {
        if is_there {
            ignored(&format!("linux.resources.memory.{field}"), why);
        }
    }
    Ok(limit)
}

/// Microseconds of processor time, in each so many.
fn quota(cpu: &LinuxCpu) -> Result<Option<(u64, u64)>, SpecError> {
    let Some(quota) = cpu.quota().and_then(positive) else {
        return Ok(None);
    };
    match cpu.period().filter(|period| *period > 0).unwrap_or(PERIOD) {
        period @ 1_000..=1_000_000 => Ok(Some((quota, period))),
        period => {
            let what = format!("{period}: must be 1000 to 1000000 microseconds");
            Err(SpecError::wrong("linux.resources.cpu.period", what))
        }
    }
}

/// Shares (2 to 262144) as a weight (1 to 10000), as all runtimes reckon it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn other_cpu(cpu: &LinuxCpu) -> Result<(), SpecError> {
    for (field, is_there) in [
        (
            "realtimeRuntime",
            cpu.realtime_runtime().is_some_and(|time| time != 0),
        ),
        (
            "realtimePeriod",
            cpu.realtime_period().is_some_and(|time| time != 0),
        ),
        ("burst", cpu.burst().is_some_and(|burst| burst != 0)),
        ("idle", cpu.idle().is_some_and(|idle| idle != 0)),
    ] {
        if is_there {
            let why = "the agent doesn't set it; leave it out, or say 0";
            return Err(SpecError::refused(
                format!("linux.resources.cpu.{field}"),
                why,
            ));
        }
    }
    for (field, list, why) in [
        (
            "cpus",
            cpu.cpus(),
            "the guest has processors of its own, of which there are as many",
        ),
        ("mems", cpu.mems(), "the guest has memory of its own"),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            let field = format!("linux.resources.cpu.{field}");
            one_string(&field, list)?;
            ignored(&field, why);
        }
    }
    Ok(())
}

/// Refuses what there is no way to do; nothing and zero are no limits.
fn not_there(resources: &LinuxResources) -> Result<(), SpecError> {
    let refused = |field: &str, why: &str| {
        let field = format!("linux.resources.{field}");
        Err(SpecError::refused(field, why))
    };
    if let Some(field) = resources.block_io().as_ref().and_then(block_io) {
        let why = "the guest's drives are not the host's; leave it out";
        return refused(&format!("blockIO.{field}"), why);
    }
    if list(resources.hugepage_limits())
        .iter()
        .any(|limit| limit.limit() != 0)
    {
        return refused(
            "hugepageLimits",
            "the guest has no huge pages set aside; leave it out",
        );
    }
    if let Some(network) = resources.network() {
        if network.class_id().is_some_and(|id| id != 0) {
            return refused("network.classID", "cgroup v2 has none; leave it out");
        }
        if !list(network.priorities()).is_empty() {
            return refused("network.priorities", "cgroup v2 has none; leave it out");
        }
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|rdma| !rdma.is_empty())
    {
        return refused("rdma", "the guest has no RDMA devices; leave it out");
    }
    for name in resources.unified().iter().flatten().map(|(name, _)| name) {
        // Kubernetes has it with each container.
        if name == "memory.oom.group" {
            let why = "when memory is short the kernel kills the process that it chooses, and not all with it";
            ignored("linux.resources.unified.memory.oom.group", why);
            continue;
        }
        return refused(
            &format!("unified.{name}"),
            "the agent doesn't set it; leave it out",
        );
    }
    Ok(())
}

fn block_io(io: &LinuxBlockIo) -> Option<&'static str> {
    let some = |number: Option<u16>| number.is_some_and(|number| number != 0);
    let asked = [
        ("weight", some(io.weight())),
        ("leafWeight", some(io.leaf_weight())),
        ("weightDevice", !list(io.weight_device()).is_empty()),
        (
            "throttleReadBpsDevice",
            !list(io.throttle_read_bps_device()).is_empty(),
        ),
        (
            "throttleWriteBpsDevice",
            !list(io.throttle_write_bps_device()).is_empty(),
        ),
        (
            "throttleReadIOPSDevice",
            !list(io.throttle_read_iops_device()).is_empty(),
        ),
        (
            "throttleWriteIOPSDevice",
            !list(io.throttle_write_iops_device()).is_empty(),
        ),
    ];
    asked
        .into_iter()
        .find(|(_, is_there)| *is_there)
        .map(|(field, _)| field)
}
