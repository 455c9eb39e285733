//! Drives, from which the guest reads blocks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::RateLimiter;

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Its name in the API, and its serial number in the guest where that can have it.
    pub drive_id: String,
    /// It holds the root file system, and so is the first one.
    pub is_root_device: bool,
    /// The partition on it that is the root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partuuid: Option<String>,
    /// What a flush of the guest's does.
    #[serde(default)]
    pub cache_type: CacheType,
    /// The guest may not write to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_read_only: Option<bool>,
    /// A raw image or a block device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<PathBuf>,
    /// Limits to what the guest does with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
    /// How the host's file is read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_engine: Option<IoEngine>,
    /// The socket of another process that serves it, instead of `path_on_host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// What a flush of the guest's does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Nothing.
    #[default]
    Unsafe,
    /// It waits until the data is on the host's disk.
    Writeback,
}

/// How the host's file is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// By threads.
    Sync,
    /// By an io_uring.
    Async,
}

/// What changes of a drive while the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialDrive {
    /// Which one.
    pub drive_id: String,
    /// What is in it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<PathBuf>,
    /// Its limits from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}
