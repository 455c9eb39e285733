//! What mote has beyond: bodies of the paths under /mote/v1.

use serde::{Deserialize, Serialize};

/// A VM, how far it has come, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The VM's name.
    pub id: String,
    /// `not-started`, `running`, `paused` or `ended`.
    pub state: String,
    /// mote's version.
    pub version: String,
    /// The number of its process.
    pub pid: u32,
    /// The times of its boot, once it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Its drives, by their names in the API, and as the guest and the metrics call them.
    pub drives: Vec<Named>,
    /// Its networks, likewise.
    pub networks: Vec<Named>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name in the API.
    pub id: String,
    /// What the guest, the log and the metrics call it: `vda`, `pmem0`, `net0`.
    pub device: String,
}

/// Microseconds since the process was started, or was told to start the VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Until the guest first ran.
    pub first_run_us: Option<u64>,
    /// Until the guest's init has signalled.
    pub init_us: Option<u64>,
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// `power-off`, `reset`, `panic`, `crash`, `stopped`, `failed`, `quit`, `disconnected` or `reached`.
    pub how: String,
}

/// A network's cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkUpdate {
    /// Whether it is plugged in.
    pub up: bool,
}
