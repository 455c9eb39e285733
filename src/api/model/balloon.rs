//! The memory balloon.

use serde::{Deserialize, Serialize};

/// A balloon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// What the guest is to give up, in MiB.
    pub amount_mib: u64,
    /// The guest may take it back when it has no other memory left.
    pub deflate_on_oom: bool,
    /// How often the guest tells of its memory, in seconds; 0 for never.
    #[serde(default)]
    pub stats_polling_interval_s: u32,
    /// The guest is asked for its free pages; mote doesn't ask.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// The guest tells of the memory that it frees.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// Another size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// What the guest is to give up, in MiB.
    pub amount_mib: u64,
}

/// Another interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatsUpdate {
    /// How often the guest tells of its memory, in seconds.
    pub stats_polling_interval_s: u32,
}

/// What the guest says of its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStats {
    /// Pages of 4 KiB that the guest is to give up.
    pub target_pages: u64,
    /// Those that it says it has given up.
    pub actual_pages: u64,
    /// The same in MiB.
    pub target_mib: u64,
    /// The same in MiB.
    pub actual_mib: u64,
    /// What the guest says besides, under the names that virtio's have in this API.
    #[serde(flatten)]
    pub told: serde_json::Map<String, serde_json::Value>,
}
