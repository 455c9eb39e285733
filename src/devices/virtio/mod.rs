//! virtio 1.3 over MMIO, and the virtio devices.
//!
//! - [`transport`]: what a driver writes to the registers (§4.2), for any device
//! - [`registers`]: what it reads there
//! - [`queue`]: what the driver says about a queue, checked, and its rings at work
//! - [`buffers`]: descriptor chains as byte streams over guest memory
//! - [`interrupt`]: from a device to its driver
//! - [`gate`]: where a device's threads stop while the VM is paused
//! - [`worker`]: threads that serve a queue
//! - one file or folder per device: [`balloon`], [`blk`], [`console`], [`net`], [`rng`], [`vsock`]
//! - `testing`, in tests only: a driver in plain memory, to try a device with no VM; `fuzzing`: one that does
//!   anything
//!
//! A device is a [`VirtioDevice`]: its configuration space, and what to do once the driver has
//! set it up. It never sees a register. Its life, as the driver's writes to Status and the
//! device's own mistakes drive it (§2.1, §3.1.1):
//!
//! ```text
//!            ACKNOWLEDGE, DRIVER            FEATURES_OK                 DRIVER_OK
//!   reset ----------------------> features -------------> queues -------------------> live
//!     ^                            |    ^                    |        activate()        |
//!     |                            +----+                    |                          |
//!     |                     bits not offered:                | ring outside RAM,        | malformed
//!     |                  FEATURES_OK stays 0                 | bad size                 | chain
//!     |                                                      v                          v
//!     +------------------------------------------------- NEEDS_RESET <------------------+
//!                  Status = 0, from anywhere: reset()      (waits for the driver; queues stopped)
//! ```

pub mod balloon;
pub mod blk;
pub mod buffers;
pub mod console;
#[cfg(test)]
mod crowd;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod gate;
mod image;
pub mod interrupt;
pub mod net;
pub mod pmem;
pub mod queue;
pub mod registers;
pub mod rng;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code))] // the tests do more with it
pub(crate) mod testing;
pub mod transport;
pub mod vsock;
pub mod worker;

use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::metrics::Source;
pub use gate::Gate;
pub use interrupt::Interrupt;
pub use transport::MmioTransport;

/// A virtio device, apart from how the guest reaches it.
pub trait VirtioDevice: Send {
    /// Which device this is, for logs and thread names ("vda", "rng").
    fn name(&self) -> &str;

    /// The device type (virtio 1.3 §5).
    fn device_type(&self) -> u32;

    /// The device's own feature bits.
    fn features(&self) -> u64;

    /// The feature bits of its queues: VIRTIO_F_VERSION_1 always, and what whoever serves them
    /// can do of VIRTIO_F_INDIRECT_DESC and VIRTIO_F_EVENT_IDX.
    fn ring_features(&self) -> u64 {
        transport::RING_FEATURES
    }

    /// The largest size of each queue, in descriptors; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads from the configuration space, of at most [`registers::CONFIG_SIZE`] bytes. `data`
    /// comes filled with zeros; what lies beyond the end of the space stays so. A device that
    /// changes its configuration while it is live says so by [`Interrupt::set_config`].
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space. Most devices have nothing to write there.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver has finished set-up (DRIVER_OK): start serving the queues.
    ///
    /// A vCPU waits for it, so whatever takes long belongs to a thread started here, by
    /// [`crate::threads::spawn`].
    ///
    /// # Errors
    ///
    /// The host refused what the device needs. The transport then fails the device, which its
    /// driver may reset and try again.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Back to before [`activate`](Self::activate). On return no request is in flight and no
    /// thread of the device touches guest memory. Also called after a failed activation.
    fn reset(&mut self);

    /// Whether the host's kernel serves queues of this device.
    fn is_served_elsewhere(&self) -> bool {
        false
    }

    /// The host's kernel leaves the queues alone (`false`), or goes on. Threads of the device's own stop at its
    /// [`gate`], and another process when such a thread has it stop.
    ///
    /// # Errors
    ///
    /// The host refused.
    fn serve_elsewhere(&mut self, on: bool) -> Result<(), ActivateError> {
        let _ = on;
        Ok(())
    }

    /// What the device counts.
    fn metrics(&self) -> Option<Arc<dyn Source>> {
        None
    }
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// Guest memory. Cloning is cheap: the regions are shared.
    pub memory: GuestMemoryMmap<()>,
    /// The features that the driver accepted, a subset of those offered.
    pub features: u64,
    /// The queues that the driver has made ready, in order; not always all of them.
    pub queues: Vec<ActiveQueue>,
    /// The way to tell the driver.
    pub interrupt: Arc<Interrupt>,
}

/// A queue that the driver has made ready.
pub struct ActiveQueue {
    /// Which of the device's queues this is.
    pub index: u16,
    /// Its rings, known to lie in guest memory.
    pub queue: Queue,
    /// Written when the driver has made buffers available. Reads block.
    pub notify: Arc<EventFd>,
}

/// Why a device could not start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The host refused a thread.
    #[error("starting thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The host, or another process that serves the device, refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried, and on what.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Answers a read of a configuration space that is held as bytes.
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|o| config.get(o..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}
