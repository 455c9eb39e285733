//! The configuration space (virtio 1.3 §5.1.4) and the cable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_net::{VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};

use super::tap::Tap;
use super::vhost::Backend;
use crate::devices::vhost::VhostError;
use crate::devices::virtio::{Interrupt, read_config_bytes};

/// mac, status, max_virtqueue_pairs, mtu.
const SIZE: usize = 12;
const STATUS: usize = 6;

/// What a device, its threads and whoever plugs the cable share.
#[derive(Debug)]
pub(super) struct Shared {
    space: Mutex<Space>,
    up: AtomicBool,
    taps: Vec<Arc<Tap>>,
}

struct Space {
    bytes: [u8; SIZE],
    /// While the device is live.
    interrupt: Option<Arc<Interrupt>>,
    /// Whether the driver knows VIRTIO_NET_F_GUEST_ANNOUNCE.
    announces: bool,
    /// Queue pairs that the kernel serves.
    backends: Vec<Backend>,
    paused: bool,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x?}", self.bytes)
    }
}

/// The cable of a network device, to be plugged in and out from any thread.
#[derive(Clone, Debug)]
pub struct Link(Arc<Shared>);

impl Link {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Link(shared)
    }

    /// Whether the cable is plugged in.
    pub fn is_up(&self) -> bool {
        self.0.up()
    }

    /// Plugs the cable in or out: the guest is told at once, the host's side sees no carrier, and
    /// packets of either side go nowhere.
    pub fn set(&self, up: bool) {
        self.0.set_link(up);
    }
}

impl Shared {
    pub fn new(mac: [u8; 6], pairs: u16, mtu: u16, up: bool, taps: Vec<Arc<Tap>>) -> Self {
        let mut bytes = [0; SIZE];
        bytes[..6].copy_from_slice(&mac);
        bytes[STATUS..8].copy_from_slice(&status(up, false));
        bytes[8..10].copy_from_slice(&pairs.to_le_bytes());
        bytes[10..].copy_from_slice(&mtu.to_le_bytes());
        let shared = Shared {
            space: Mutex::new(Space {
                bytes,
                interrupt: None,
                announces: false,
                backends: Vec::new(),
                paused: false,
            }),
            up: AtomicBool::new(up),
            taps,
        };
        // A tap that is attached to has a carrier.
        if !up {
            shared.set_carrier(false);
        }
        shared
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.lock().bytes, offset, data);
    }

    pub fn up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The driver is there.
    pub fn start(&self, interrupt: &Arc<Interrupt>, announces: bool) {
        let mut space = self.lock();
        // The cable may have been pulled before there was a driver to tell.
        interrupt.publish_config(0, &space.bytes);
        space.interrupt = Some(interrupt.clone());
        space.announces = announces;
    }

    /// The kernel serves the queues, while the cable is plugged in.
    pub fn serve_by(&self, backends: Vec<Backend>) -> Result<(), VhostError> {
        let mut space = self.lock();
        space.backends = backends;
        space.run_backends(self.up())
    }

    /// The kernel leaves the queues alone, or serves them again if the cable is plugged in.
    pub fn pause(&self, paused: bool) -> Result<(), VhostError> {
        let mut space = self.lock();
        space.paused = paused;
        space.run_backends(self.up())
    }

    /// The driver is gone, and with it the address that it has set.
    pub fn stop(&self, mac: [u8; 6]) {
        let mut space = self.lock();
        space.interrupt = None;
        space.announces = false;
        space.backends.clear();
        space.bytes[..6].copy_from_slice(&mac);
        space.bytes[STATUS..8].copy_from_slice(&status(self.up(), false));
    }

    pub fn set_link(&self, up: bool) {
        let mut space = self.lock();
        if self.up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        self.set_carrier(up);
        // Bridges may have forgotten where the guest is.
        if let Err(error) = space.run_backends(up) {
            log::warn!("plugging a cable that vhost-net serves: {error}");
        }
        let announce = up && space.announces;
        space.set_status(status(up, announce));
    }

    /// The driver's own change: it needs no interrupt.
    pub fn set_mac(&self, mac: [u8; 6]) {
        let mut space = self.lock();
        space.bytes[..6].copy_from_slice(&mac);
        if let Some(interrupt) = &space.interrupt {
            interrupt.publish_config(0, &mac);
        }
    }

    /// The driver has announced itself (§5.1.6.5.4).
    pub fn announced(&self) {
        let mut space = self.lock();
        let now = status(self.up(), false);
        space.bytes[STATUS..8].copy_from_slice(&now);
        if let Some(interrupt) = &space.interrupt {
            interrupt.publish_config(STATUS, &now);
        }
    }

    fn set_carrier(&self, up: bool) {
        // Of the tap, so once for all of its queues.
        if let Some(tap) = self.taps.first()
            && let Err(error) = tap.set_carrier(up)
        {
            log::debug!("setting a tap's carrier: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    fn run_backends(&self, on: bool) -> Result<(), VhostError> {
        let on = on && !self.paused;
        self.backends.iter().try_for_each(|backend| backend.run(on))
    }

    fn set_status(&mut self, now: [u8; 2]) {
        self.bytes[STATUS..8].copy_from_slice(&now);
        if let Some(interrupt) = &self.interrupt {
            interrupt.set_config(STATUS, &now);
        }
    }
}

fn status(up: bool, announce: bool) -> [u8; 2] {
    let up = if up { VIRTIO_NET_S_LINK_UP } else { 0 };
    let announce = if announce { VIRTIO_NET_S_ANNOUNCE } else { 0 };
    ((up | announce) as u16).to_le_bytes()
}
