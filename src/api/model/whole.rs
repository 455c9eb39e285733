//! All that was said of a VM.

use serde::{Deserialize, Serialize};

use super::{
    Balloon, BootSource, Drive, Entropy, Logger, MachineConfiguration, Metrics, NetworkInterface,
    Pmem, Serial, Vsock,
};

/// All that was said of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Whole {
    /// The kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_source: Option<BootSource>,
    /// Drives, that of the root file system first.
    pub drives: Vec<Drive>,
    /// Files that the guest maps, that of the root file system first.
    pub pmem: Vec<Pmem>,
    /// Network interfaces.
    pub network_interfaces: Vec<NetworkInterface>,
    /// Processors and memory.
    pub machine_config: MachineConfiguration,
    /// The balloon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Balloon>,
    /// The vsock device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// The entropy device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<Entropy>,
    /// The serial port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// What mote says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<Logger>,
    /// Metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
}
