//! Parts that have a field or two.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::RateLimiter;

/// The way between programs in the guest and on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's address, from 3 on.
    pub guest_cid: u32,
    /// The Unix socket that programs on the host connect to.
    pub uds_path: PathBuf,
    /// A name of no use, which older clients give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
}

/// The entropy device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits, of which mote has none here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// A file that the guest maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pmem {
    /// Its name in the API.
    pub id: String,
    /// The file.
    pub path_on_host: PathBuf,
    /// It holds the root file system.
    #[serde(default)]
    pub root_device: bool,
    /// The guest may not write to it.
    #[serde(default)]
    pub read_only: bool,
    /// Limits, which a mapping can't have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// What changes of one while the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialPmem {
    /// Which one.
    pub id: String,
    /// Limits, which a mapping can't have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// The serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// A file for its output, in place of standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_out_path: Option<PathBuf>,
    /// A limit, of which mote has none here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<super::TokenBucket>,
}

/// What mote says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// How much: Error, Warning, Info, Debug, Trace or Off, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// A file or named pipe for it, in place of standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_path: Option<PathBuf>,
    /// Each line has its level, which mote's always have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_level: Option<bool>,
    /// Each line has its place in the source, which mote's never have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_log_origin: Option<bool>,
    /// Only lines of this module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// The file of the VM's metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// It gets the Prometheus text format.
    pub metrics_path: PathBuf,
}
