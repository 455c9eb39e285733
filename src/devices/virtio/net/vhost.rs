//! vhost-net: the host's kernel moves the packets, and mote none of them.
//!
//! Each queue pair is a descriptor of /dev/vhost-net with a thread of the kernel's. The kernel reads
//! and writes guest memory, is kicked by the queue's ioeventfd and raises the interrupt's irqfd.

use std::io;
use std::sync::Arc;

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net;
use vhost::{Error, VhostBackend};
use vm_memory::GuestMemoryMmap;

use super::open::NetError;
use super::tap::Tap;
use crate::devices::vhost::{Addresses, Ring, VhostError, set_ring, set_up};
use crate::devices::virtio::{ActivateError, ActiveQueue, Interrupt};

/// The header is vhost's, not the tap's (VHOST_NET_F_VIRTIO_NET_HDR in linux/vhost_types.h).
const OWN_HEADER: u64 = 1 << 27;

/// The features that the host's vhost-net knows.
///
/// # Errors
///
/// There is none, or it can't be opened.
pub fn features(net: &str) -> Result<u64, NetError> {
    let nothing = Arc::new(GuestMemoryMmap::<()>::default());
    match Net::new(nothing).and_then(|vhost| vhost.get_features()) {
        Ok(features) => Ok(features),
        Err(Error::VhostOpen(source)) => Err(match source.kind() {
            io::ErrorKind::NotFound => NetError::NoVhost {
                net: net.to_owned(),
            },
            _ => NetError::VhostOpen {
                net: net.to_owned(),
                source,
            },
        }),
        Err(error) => Err(NetError::Refused {
            net: net.to_owned(),
            what: "asking vhost-net for its features",
            source: io::Error::other(error),
        }),
    }
}

/// A queue pair that the kernel serves, until this is dropped.
pub struct Backend {
    vhost: Net<Arc<GuestMemoryMmap<()>>>,
    tap: Arc<Tap>,
}

impl Backend {
    /// Hands over a receive and a transmit queue. They aren't served before [`run`](Self::run).
    pub fn new(
        tap: &Arc<Tap>,
        queues: [&ActiveQueue; 2],
        features: u64,
        memory: &GuestMemoryMmap<()>,
        interrupt: &Interrupt,
    ) -> Result<Self, ActivateError> {
        let at = VhostError::at;
        let vhost = Net::new(Arc::new(memory.clone())).map_err(at("opening /dev/vhost-net"))?;
        vhost.set_owner().map_err(at("SET_OWNER"))?;
        let known = vhost.get_features().map_err(at("GET_FEATURES"))?;
        let header = if tap.has_header() { 0 } else { OWN_HEADER };
        set_up(&vhost, features & known | header, memory)?;
        for (index, queue) in queues.into_iter().enumerate() {
            let ring = Ring {
                index,
                queue,
                base: 0,
                call: interrupt.irqfd(),
            };
            set_ring(&vhost, &ring, memory, Addresses::Guest)?;
        }
        let tap = tap.clone();
        Ok(Self { vhost, tap })
    }

    /// Has the kernel serve the queues, or leave them alone: on return it does.
    pub fn run(&self, on: bool) -> Result<(), VhostError> {
        for index in 0..2 {
            let tap = on.then(|| self.tap.file());
            self.vhost
                .set_backend(index, tap)
                .map_err(VhostError::at("NET_SET_BACKEND"))?;
        }
        Ok(())
    }
}
