//! What differs between the devices that a back-end can serve.

mod blk;
mod fs;
mod net;

pub use blk::Blk;
pub use fs::Fs;
pub use net::Net;

use super::VhostUserError;

/// A kind of vhost-user device: its features, its queues and its configuration space.
pub trait Kind: Send + Sync + 'static {
    /// The device type (virtio 1.3 §5).
    const DEVICE_TYPE: u32;

    /// The features of the device's own that are passed from the back-end to the driver; those
    /// that nobody here has heard of could be anything, and aren't.
    fn backend_features(&self) -> u64;

    /// The features that mote adds by itself, whatever the back-end has.
    fn own_features(&self) -> u64 {
        0
    }

    /// How much of the configuration space is the back-end's; 0 if mote makes all of it.
    fn backend_config_len(&self, features: u64) -> usize {
        let _ = features;
        0
    }

    /// How many queues the device has, once the back-end has said what it can do.
    ///
    /// # Errors
    ///
    /// That doesn't suffice.
    fn settle(
        &mut self,
        features: u64,
        queues: Option<u64>,
        config: &[u8],
    ) -> Result<u16, VhostUserError>;

    /// The configuration space as the driver sees it.
    fn config(&self, from_backend: &[u8]) -> Vec<u8>;

    /// The same when the back-end has gone or come.
    fn linked(&self, config: &[u8], connected: bool) -> Vec<u8> {
        let _ = connected;
        config.to_vec()
    }

    /// Whether the driver may write there.
    fn may_write(&self, offset: u64, len: usize) -> bool {
        let _ = (offset, len);
        false
    }
}
