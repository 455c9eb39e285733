//! Where a VM's threads and memory are on the host.
//!
//! A [`Plan`] is made before anything of a VM is: from what the configuration asks for and what
//! [`HostCpus`] has read of the host, by rules that refuse what could not work (`plan`, and
//! `starvation` for real-time threads). [`thread`] carries it out. With nothing asked for there is
//! no plan, nothing is read, and no system call is made.

mod host;
mod plan;
mod starvation;
pub mod thread;

pub use host::{HostCpus, HostNode, KernelThread};
pub use plan::{NodeMemory, Plan, VcpuPlace};

use std::io;

use crate::config::{CpuList, Policy};

/// Why a VM can't be where it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// CPUs that are not there, or not for this process.
    #[error("{option} {asked}: {problem}")]
    Cpus {
        /// The option, such as "--pin".
        option: &'static str,
        /// What it was given.
        asked: String,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// A NUMA node that is not there, or that has no memory.
    #[error("{option}={node}: {problem}")]
    Node {
        /// The option, such as "--numa-node".
        option: &'static str,
        /// The node's number.
        node: u16,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// A real-time vCPU that would starve the VM or the host.
    #[error("--sched: {0}, or add `force` to --sched")]
    Starvation(String),
    /// The host refused to move a thread.
    #[error(
        "moving a thread to CPUs {cpus} (sched_setaffinity): {source}; have they gone offline, or out of this process's cpuset?"
    )]
    Affinity {
        /// Where to.
        cpus: CpuList,
        /// What the system call said.
        source: io::Error,
    },
    /// The host didn't say where a thread is.
    #[error("asking where a thread runs (sched_getaffinity): {0}")]
    Mask(io::Error),
    /// The host refused a policy.
    #[error("--sched {policy} for vCPU {vcpu}: {problem}")]
    Policy {
        /// The vCPU.
        vcpu: u8,
        /// What was asked for.
        policy: Policy,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// Memory could not be bound to a node.
    #[error("binding guest memory to the host's NUMA node {node} (mbind): {source}")]
    Bind {
        /// The node.
        node: u16,
        /// What the system call said.
        source: io::Error,
    },
}

impl PlacementError {
    /// Whether the host refused what should have worked, and not the rules.
    pub fn is_of_host(&self) -> bool {
        match self {
            PlacementError::Cpus { .. }
            | PlacementError::Node { .. }
            | PlacementError::Starvation(_) => false,
            PlacementError::Affinity { .. }
            | PlacementError::Mask(_)
            | PlacementError::Policy { .. }
            | PlacementError::Bind { .. } => true,
        }
    }
}
