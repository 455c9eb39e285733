//! What the guest is before there are containers: mounts, names and network.

use serde::{Deserialize, Serialize};

use crate::container::Mount;

/// The guest's setting-up, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// In this order; the first that fails is the last that is tried.
    pub steps: Vec<Step>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A mount in the agent's own file system. Its target is made where it isn't there.
    Mount(Mount),
    /// Takes away all mounts at and under a path of the agent's own file system, and the folder.
    Unmount(String),
    /// A folder, with all on the way, as an overlay needs them for its upper layer.
    Folder(String),
    /// A file to be written.
    File(WriteFile),
    /// The guest's name.
    Hostname(String),
    /// A network device; the loopback is always up.
    Link(Link),
    /// The time in microseconds since 1970, where the guest has no clock of its own.
    Clock(u64),
}

/// A file, and what is to be in it. The folders on the way are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Its path, in `root`.
    pub path: String,
    /// The folder that is its root: no link leads out of it.
    pub root: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its mode.
    pub mode: u32,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name in the guest: eth0.
    pub name: String,
    /// Its hardware's address, where it isn't to be the one it came with.
    pub mac: Option<[u8; 6]>,
    /// Its addresses and the lengths of their prefixes: 10.0.2.15/24.
    pub addresses: Vec<([u8; 4], u8)>,
    /// What is reached by it besides the networks of its addresses, in any order.
    pub routes: Vec<Route>,
    /// The gateway of all that has no other way.
    pub gateway: Option<[u8; 4]>,
    /// Its addresses in IPv6. A guest without IPv6 does without.
    pub addresses6: Vec<([u8; 16], u8)>,
    /// The gateway of all in IPv6.
    pub gateway6: Option<[u8; 16]>,
    /// The largest packet.
    pub mtu: Option<u32>,
    /// Ask a server of the network for all of it (DHCP), and for names' servers, which go into `resolv`.
    pub dhcp: bool,
    /// The file that DHCP's name servers go to; root and path as of [`WriteFile`].
    pub resolv: Option<(String, String)>,
}

/// A way to a network, by the device that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub destination: [u8; 4],
    /// How many of the destination's bits count.
    pub prefix: u8,
    /// Who knows the way; nobody for what is on the link itself.
    pub gateway: Option<[u8; 4]>,
}
