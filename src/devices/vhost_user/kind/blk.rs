//! virtio-blk (virtio 1.3 §5.2): the back-end has the disk, its size and its features.

use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::super::VhostUserError;
use super::Kind;

/// The configuration space up to write_zeroes_may_unmap and its padding (§5.2.4).
const CONFIG_LEN: usize = 60;
const CONFIG_WRITEBACK: u64 = 32;
const CONFIG_NUM_QUEUES: usize = 34;

/// A drive.
pub struct Blk {
    queues: u16,
    read_only: bool,
    mq: bool,
}

impl Blk {
    /// A drive with as many queues. `read_only` is what the driver is told, whatever the back-end
    /// would allow.
    pub fn new(queues: u16, read_only: bool) -> Self {
        Blk {
            queues,
            read_only,
            mq: false,
        }
    }
}

impl Kind for Blk {
    const DEVICE_TYPE: u32 = VIRTIO_ID_BLOCK;

    fn backend_features(&self) -> u64 {
        [
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_GEOMETRY,
            VIRTIO_BLK_F_RO,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_CONFIG_WCE,
            VIRTIO_BLK_F_MQ,
            VIRTIO_BLK_F_DISCARD,
            VIRTIO_BLK_F_WRITE_ZEROES,
        ]
        .iter()
        .fold(0, |bits, bit| bits | 1 << bit)
    }

    fn own_features(&self) -> u64 {
        u64::from(self.read_only) << VIRTIO_BLK_F_RO
    }

    fn backend_config_len(&self, _: u64) -> usize {
        CONFIG_LEN
    }

    fn settle(
        &mut self,
        features: u64,
        queues: Option<u64>,
        config: &[u8],
    ) -> Result<u16, VhostUserError> {
        self.mq = features & (1 << VIRTIO_BLK_F_MQ) != 0;
        let mut there = 1;
        if self.mq
            && let Some(&[low, high]) = config.get(CONFIG_NUM_QUEUES..CONFIG_NUM_QUEUES + 2)
        {
            there = u64::from(u16::from_le_bytes([low, high])).max(1);
        }
        there = there.min(queues.unwrap_or(there));
        match there < self.queues.into() {
            true => Err(VhostUserError::Queues(there, self.queues.into())),
            false => Ok(self.queues),
        }
    }

    fn config(&self, from_backend: &[u8]) -> Vec<u8> {
        let mut config = from_backend.to_vec();
        if self.mq
            && let Some(place) = config.get_mut(CONFIG_NUM_QUEUES..CONFIG_NUM_QUEUES + 2)
        {
            place.copy_from_slice(&self.queues.to_le_bytes());
        }
        config
    }

    fn may_write(&self, offset: u64, len: usize) -> bool {
        offset == CONFIG_WRITEBACK && len == 1
    }
}
