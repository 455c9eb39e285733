//! virtio-fs (virtio 1.3 §5.11): a folder of the host's. No DAX window.

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

use super::super::VhostUserError;
use super::Kind;

/// The length of the tag in the configuration space (§5.11.4).
pub const TAG_LEN: usize = 36;

/// A shared folder.
pub struct Fs {
    tag: String,
    /// Queues for requests, besides the one for those of high priority.
    queues: u16,
}

impl Fs {
    /// A folder that the guest mounts by its `tag`, at most 36 bytes.
    pub fn new(tag: &str, queues: u16) -> Self {
        let tag = tag.to_owned();
        Fs { tag, queues }
    }
}

impl Kind for Fs {
    const DEVICE_TYPE: u32 = VIRTIO_ID_FS;

    fn backend_features(&self) -> u64 {
        0 // VIRTIO_FS_F_NOTIFICATION, the only one, wants a queue that no back-end has
    }

    fn settle(&mut self, _: u64, queues: Option<u64>, _: &[u8]) -> Result<u16, VhostUserError> {
        let needed = self.queues + 1;
        match queues {
            Some(there) if there < needed.into() => {
                Err(VhostUserError::Queues(there, needed.into()))
            }
            _ => Ok(needed),
        }
    }

    fn config(&self, _: &[u8]) -> Vec<u8> {
        let mut config = self.tag.as_bytes().to_vec();
        config.resize(TAG_LEN, 0);
        config.extend(u32::from(self.queues).to_le_bytes());
        config
    }
}
