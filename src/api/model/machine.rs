//! Processors and memory.

use serde::{Deserialize, Serialize};

/// Processors and memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfiguration {
    /// Processors.
    pub vcpu_count: u8,
    /// Memory, in MiB.
    pub mem_size_mib: u64,
    /// Two processors are threads of one core; mote's are all cores.
    #[serde(default)]
    pub smt: bool,
    /// A set of processor features; mote has none by name but `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
    /// For snapshots, which mote hasn't.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Which huge pages the memory is made of.
    #[serde(default)]
    pub huge_pages: HugePages,
}

impl Default for MachineConfiguration {
    fn default() -> Self {
        MachineConfiguration {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

/// Which huge pages memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// None of the host's pool; transparent ones as the host finds them.
    #[default]
    None,
    /// The same, asked for by name.
    Transparent,
    /// Pages of 2 MiB of the host's pool.
    #[serde(rename = "2M")]
    Size2M,
}

/// What changes of it before the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineUpdate {
    /// See [`MachineConfiguration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_count: Option<u8>,
    /// See [`MachineConfiguration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_size_mib: Option<u64>,
    /// See [`MachineConfiguration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<bool>,
    /// See [`MachineConfiguration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
    /// See [`MachineConfiguration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// See [`MachineConfiguration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
}

impl MachineConfiguration {
    /// What it is once `update` is applied.
    pub fn updated(&self, update: MachineUpdate) -> Self {
        MachineConfiguration {
            vcpu_count: update.vcpu_count.unwrap_or(self.vcpu_count),
            mem_size_mib: update.mem_size_mib.unwrap_or(self.mem_size_mib),
            smt: update.smt.unwrap_or(self.smt),
            cpu_template: update.cpu_template.or_else(|| self.cpu_template.clone()),
            track_dirty_pages: update.track_dirty_pages.unwrap_or(self.track_dirty_pages),
            huge_pages: update.huge_pages.unwrap_or(self.huge_pages),
        }
    }
}
