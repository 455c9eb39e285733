//! virtio-net (virtio 1.3 §5.1): the back-end has the other end of the cable; address and link status
//! are mote's.

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::*;

use super::super::VhostUserError;
use super::Kind;

/// mac, status, max_virtqueue_pairs, mtu (§5.1.4).
const CONFIG_LEN: usize = 12;
const CONFIG_STATUS: usize = 6;
const CONFIG_MTU: usize = 10;

/// A network interface with one pair of queues.
pub struct Net {
    mac: [u8; 6],
    mtu: Option<u16>,
}

impl Net {
    /// An interface with this address; an MTU is what the guest should keep to.
    pub fn new(mac: [u8; 6], mtu: Option<u16>) -> Self {
        Net { mac, mtu }
    }
}

impl Kind for Net {
    const DEVICE_TYPE: u32 = VIRTIO_ID_NET;

    /// No control queue, and so none of the features that need one (§5.1.3.1): the protocol has no
    /// request for what a driver says there, but for the number of queues.
    fn backend_features(&self) -> u64 {
        [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_GUEST_UFO,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_HOST_UFO,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_GUEST_USO4,
            VIRTIO_NET_F_GUEST_USO6,
            VIRTIO_NET_F_HOST_USO,
        ]
        .iter()
        .fold(0, |bits, bit| bits | 1 << bit)
    }

    fn own_features(&self) -> u64 {
        let mtu = u64::from(self.mtu.is_some()) << VIRTIO_NET_F_MTU;
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | mtu
    }

    fn settle(&mut self, _: u64, queues: Option<u64>, _: &[u8]) -> Result<u16, VhostUserError> {
        // A back-end counts queues, or, as the protocol has it for net, pairs of them.
        match queues {
            Some(0) => Err(VhostUserError::Queues(0, 2)),
            _ => Ok(2),
        }
    }

    fn config(&self, _: &[u8]) -> Vec<u8> {
        let mut config = vec![0; CONFIG_LEN];
        config[..6].copy_from_slice(&self.mac);
        config[8] = 1; // max_virtqueue_pairs
        let mtu = self.mtu.unwrap_or(0);
        config[CONFIG_MTU..].copy_from_slice(&mtu.to_le_bytes());
        self.linked(&config, true)
    }

    fn linked(&self, config: &[u8], connected: bool) -> Vec<u8> {
        let mut config = config.to_vec();
        let status = if connected {
            VIRTIO_NET_S_LINK_UP as u16
        } else {
            0
        };
        config[CONFIG_STATUS..CONFIG_STATUS + 2].copy_from_slice(&status.to_le_bytes());
        config
    }
}
