//! What the guest is before there are containers: mounts, names and network.

use serde::{Deserialize, Serialize};

use crate::container::Mount;

/// The guest's setting-up. What is left empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Mounts in the agent's own file system, in this order. Targets are made where they aren't there.
    pub mounts: Vec<Mount>,
    /// Folders to be made after them, for an overlay's upper layer.
    pub folders: Vec<String>,
    /// The guest's name.
    pub hostname: Option<String>,
    /// Files to be written, with all the folders on the way: /etc/hosts and the like.
    pub files: Vec<WriteFile>,
    /// Network devices; the loopback is always up.
    pub links: Vec<Link>,
    /// The time in microseconds since 1970, where the guest has no clock of its own.
    pub clock: Option<u64>,
}

/// A file to be written.
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
    /// Its addresses and the lengths of their prefixes: 10.0.2.15/24.
    pub addresses: Vec<([u8; 4], u8)>,
    /// The gateway of all that has no other way.
    pub gateway: Option<[u8; 4]>,
    /// The largest packet.
    pub mtu: Option<u32>,
    /// Ask a server of the network for all of it (DHCP), and for names' servers, which go into `resolv`.
    pub dhcp: bool,
    /// The file that DHCP's name servers go to; root and path as of [`WriteFile`].
    pub resolv: Option<(String, String)>,
}
