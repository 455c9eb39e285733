//! The vsock device, by which programs in the guest and on the host talk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, MAX_SOCKET_PATH, check_socket};

/// The longest path of the socket: with `_4294967295` behind it, it has to fit into a socket's address
/// of 108 bytes with its end (unix(7)).
const MAX_PATH: usize = MAX_SOCKET_PATH - 11;

/// A vsock device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's address (CID), from 3 on.
    pub cid: u32,
    /// The Unix socket that programs on the host connect to, to say `CONNECT port`. Where the guest
    /// connects to port P of the host, `PATH_P` is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Leave it to the host's kernel: programs on the host use AF_VSOCK with the guest's CID.
    #[serde(default)]
    pub vhost: bool,
    /// This process serves a port of it by itself ([`OwnPort`](crate::devices::virtio::vsock::OwnPort)).
    #[serde(skip)]
    pub own: bool,
}

impl Vsock {
    /// Checks what can be checked without looking at the host.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        // 0 to 2 are the hypervisor's, the loopback's and the host's; all ones means "any".
        if !(3..u32::MAX).contains(&self.cid) {
            return Err(ConfigError::VsockCid(self.cid));
        }
        match (&self.socket, self.vhost) {
            (_, true) if self.own => Err(ConfigError::VsockOwn),
            (None, false) if self.own => Ok(()),
            (None, false) => Err(ConfigError::VsockNowhere),
            (Some(_), true) => Err(ConfigError::VsockTwice),
            (Some(path), false) => check_socket("--vsock socket", path, MAX_PATH),
            (None, true) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let vsock = |cid, socket: Option<&str>, vhost| Vsock {
            cid,
            socket: socket.map(PathBuf::from),
            vhost,
            own: false,
        };
        for cid in [3, 42, u32::MAX - 1] {
            assert_eq!(vsock(cid, Some("v"), false).validate(), Ok(()));
            assert_eq!(vsock(cid, None, true).validate(), Ok(()));
        }
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(
                vsock(cid, Some("v"), false).validate(),
                Err(ConfigError::VsockCid(cid))
            );
        }
        assert_eq!(
            vsock(3, None, false).validate(),
            Err(ConfigError::VsockNowhere)
        );
        assert_eq!(
            vsock(3, Some("v"), true).validate(),
            Err(ConfigError::VsockTwice)
        );
        assert_eq!(
            vsock(3, Some(&"x".repeat(MAX_PATH)), false).validate(),
            Ok(())
        );
        let error = vsock(3, Some(&"x".repeat(MAX_PATH + 1)), false).validate();
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("97 bytes") && error.contains("96"),
            "{error}"
        );
    }
}
