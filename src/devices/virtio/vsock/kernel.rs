//! vhost-vsock: the host's kernel serves the queues, and programs on the host use AF_VSOCK.
//!
//! mote's part ends with the set-up: packets pass between guest and kernel, by eventfds. The event
//! queue stays with mote (the kernel doesn't serve it), which has nothing to say there.

use std::io;
use std::sync::Arc;

use vhost::vhost_kern::vsock::Vsock;
use vhost::vsock::VhostVsock;
use vhost::{Error, VhostBackend};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vm_memory::GuestMemoryMmap;

use super::{QUEUE_SIZES, VsockError};
use crate::devices::vhost::{Addresses, Ring, VhostError, set_ring, set_up};
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice, read_config_bytes};

/// The kernel's descriptor, with guest memory for the checks of the crate.
type Backend = Vsock<Arc<GuestMemoryMmap<()>>>;

/// What the kernel takes of virtio's features without our saying more: the rings' and
/// VIRTIO_F_VERSION_1. Bits of its own (log all, ...) must not reach the driver.
const RING_FEATURES: u64 = (1 << 28) | (1 << 29) | (1 << 32);

/// A vsock device that the host's kernel serves.
pub struct KernelVsock {
    cid: u32,
    memory: Arc<GuestMemoryMmap<()>>,
    /// Opened anew after a reset: there is no other way to have the kernel forget its connections.
    backend: Option<Backend>,
}

impl KernelVsock {
    /// Asks the kernel for the CID.
    ///
    /// # Errors
    ///
    /// The kernel has no vhost-vsock, or the CID is in use.
    pub fn new(cid: u32, memory: &GuestMemoryMmap<()>) -> Result<Self, VsockError> {
        let memory = Arc::new(memory.clone());
        let backend = Some(open(cid, &memory)?);
        Ok(Self {
            cid,
            memory,
            backend,
        })
    }
}

fn open(cid: u32, memory: &Arc<GuestMemoryMmap<()>>) -> Result<Backend, VsockError> {
    let backend = Vsock::new(memory.clone()).map_err(|error| match error {
        Error::VhostOpen(source) => VsockError::NoVhost(source),
        other => VsockError::NoVhost(io::Error::other(other)),
    })?;
    let failed = |what| {
        move |error| VsockError::Vhost {
            what,
            source: host_error(error),
        }
    };
    backend.set_owner().map_err(failed("VHOST_SET_OWNER"))?;
    backend.set_guest_cid(cid.into()).map_err(|error| {
        let source = host_error(error);
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => VsockError::CidInUse(cid),
            _ => VsockError::Vhost {
                what: "VHOST_VSOCK_SET_GUEST_CID",
                source,
            },
        }
    })?;
    Ok(backend)
}

fn host_error(error: Error) -> io::Error {
    match error {
        Error::IoctlError(source) => source,
        other => io::Error::other(other),
    }
}

impl VirtioDevice for KernelVsock {
    fn name(&self) -> &str {
        "vsock"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    /// Only what the transport has by itself: the kernel's SEQPACKET would be one more kind of device
    /// than [`super::VsockDevice`] is.
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let refused = |error: VsockError| ActivateError::Host {
            what: "setting up vhost-vsock".to_owned(),
            source: io::Error::other(error),
        };
        let backend = match self.backend.take() {
            Some(backend) => backend,
            None => open(self.cid, &self.memory).map_err(refused)?,
        };
        let backend = self.backend.insert(backend);
        set_up(
            backend,
            activation.features & RING_FEATURES,
            &activation.memory,
        )?;
        // Ring 0 receives, ring 1 transmits; the event queue isn't the kernel's.
        for queue in activation.queues.iter().filter(|queue| queue.index < 2) {
            let ring = Ring {
                index: queue.index.into(),
                queue,
                base: 0,
                call: activation.interrupt.irqfd(),
            };
            set_ring(backend, &ring, &activation.memory, Addresses::Guest)?;
        }
        backend
            .start()
            .map_err(VhostError::at("VHOST_VSOCK_SET_RUNNING"))?;
        Ok(())
    }

    fn is_served_elsewhere(&self) -> bool {
        true
    }

    fn serve_elsewhere(&mut self, on: bool) -> Result<(), ActivateError> {
        let Some(backend) = &self.backend else {
            return Ok(());
        };
        let result = match on {
            true => backend.start(),
            false => backend.stop(),
        };
        Ok(result.map_err(VhostError::at("VHOST_VSOCK_SET_RUNNING"))?)
    }

    /// Closing the descriptor stops the kernel's work on the queues, and ends all connections.
    fn reset(&mut self) {
        self.backend = None;
    }
}
