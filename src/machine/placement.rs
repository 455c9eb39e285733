//! Carries out a [`Plan`]: binds guest memory to nodes of the host, and gives threads their places.

use std::collections::BTreeMap;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::arch::layout;
use crate::config::HugePages;
use crate::memory::{MemoryError, check_node, numa};
use crate::placement::thread::{Moved, current};
use crate::placement::{PlacementError, Plan};
use crate::vcpu::{Gate, Seat};

/// Moves the calling thread to where all threads but vCPUs are, until the result is dropped.
pub fn move_aside(plan: Option<&Plan>) -> Result<Option<Moved>, PlacementError> {
    let io = plan.and_then(|plan| plan.io.as_ref());
    io.map(Moved::to).transpose()
}

/// The seats of the vCPU threads, to be started by the calling thread, which `moved` may have moved.
pub fn seats(plan: &Plan, moved: Option<&Moved>) -> Result<(Gate, Vec<Seat>), PlacementError> {
    let own = match moved {
        Some(moved) => moved.back().clone(),
        None => current()?,
    };
    Ok(Gate::new(&plan.vcpus, &own))
}

/// Binds guest RAM to the host's nodes that it is to be on. Before it is touched, so that nothing has
/// to be moved.
pub fn bind_memory(plan: &Plan, memory: &GuestMemoryMmap<()>) -> Result<(), PlacementError> {
    let sizes: Vec<_> = plan.memory.iter().map(|part| part.bytes).collect();
    for (part, ranges) in plan.memory.iter().zip(layout::split_ram(&sizes)) {
        let Some(node) = part.host_node else { continue };
        for (start, len) in ranges {
            let failed = |source| PlacementError::Bind { node, source };
            let host = host_address(memory, start).map_err(failed)?;
            numa::bind(host..host + len, node).map_err(failed)?;
        }
    }
    Ok(())
}

/// Refuses nodes of the host that have too few huge pages for what is bound to them.
pub fn check_huge_pages(plan: &Plan, pages: HugePages) -> Result<(), MemoryError> {
    let mut nodes: BTreeMap<u16, u64> = BTreeMap::new();
    for part in &plan.memory {
        if let Some(node) = part.host_node {
            *nodes.entry(node).or_default() += part.bytes;
        }
    }
    let mut nodes = nodes.into_iter();
    nodes.try_for_each(|(node, bytes)| check_node(pages, node, bytes))
}

fn host_address(memory: &GuestMemoryMmap<()>, at: GuestAddress) -> std::io::Result<u64> {
    let host = memory.get_host_address(at);
    host.map(|host| host as u64).map_err(std::io::Error::other)
}
