//! The guest's NUMA nodes: which vCPUs and how much memory each has, and how far they are apart.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, CpuList, Size, VmConfig};

/// The most NUMA nodes of a guest.
pub const MAX_NODES: usize = 64;
/// From a node to itself (ACPI 6.5 §5.2.17).
const LOCAL: u8 = 10;
/// From a node to another, where nothing is said.
const REMOTE: u8 = 20;

/// One NUMA node of the guest (`--numa`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NumaNode {
    /// Its number; they are counted from 0.
    pub node: u16,
    /// Its vCPUs; a node may have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuList>,
    /// Its memory.
    pub memory: Size,
    /// The host's NUMA node that its memory and its vCPUs are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_node: Option<u16>,
    /// How far it is to each node, from node 0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distances: Option<Distances>,
}

/// How far it is from a node to each, by ACPI's measure: 10 to itself, 11 to 254 to another. Written
/// with colons, 10:20:30.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Distances(Vec<u8>);

impl FromStr for Distances {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            let number = part.parse().ok().filter(|_| digits);
            number.ok_or_else(|| format!("`{text}` must be numbers with colons, such as 10:20"))
        };
        text.split(':')
            .map(number)
            .collect::<Result<_, _>>()
            .map(Distances)
    }
}

impl TryFrom<String> for Distances {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Distances> for String {
    fn from(distances: Distances) -> String {
        let numbers = distances.0.iter().map(u8::to_string);
        numbers.collect::<Vec<_>>().join(":")
    }
}

impl NumaNode {
    pub(super) fn validate_all(config: &VmConfig) -> Result<(), ConfigError> {
        let nodes = &config.numa;
        if nodes.is_empty() {
            return Ok(());
        }
        let wrong = |text: String| Err(ConfigError::Numa(text));
        let count = nodes.len();
        if count > MAX_NODES {
            return wrong(format!(
                "given {count} times: a guest has at most {MAX_NODES} nodes"
            ));
        }
        for (index, node) in nodes.iter().enumerate() {
            let number = node.node;
            if nodes[..index].iter().any(|other| other.node == number) {
                return wrong(format!(
                    "node={number}: given twice; each node has a number of its own"
                ));
            }
            if usize::from(number) >= count {
                return wrong(match count {
                    1 => format!("node={number}: a single node has the number 0"),
                    _ => {
                        let last = count - 1;
                        format!("node={number}: {count} nodes have the numbers 0 to {last}")
                    }
                });
            }
            node.validate(config)?;
        }
        let unplaced = (0..config.cpus.0).find(|id| {
            let has = |node: &NumaNode| node.has_cpu(*id);
            !nodes.iter().any(has)
        });
        if let Some(id) = unplaced {
            return wrong(format!(
                "vCPU {id} is in no node; say cpus= so that each vCPU is in one"
            ));
        }
        let sum = nodes
            .iter()
            .try_fold(0u64, |sum, node| sum.checked_add(node.memory.bytes()));
        let memory = config.memory.size;
        if sum != Some(memory.bytes()) {
            let sum = sum.map_or("more than there can be".to_owned(), |sum| {
                Size::new(sum).to_string()
            });
            return wrong(format!(
                "memory=: the nodes have {sum} together, and the guest has --memory {memory}; they must be the same"
            ));
        }
        Ok(())
    }

    fn validate(&self, config: &VmConfig) -> Result<(), ConfigError> {
        let number = self.node;
        let wrong = |text: String| Err(ConfigError::Numa(format!("node={number},{text}")));
        let bytes = self.memory.bytes();
        if bytes == 0 || !bytes.is_multiple_of(1 << 20) {
            return wrong(format!(
                "memory={}: must be a whole number of MiB",
                self.memory
            ));
        }
        // A huge page is on one node of the host.
        let bound = self.host_node.or(config.placement.numa_node).is_some();
        if let Some(pages) = config.memory.hugepages
            && bound
            && !bytes.is_multiple_of(pages.size().bytes())
        {
            return wrong(format!(
                "memory={}: must be a multiple of {} with --memory hugepages={1}, to be on a node of the host",
                self.memory,
                pages.size()
            ));
        }
        for id in self.cpus.iter().flat_map(CpuList::iter) {
            if id >= config.cpus.0.into() {
                let last = config.cpus.0 - 1;
                return wrong(format!("cpus={id}: --cpus gives vCPUs 0 to {last}"));
            }
            let other = config.numa.iter().find(|other| {
                other.node != number && other.cpus.as_ref().is_some_and(|cpus| cpus.contains(id))
            });
            if let Some(other) = other {
                return wrong(format!(
                    "cpus={id}: this vCPU is in node {} too",
                    other.node
                ));
            }
        }
        let Some(Distances(distances)) = &self.distances else {
            return Ok(());
        };
        let nodes = config.numa.len();
        if distances.len() != nodes {
            return wrong(format!(
                "distances=: has {}, and must have one to each of the {nodes} nodes",
                distances.len()
            ));
        }
        for (to, &distance) in distances.iter().enumerate() {
            let (low, high) = match to == usize::from(number) {
                true => (LOCAL, LOCAL),
                false => (LOCAL + 1, 254),
            };
            if !(low..=high).contains(&distance) {
                return wrong(format!(
                    "distances=: {distance} to node {to}; it is 10 to the node itself, 11 to 254 to another"
                ));
            }
        }
        Ok(())
    }

    /// The nodes by their numbers, which is also the order of their memory in the guest.
    pub fn in_order(nodes: &[NumaNode]) -> impl Iterator<Item = &NumaNode> {
        let mut nodes: Vec<_> = nodes.iter().collect();
        nodes.sort_by_key(|node| node.node);
        nodes.into_iter()
    }

    /// Whether the vCPU `id` is one of its own.
    pub fn has_cpu(&self, id: u8) -> bool {
        self.cpus
            .as_ref()
            .is_some_and(|cpus| cpus.contains(id.into()))
    }

    /// How far it is from `from` to `to`, by their numbers. What one direction doesn't say is as the
    /// other says.
    pub fn distance(nodes: &[NumaNode], from: usize, to: usize) -> u8 {
        if from == to {
            return LOCAL;
        }
        let said = |from: usize, to: usize| {
            let node = nodes.iter().find(|node| usize::from(node.node) == from)?;
            node.distances.as_ref()?.0.get(to).copied()
        };
        said(from, to).or_else(|| said(to, from)).unwrap_or(REMOTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(nodes: &str) -> VmConfig {
        let text = format!("cpus = 4\nmemory = \"1G\"\n[boot]\nkernel = \"k\"\n{nodes}");
        toml::from_str(&text).unwrap()
    }

    fn validate(nodes: &str) -> String {
        let valid = config(nodes).validate();
        valid.map_or_else(|e| e.to_string(), |()| "valid".to_owned())
    }

    const FIRST: &str = "[[numa]]\nnode = 0\ncpus = \"0-1\"\nmemory = \"256M\"\n";
    const SECOND: &str = "[[numa]]\nnode = 1\ncpus = \"2-3\"\nmemory = \"768M\"\n";

    #[test]
    fn nodes_share_all_cpus_and_all_memory() {
        assert_eq!(validate(&format!("{FIRST}{SECOND}")), "valid");
        assert_eq!(
            validate(&format!("{SECOND}{FIRST}")),
            "valid",
            "in any order"
        );
        // A node may have memory only.
        let third = "[[numa]]\nnode = 2\nmemory = \"256M\"\nhost-node = 0\n";
        let second = SECOND.replace("768M", "512M");
        assert_eq!(validate(&format!("{FIRST}{second}{third}")), "valid");
        let all = "[[numa]]\nnode = 0\ncpus = \"0-3\"\nmemory = \"1G\"\n";
        assert_eq!(validate(all), "valid");
    }

    #[test]
    fn no_huge_page_is_on_two_nodes_of_the_host() {
        let check = |hugepages, host_node| {
            let mut config = config(&format!("{FIRST}{SECOND}"));
            config.memory.hugepages = Some(hugepages);
            config.numa[0].host_node = host_node;
            let valid = config.validate();
            valid.map_or_else(|e| e.to_string(), |()| "valid".to_owned())
        };
        use crate::config::HugePages::{Size1G, Size2M};
        assert_eq!(check(Size2M, Some(0)), "valid");
        assert_eq!(check(Size1G, None), "valid");
        let text = check(Size1G, Some(0));
        let expected = "node=0,memory=256M: must be a multiple of 1G with --memory hugepages=1G";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        let both = |from: &str, to: &str| validate(&format!("{FIRST}{SECOND}").replace(from, to));
        for (from, to, part) in [
            (
                "768M",
                "512M",
                "memory=: the nodes have 768M together, and the guest has --memory 1G",
            ),
            ("768M", "17592186044415M", "they must be the same"),
            (
                "768M",
                "0",
                "node=1,memory=0: must be a whole number of MiB",
            ),
            ("768M", "4K", "node=1,memory=4K"),
            ("2-3", "2", "vCPU 3 is in no node"),
            ("2-3", "1-3", "cpus=1: this vCPU is in node 1 too"),
            ("2-3", "2-4", "node=1,cpus=4: --cpus gives vCPUs 0 to 3"),
            ("node = 1", "node = 0", "node=0: given twice"),
            (
                "node = 1",
                "node = 2",
                "node=2: 2 nodes have the numbers 0 to 1",
            ),
            (
                "768M\"",
                "768M\"\ndistances = \"20\"",
                "has 1, and must have one to each of the 2",
            ),
            (
                "768M\"",
                "768M\"\ndistances = \"20:11\"",
                "11 to node 1; it is 10",
            ),
            (
                "768M\"",
                "768M\"\ndistances = \"10:10\"",
                "10 to node 0; it is 10 to the node itself",
            ),
            ("768M\"", "768M\"\ndistances = \"255:10\"", "255 to node 0"),
        ] {
            let error = both(from, to);
            assert!(
                error.starts_with("--numa ") && error.contains(part),
                "{to}: {error}"
            );
        }
        for text in ["", "a", "10:", ":", "10:256", "10,20", "+10:20"] {
            assert!(text.parse::<Distances>().is_err(), "{text}");
        }
    }

    #[test]
    fn acpi_is_how_a_guest_learns_of_nodes() {
        let both = format!("{FIRST}{SECOND}");
        let mut config = config(&both);
        config.acpi = super::super::Acpi::Off;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("--acpi off"), "{error}");
    }

    #[test]
    fn one_direction_stands_for_both() {
        let nodes = format!("{FIRST}{SECOND}distances = \"30:10\"\n");
        let nodes = config(&nodes).numa;
        assert_eq!(NumaNode::distance(&nodes, 0, 1), 30);
        assert_eq!(NumaNode::distance(&nodes, 1, 0), 30);
        assert_eq!(NumaNode::distance(&nodes, 1, 1), 10);
        let nodes = config(&format!("{FIRST}{SECOND}")).numa;
        assert_eq!(NumaNode::distance(&nodes, 0, 1), 20);
    }
}
