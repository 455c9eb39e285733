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
mod tests {
    use super::super::HostNode;
    use super::*;

    fn list(text: &str) -> CpuList {
        CpuList::of_kernel(text).unwrap()
    }

    /// Four CPUs on two nodes, of which this process may use all but CPU 0, and a node of memory only.
    fn host() -> HostCpus {
        let node = |id, cpus, has_memory| HostNode {
            id,
            cpus: list(cpus),
            has_memory,
        };
        HostCpus {
            online: list("0-3"),
            allowed: list("1-3"),
            nodes: vec![
                node(0, "0-1", true),
                node(1, "2-3", true),
                node(2, "", true),
                node(4, "", false),
            ],
            allowed_nodes: list("0-2,4"),
            rt_runtime: Some(950_000),
            ..HostCpus::default()
        }
    }

    fn plan(toml: &str) -> Result<Plan, String> {
        let text = format!("cpus = 2\nmemory = \"1G\"\n[boot]\nkernel = \"k\"\n{toml}");
        let config: VmConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap();
        Plan::new(&config, &host()).map_err(|e| e.to_string())
    }

    fn cpus(plan: &Plan) -> Vec<Option<String>> {
        let text = |place: &VcpuPlace| place.cpus.as_ref().map(CpuList::to_string);
        plan.vcpus.iter().map(text).collect()
    }

    #[test]
    fn nothing_asked_for_is_no_plan() {
        assert_eq!(Plan::of(&VmConfig::default()).unwrap(), None);
    }

    #[test]
    fn pins_and_the_others_cpus_are_what_was_asked_for() {
        let plan =
            plan("[placement]\npin = \"1=2-3\"\nio-cpus = \"1\"\nsched = \"1=rr:3\"").unwrap();
        assert_eq!(cpus(&plan), [None, Some("2-3".to_owned())]);
        assert_eq!(plan.vcpus[1].policy, Policy::RoundRobin(3));
        assert_eq!(plan.io, Some(list("1")));
        assert!(plan.memory.is_empty() && plan.warnings.is_empty());
    }

    #[test]
    fn cpus_that_are_not_there_or_not_ours_are_refused() {
        let error = |toml: &str| plan(&format!("[placement]\n{toml}")).unwrap_err();
        assert_eq!(
            error("pin = \"0=2,1=4\""),
            "--pin 0=2,1=4: CPU 4 is not online on this host; 0-3 are"
        );
        assert_eq!(
            error("pin = \"0=0-1\""),
            "--pin 0=0-1: CPU 0 is not among those that this process may use (1-3): choose of these, or \
             change its cpuset or taskset"
        );
        assert!(error("io-cpus = \"3-5\"").starts_with("--io-cpus 3-5: CPUs 4-5 are not online"));
        assert!(error("io-cpus = \"0\"").contains("may use (1-3)"));
    }

    #[test]
    fn a_node_gives_its_memory_and_its_cpus() {
        let plan = |more: &str| plan(&format!("[placement]\nnuma-node = 1\n{more}")).unwrap();
        let whole = NodeMemory {
            bytes: 1 << 30,
            host_node: Some(1),
        };
        let all = plan("");
        assert_eq!(cpus(&all), [Some("2-3".to_owned()), Some("2-3".to_owned())]);
        assert_eq!((all.io, all.memory), (Some(list("2-3")), vec![whole]));
        let pinned = plan("pin = \"0=1\"\nio-cpus = \"1\"");
        assert_eq!(
            cpus(&pinned),
            [Some("1".to_owned()), Some("2-3".to_owned())]
        );
        assert_eq!(pinned.io, Some(list("1")));
    }

    #[test]
    fn nodes_without_what_is_needed_are_refused_by_name() {
        let error = |toml: &str| plan(&format!("[placement]\n{toml}")).unwrap_err();
        assert_eq!(
            error("numa-node = 3"),
            "--numa-node=3: no such node is online; this host has 0-2,4"
        );
        assert_eq!(
            error("numa-node = 4"),
            "--numa-node=4: this node of the host has no memory; those with some: 0-2"
        );
        let error = error("numa-node = 2\npin = \"0=1\"");
        assert!(
            error.contains("none of this node's CPUs (it has none); give others by --pin"),
            "{error}"
        );
        assert!(plan("[placement]\nnuma-node = 2\npin = \"1-2\"\nio-cpus = \"3\"").is_ok());
        let mut host = host();
        host.allowed_nodes = list("0");
        let mut config = VmConfig::default();
        config.placement.numa_node = Some(1);
        let error = Plan::new(&config, &host).unwrap_err().to_string();
        assert!(
            error.contains("cpuset of this process, which has 0"),
            "{error}"
        );
        host.nodes.clear();
        let error = Plan::new(&config, &host).unwrap_err().to_string();
        assert!(error.contains("no NUMA nodes"), "{error}");
    }

    #[test]
    fn each_guest_node_is_on_its_own_host_node() {
        let nodes = |first: &str, second: &str| {
            format!(
                "[[numa]]\nnode = 1\ncpus = \"0\"\nmemory = \"768M\"\n{first}\n[[numa]]\nnode = 0\ncpus = \
                 \"1\"\nmemory = \"256M\"\n{second}\n"
            )
        };
        let both = plan(&nodes("host-node = 1", "host-node = 0")).unwrap();
        assert_eq!(cpus(&both), [Some("2-3".to_owned()), Some("1".to_owned())]);
        let part = |mib: u64, host_node| NodeMemory {
            bytes: mib << 20,
            host_node,
        };
        assert_eq!(both.memory, [part(256, Some(0)), part(768, Some(1))]);
        assert_eq!(both.io, None);
        let one = plan(&nodes("host-node = 1", "")).unwrap();
        assert_eq!(one.memory, [part(256, None), part(768, Some(1))]);
        assert_eq!(cpus(&one), [Some("2-3".to_owned()), None]);
        let none = plan(&nodes("", "")).unwrap();
        assert!(none.memory.is_empty());
        let error = plan(&nodes("host-node = 9", "")).unwrap_err();
        assert!(
            error.starts_with("--numa host-node=9: no such node"),
            "{error}"
        );
    }

    #[test]
    fn a_real_time_vcpu_that_would_starve_the_rest_is_refused() {
        let error =
            plan("[placement]\npin = \"0=1\"\nio-cpus = \"1\"\nsched = \"0=fifo:1\"").unwrap_err();
        assert!(
            error.contains("mote's other threads (1)") && error.contains("--io-cpus 2-3"),
            "{error}"
        );
        let forced =
            plan("[placement]\npin = \"0=1\"\nio-cpus = \"1\"\nsched = \"0=fifo:1,force\"")
                .unwrap();
        assert_eq!(forced.warnings.len(), 1);
    }
}
