//! The VM as a whole: what it is, how far it has come, and what it is to do.

use serde::{Deserialize, Serialize};

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// `mote`.
    pub app_name: String,
    /// The VM's name.
    pub id: String,
    /// How far it has come.
    pub state: InstanceState,
    /// mote's version.
    pub vmm_version: String,
}

/// How far a VM has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// It is being described.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The guest runs.
    Running,
    /// The guest stands still.
    Paused,
}

/// Versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the Firecracker whose API mote follows.
    pub firecracker_version: String,
    /// mote's own.
    pub mote_version: String,
}

/// What a VM is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Which action.
    pub action_type: ActionType,
}

/// An action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// Start the guest.
    InstanceStart,
    /// Ask the guest for an orderly end.
    SendCtrlAltDel,
    /// Write the metrics' file now.
    FlushMetrics,
}

/// Whether a VM that was started is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmUpdate {
    /// What it is to be.
    pub state: VmState,
}

/// What a VM that was started is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Standing still.
    Paused,
    /// Running.
    Resumed,
}
