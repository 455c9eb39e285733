//! The guest's NUMA nodes as ACPI tells them: which CPUs and which memory are in which (SRAT, ACPI 6.5
//! §5.2.16), and how far the nodes are apart (SLIT, §5.2.17).

use acpi_tables::sdt::Sdt;

use super::acpi::{OEM_ID, OEM_REVISION, OEM_TABLE};
use super::layout;
use crate::config::NumaNode;

/// The types of structures in an SRAT.
const LOCAL_APIC: u8 = 0;
const MEMORY: u8 = 1;
/// In the flags of both.
const ENABLED: u32 = 1;

/// Which node each CPU and each range of RAM is in.
pub fn srat(cpus: u8, nodes: &[NumaNode]) -> Sdt {
    let mut srat = Sdt::new(*b"SRAT", 36, 3, OEM_ID, OEM_TABLE, OEM_REVISION);
    srat.append_slice(&1u32.to_le_bytes()); // reserved, 1 for older systems
    srat.append_slice(&[0; 8]);
    for id in 0..cpus {
        let node = nodes.iter().find(|node| node.has_cpu(id));
        let node = node.map_or(0, |node| u32::from(node.node)).to_le_bytes();
        // §5.2.16.1: the domain's lowest byte and its higher ones are apart.
        srat.append_slice(&[LOCAL_APIC, 16, node[0], id]);
        srat.append_slice(&ENABLED.to_le_bytes());
        srat.append_slice(&[0, node[1], node[2], node[3]]);
        srat.append_slice(&[0; 4]); // clock domain
    }
    let sizes: Vec<_> = NumaNode::in_order(nodes)
        .map(|node| node.memory.bytes())
        .collect();
    for (ranges, node) in layout::split_ram(&sizes).iter().zip(0u32..) {
        for (start, len) in ranges {
            srat.append_slice(&[MEMORY, 40]);
            srat.append_slice(&node.to_le_bytes());
            srat.append_slice(&[0; 2]);
            srat.append_slice(&start.0.to_le_bytes());
            srat.append_slice(&len.to_le_bytes());
            srat.append_slice(&[0; 4]);
            srat.append_slice(&ENABLED.to_le_bytes());
            srat.append_slice(&[0; 8]);
        }
    }
    srat
}

/// The distance from each node to each.
pub fn slit(nodes: &[NumaNode]) -> Sdt {
    let mut slit = Sdt::new(*b"SLIT", 36, 1, OEM_ID, OEM_TABLE, OEM_REVISION);
    let count = nodes.len();
    slit.append_slice(&(count as u64).to_le_bytes());
    for from in 0..count {
        let row: Vec<_> = (0..count)
            .map(|to| NumaNode::distance(nodes, from, to))
            .collect();
        slit.append_slice(&row);
    }
    slit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VmConfig;

    fn nodes() -> Vec<NumaNode> {
        let text = "[[numa]]\nnode = 1\ncpus = \"1\"\nmemory = \"3G\"\ndistances = \"31:10\"\n\
            [[numa]]\nnode = 0\ncpus = \"0,2\"\nmemory = \"1G\"\n";
        toml::from_str::<VmConfig>(text).unwrap().numa
    }

    fn sum(table: &[u8]) -> u8 {
        table.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn cpus_and_memory_are_in_their_nodes() {
        let srat = srat(3, &nodes());
        let table = srat.as_slice();
        assert_eq!((sum(table), &table[..4]), (0, b"SRAT".as_slice()));
        let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
        assert_eq!(length as usize, table.len());
        let (cpus, memory) = table[48..].split_at(3 * 16);
        let cpus: Vec<_> = cpus
            .chunks(16)
            .map(|s| (s[0], s[1], s[3], s[2], s[4]))
            .collect();
        assert_eq!(cpus, [(0, 16, 0, 0, 1), (0, 16, 1, 1, 1), (0, 16, 2, 0, 1)]);
        let ranges: Vec<_> = memory
            .chunks(40)
            .map(|s| {
                assert_eq!((s[0], s[1], s[28]), (1, 40, 1));
                let number = |at: usize| u64::from_le_bytes(s[at..at + 8].try_into().unwrap());
                (s[2], number(8) >> 30, number(16) >> 30)
            })
            .collect();
        // The second node's memory goes on above the device gap.
        assert_eq!(ranges, [(0, 0, 1), (1, 1, 2), (1, 4, 1)]);
    }

    #[test]
    fn distances_are_rows_from_each_node() {
        let slit = slit(&nodes());
        let table = slit.as_slice();
        assert_eq!((sum(table), &table[..4]), (0, b"SLIT".as_slice()));
        assert_eq!(table[36..44], 2u64.to_le_bytes());
        assert_eq!(table[44..], [10, 31, 31, 10]);
    }
}
