//! /cpus: the vCPUs, who is whose neighbour, and their caches (DTSpec §3.8 and §3.9;
//! bindings/arm/cpus.yaml; bindings/cpu/cpu-topology.txt).

use vm_fdt::{Error, FdtWriter};

use super::Description;
use super::host::{Cache, CacheType};

/// The first vCPU's phandle.
const CPU: u32 = 0x100;
/// Aff3 and Aff2 to Aff0 of MPIDR_EL1 (Arm DDI 0487, D19.2): what `reg` has, and nothing else.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// The phandle of a cache: of each level's caches, from 0 up.
fn cache_phandle(level: u32, number: u32) -> u32 {
    0x1000 * level + number
}

pub fn cpus(fdt: &mut FdtWriter, description: &Description) -> Result<(), Error> {
    let sockets = sockets(description);
    let caches = &description.caches.others;
    let sharing: Vec<_> = caches
        .iter()
        .map(|cache| shared_by(cache, &sockets))
        .collect();
    // From the CPU's own caches to the next ones: the phandle of that of `index`.
    let next = |cpu: usize, index: usize| {
        let number = sharing.get(index)?[cpu];
        Some(cache_phandle(caches[index].level, number))
    };

    let root = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for (cpu, mpidr) in description.cpus.iter().enumerate() {
        let affinity = mpidr & AFFINITY;
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_u64("reg", affinity)?;
        fdt.property_string("enable-method", "psci")?;
        if let Some(capacity) = description.capacities.get(cpu) {
            fdt.property_u32("capacity-dmips-mhz", *capacity)?; // bindings/cpu/cpu-capacity.txt
        }
        if description.nodes.len() > 1 {
            fdt.property_u32("numa-node-id", node_of(description, cpu))?;
        }
        for cache in &description.caches.first {
            let names = match cache.kind {
                CacheType::Instruction => ["i-cache-size", "i-cache-line-size", "i-cache-sets"],
                _ => ["d-cache-size", "d-cache-line-size", "d-cache-sets"],
            };
            sizes(fdt, cache, names)?;
        }
        fdt.property_phandle(CPU + cpu as u32)?;
        if let Some(next) = next(cpu, 0) {
            fdt.property_u32("next-level-cache", next)?;
        }
        fdt.end_node(node)?;
    }
    cpu_map(fdt, &sockets)?;
    for (index, cache) in caches.iter().enumerate() {
        // Each cache once: at the first vCPU that has it.
        let mut known = 0;
        for cpu in sockets.iter().flatten() {
            let number = sharing[index][*cpu];
            if number == known {
                let next = next(*cpu, index + 1);
                cache_node(fdt, cache, number, next)?;
                known += 1;
            }
        }
    }
    fdt.end_node(root)
}

/// The NUMA node of a vCPU.
fn node_of(description: &Description, cpu: usize) -> u32 {
    let node = description
        .nodes
        .iter()
        .find(|node| node.has_cpu(cpu as u8));
    node.map_or(0, |node| node.node.into())
}

/// The vCPUs of each socket: all, or those of each NUMA node that has some.
fn sockets(description: &Description) -> Vec<Vec<usize>> {
    let mut sockets = vec![Vec::new(); description.nodes.len().max(1)];
    for cpu in 0..description.cpus.len() {
        sockets[node_of(description, cpu) as usize].push(cpu);
    }
    sockets.retain(|cpus| !cpus.is_empty());
    sockets
}

/// By vCPU, the number of the cache that it has: neighbours share one, as many as on the host, and none is
/// shared between sockets.
fn shared_by(cache: &Cache, sockets: &[Vec<usize>]) -> Vec<u32> {
    let mut numbers = vec![0; sockets.iter().map(Vec::len).sum()];
    let groups = sockets
        .iter()
        .flat_map(|cpus| cpus.chunks(cache.shared as usize));
    for (group, number) in groups.zip(0..) {
        for cpu in group {
            numbers[*cpu] = number;
        }
    }
    numbers
}

/// Each socket as one cluster of cores. Without a map Linux makes a package of each NUMA node, and of each
/// vCPU's MPIDR nothing.
fn cpu_map(fdt: &mut FdtWriter, sockets: &[Vec<usize>]) -> Result<(), Error> {
    let map = fdt.begin_node("cpu-map")?;
    for (number, cpus) in sockets.iter().enumerate() {
        let socket = fdt.begin_node(&format!("socket{number}"))?;
        let cluster = fdt.begin_node("cluster0")?;
        for (number, cpu) in cpus.iter().enumerate() {
            let core = fdt.begin_node(&format!("core{number}"))?;
            fdt.property_u32("cpu", CPU + *cpu as u32)?;
            fdt.end_node(core)?;
        }
        fdt.end_node(cluster)?;
        fdt.end_node(socket)?;
    }
    fdt.end_node(map)
}

/// DTSpec §3.9. The nodes are beside the CPUs, whether shared or not.
fn cache_node(
    fdt: &mut FdtWriter,
    cache: &Cache,
    number: u32,
    next: Option<u32>,
) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("l{}-cache{number}", cache.level))?;
    fdt.property_string("compatible", "cache")?;
    fdt.property_u32("cache-level", cache.level)?;
    fdt.property_null("cache-unified")?;
    sizes(fdt, cache, ["cache-size", "cache-line-size", "cache-sets"])?;
    fdt.property_phandle(cache_phandle(cache.level, number))?;
    if let Some(next) = next {
        fdt.property_u32("next-level-cache", next)?;
    }
    fdt.end_node(node)
}

/// How large a cache is, under these names.
fn sizes(fdt: &mut FdtWriter, cache: &Cache, names: [&str; 3]) -> Result<(), Error> {
    let values = [Some(cache.size), cache.line, cache.sets];
    for (name, value) in names.into_iter().zip(values) {
        if let Some(value) = value {
            fdt.property_u32(name, value)?;
        }
    }
    Ok(())
}
