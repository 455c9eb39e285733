//! What a container uses, as containerd's metrics have it (io.containerd.cgroups.v2.Metrics).

use containerd_shim::protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryStat, Metrics, PidsStat,
};
use mote_agent_protocol::message::Stats;

/// The guest's figures. There is one drive in them: all of the container's.
pub fn metrics(stats: &Stats) -> Metrics {
    let [usage, user, system] = stats.cpu;
    let [read, written] = stats.io;
    let pids = PidsStat {
        current: stats.pids,
        limit: stats.pids_limit,
        ..PidsStat::default()
    };
    let cpu = CPUStat {
        usage_usec: usage,
        user_usec: user,
        system_usec: system,
        ..CPUStat::default()
    };
    let memory = MemoryStat {
        usage: stats.memory,
        usage_limit: stats.memory_limit,
        ..MemoryStat::default()
    };
    let entry = IOEntry {
        rbytes: read,
        wbytes: written,
        ..IOEntry::default()
    };
    let io = IOStat {
        usage: vec![entry],
        ..IOStat::default()
    };
    Metrics {
        pids: Some(pids).into(),
        cpu: Some(cpu).into(),
        memory: Some(memory).into(),
        io: Some(io).into(),
        ..Metrics::default()
    }
}
