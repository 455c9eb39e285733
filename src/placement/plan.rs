//! What the configuration asks for, held against what the host has.

use std::path::Path;

use super::starvation::{self, Runner};
use super::{HostCpus, PlacementError};
use crate::config::{CpuList, NumaNode, Policy, VmConfig};

/// Where one vCPU thread is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuPlace {
    /// Its CPUs, if it isn't to have those of the thread that runs the VM.
    pub cpus: Option<CpuList>,
    /// How it is scheduled.
    pub policy: Policy,
}

/// A part of guest RAM, in the order of its addresses, and the host's node that it is to be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMemory {
    /// The length in bytes.
    pub bytes: u64,
    /// The node, if it is to be on one.
    pub host_node: Option<u16>,
}

/// Where all threads and all memory of a VM are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By the vCPU's number.
    pub vcpus: Vec<VcpuPlace>,
    /// The CPUs of all other threads, if they are to be moved.
    pub io: Option<CpuList>,
    /// Guest RAM from its lowest address on; empty where none is bound to a node.
    pub memory: Vec<NodeMemory>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Makes the plan for a valid configuration on the host of this process; `None` where nothing is
    /// asked for, and then nothing is read.
    ///
    /// # Errors
    ///
    /// What was asked for isn't there, or would starve the VM or the host.
    pub fn of(config: &VmConfig) -> Result<Option<Self>, PlacementError> {
        let bound = config.numa.iter().any(|node| node.host_node.is_some());
        if config.placement.is_default() && !bound {
            return Ok(None);
        }
        Plan::new(config, &HostCpus::read(Path::new("/"))).map(Some)
    }

    /// Makes the plan for a valid configuration on `host`.
    ///
    /// # Errors
    ///
    /// As for [`Plan::of`].
    pub fn new(config: &VmConfig, host: &HostCpus) -> Result<Self, PlacementError> {
        let asked = &config.placement;
        if let Some(pin) = &asked.pin {
            for (_, cpus) in pin.iter() {
                usable("--pin", pin, cpus, host)?;
            }
        }
        if let Some(cpus) = &asked.io_cpus {
            usable("--io-cpus", cpus, cpus, host)?;
        }
        let numa_node = asked.numa_node.map(|node| ("--numa-node", node));
        let node_of = |node: &NumaNode| {
            let own = node.host_node.map(|node| ("--numa host-node", node));
            own.or(numa_node)
        };
        for (option, node) in config.numa.iter().filter_map(node_of).chain(numa_node) {
            has_memory(option, node, host)?;
        }

        let mut vcpus = Vec::with_capacity(config.cpus.0.into());
        for id in 0..config.cpus.0 {
            let pinned = asked.pin.as_ref().and_then(|pin| pin.of(id));
            let guest_node = config.numa.iter().find(|node| node.has_cpu(id));
            let node = guest_node.map_or(numa_node, node_of);
            let cpus = match (pinned, node) {
                (Some(cpus), _) => Some(cpus.clone()),
                (None, Some((option, node))) => Some(cpus_of(option, node, host, "--pin")?),
                (None, None) => None,
            };
            let policy = asked.policy(id);
            vcpus.push(VcpuPlace { cpus, policy });
        }
        let io = match (&asked.io_cpus, numa_node) {
            (Some(cpus), _) => Some(cpus.clone()),
            (None, Some((option, node))) => Some(cpus_of(option, node, host, "--io-cpus")?),
            (None, None) => None,
        };

        let runners: Vec<_> = vcpus
            .iter()
            .zip(0..)
            .map(|(place, vcpu)| Runner {
                vcpu,
                cpus: place.cpus.clone().unwrap_or_else(|| host.allowed.clone()),
                policy: place.policy,
            })
            .collect();
        let force = asked.sched.as_ref().is_some_and(|sched| sched.force);
        let others = io.as_ref().unwrap_or(&host.allowed);
        let warnings = starvation::check(&runners, others, host, force)?;
        let mut memory: Vec<_> = NumaNode::in_order(&config.numa)
            .map(|node| NodeMemory {
                bytes: node.memory.bytes(),
                host_node: node_of(node).map(|(_, node)| node),
            })
            .collect();
        if let (true, Some((_, node))) = (memory.is_empty(), numa_node) {
            memory.push(NodeMemory {
                bytes: config.memory.size.bytes(),
                host_node: Some(node),
            });
        }
        memory = match memory.iter().any(|part| part.host_node.is_some()) {
            true => memory,
            false => Vec::new(),
        };
        Ok(Plan {
            vcpus,
            io,
            memory,
            warnings,
        })
    }
}

/// Refuses CPUs that don't run, or that this process may not use.
fn usable(
    option: &'static str,
    asked: &dyn std::fmt::Display,
    cpus: &CpuList,
    host: &HostCpus,
) -> Result<(), PlacementError> {
    let wrong = |problem| {
        let asked = asked.to_string();
        Err(PlacementError::Cpus {
            option,
            asked,
            problem,
        })
    };
    let many = |cpus: &CpuList| match cpus.len() {
        1 => format!("CPU {cpus} is"),
        _ => format!("CPUs {cpus} are"),
    };
    let off = cpus.without(&host.online);
    if !off.is_empty() {
        return wrong(format!(
            "{} not online on this host; {} {}",
            many(&off),
            host.online,
            if host.online.len() == 1 { "is" } else { "are" }
        ));
    }
    let foreign = cpus.without(&host.allowed);
    if !foreign.is_empty() {
        return wrong(format!(
            "{} not among those that this process may use ({}): choose of these, or change its cpuset \
             or taskset",
            many(&foreign),
            host.allowed
        ));
    }
    Ok(())
}

/// Refuses a node with no memory for this process.
fn has_memory(option: &'static str, node: u16, host: &HostCpus) -> Result<(), PlacementError> {
    let wrong = |problem| {
        Err(PlacementError::Node {
            option,
            node,
            problem,
        })
    };
    if host.nodes.is_empty() {
        return wrong(
            "this host's kernel shows no NUMA nodes (/sys/devices/system/node); leave it out"
                .to_owned(),
        );
    }
    let with_memory = |list: &CpuList| -> CpuList {
        let nodes = host.nodes.iter().filter(|node| node.has_memory);
        nodes
            .map(|node| node.id)
            .filter(|id| list.contains(*id))
            .collect()
    };
    let online: CpuList = host.nodes.iter().map(|node| node.id).collect();
    let good = with_memory(&host.allowed_nodes);
    match host.nodes.iter().find(|other| other.id == node) {
        None => wrong(format!("no such node is online; this host has {online}")),
        Some(found) if !found.has_memory => wrong(format!(
            "this node of the host has no memory; those with some: {good}"
        )),
        Some(_) if !host.allowed_nodes.contains(node) => wrong(format!(
            "this node's memory is not in the cpuset of this process, which has {}",
            host.allowed_nodes
        )),
        Some(_) => Ok(()),
    }
}

/// The CPUs of a node that this process may use; `instead` is the option by which others can be given.
fn cpus_of(
    option: &'static str,
    node: u16,
    host: &HostCpus,
    instead: &str,
) -> Result<CpuList, PlacementError> {
    let own = host.nodes.iter().find(|other| other.id == node);
    let own = own.map(|node| node.cpus.clone()).unwrap_or_default();
    let cpus = own.and(&host.allowed);
    if cpus.is_empty() {
        let problem = format!(
            "this process may use none of this node's CPUs ({}); give others by {instead}",
            if own.is_empty() {
                "it has none".to_owned()
            } else {
                own.to_string()
            }
        );
        return Err(PlacementError::Node {
            option,
            node,
            problem,
        });
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests;
