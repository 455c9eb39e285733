//! What the guest's kernel starts with: its command line, its initrd and its randomness (/chosen), and its
//! memory with the distances between its nodes.

use std::io;

use vm_fdt::FdtWriter;

use super::{Description, FdtError, Range, reg};
use crate::config::NumaNode;

/// What Linux's generator of random numbers is seeded with, in bytes: the size of its own key
/// (drivers/char/random.c).
const SEED: usize = 32;

/// DTSpec §3.6, and for the rest chosen.yaml of dt-schema, which Linux reads in drivers/of/fdt.c. The kernel
/// overwrites both seeds in the tree when it has read them.
pub fn chosen(fdt: &mut FdtWriter, description: &Description) -> Result<(), FdtError> {
    let random = random()?;
    let (seed, kaslr) = random.split_at(SEED);
    let node = fdt.begin_node("chosen")?;
    fdt.property("bootargs", description.cmdline.to_bytes_with_nul())?;
    if let Some(initrd) = description.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start.0)?;
        fdt.property_u64("linux,initrd-end", initrd.start.0 + initrd.size)?;
    }
    fdt.property("rng-seed", seed)?;
    fdt.property("kaslr-seed", kaslr)?;
    if description.serial.is_some() {
        fdt.property_string("stdout-path", "serial0:115200n8")?;
    }
    fdt.end_node(node)?;
    Ok(())
}

/// As much as the two seeds take.
fn random() -> Result<[u8; SEED + 8], FdtError> {
    let mut bytes = [0; SEED + 8];
    loop {
        // SAFETY: the kernel writes at most `bytes.len()` bytes to `bytes`.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        // Up to 256 bytes come whole, or not at all (getrandom(2)).
        if count == bytes.len() as isize {
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(FdtError::Random(error));
        }
    }
}

/// The nodes of memory (DTSpec §3.4), and how far they are apart where there are several
/// (bindings/numa.txt).
pub fn memory(fdt: &mut FdtWriter, description: &Description) -> Result<(), vm_fdt::Error> {
    let several = description.nodes.len() > 1;
    for (ranges, number) in description.ram.iter().zip(0..) {
        let ranges: Vec<Range> = ranges
            .iter()
            .map(|(start, size)| (start.0, *size))
            .collect();
        let Some((first, _)) = ranges.first() else {
            continue;
        };
        let node = fdt.begin_node(&format!("memory@{first:x}"))?;
        fdt.property_string("device_type", "memory")?;
        reg(fdt, &ranges)?;
        if several {
            fdt.property_u32("numa-node-id", number)?;
        }
        fdt.end_node(node)?;
    }
    if several {
        distances(fdt, description.nodes)?;
    }
    Ok(())
}

/// bindings/numa.txt §3: from, to, and the distance, for each pair.
fn distances(fdt: &mut FdtWriter, nodes: &[NumaNode]) -> Result<(), vm_fdt::Error> {
    let count = nodes.len();
    let mut matrix = Vec::with_capacity(3 * count * count);
    for from in 0..count {
        for to in 0..count {
            let distance = NumaNode::distance(nodes, from, to);
            matrix.extend([from as u32, to as u32, distance.into()]);
        }
    }
    let node = fdt.begin_node("distance-map")?;
    fdt.property_string("compatible", "numa-distance-map-v1")?;
    fdt.property_array_u32("distance-matrix", &matrix)?;
    fdt.end_node(node)
}
