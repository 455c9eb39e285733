//! The control queue (virtio 1.3 §5.1.6.5): commands of the driver, each answered with OK or ERR.

use std::sync::Arc;

use virtio_bindings::virtio_net::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::features::{GUEST_OFFLOADS, has, tap_offloads};
use super::pair::{Common, PairError};
use super::tap::Tap;
use crate::devices::virtio::buffers::{Buffers, ChainError, GuestBytes};
use crate::devices::virtio::queue::{pop, push_used};
use crate::devices::virtio::worker::RequestHandler;
use crate::sandbox::ThreadKind;

/// Addresses in one table of a command, above which it isn't even read.
const MANY: u32 = 4096;

/// Commands before the thread looks at its other events.
const BATCH: usize = 16;

/// What the driver may command, and how it's obeyed.
pub struct Commands {
    pub common: Arc<Common>,
    pub taps: Vec<Arc<Tap>>,
    /// What the driver has accepted.
    pub features: u64,
    /// Queue pairs that are served.
    pub pairs: u16,
}

/// The control queue, for a thread that serves other queues too.
pub struct Control {
    queue: Queue,
    memory: GuestMemoryMmap<()>,
    buffers: Buffers,
    commands: Commands,
}

impl Control {
    pub fn new(queue: Queue, memory: &GuestMemoryMmap<()>, commands: Commands) -> Self {
        Self {
            queue,
            memory: memory.clone(),
            buffers: Buffers::new(memory),
            commands,
        }
    }

    /// Serves what is there, or [`BATCH`] of it: whether the driver wants an interrupt, and whether
    /// there is more. A driver that commands without end must not keep a reset waiting.
    pub fn serve(&mut self) -> Result<(bool, bool), PairError> {
        let mut interrupt = false;
        for _ in 0..BATCH {
            let Some((chain, _)) = pop(&mut self.queue, &self.memory)? else {
                break;
            };
            let head = chain.head_index();
            self.buffers.load(chain)?;
            let len = self.commands.handle(&mut self.buffers, &mut ())?;
            interrupt |= push_used(&mut self.queue, &self.memory, head, len)?;
        }
        let more = self.queue.enable_notification(&self.memory)?;
        Ok((interrupt, more))
    }
}

impl RequestHandler for Commands {
    const KIND: ThreadKind = ThreadKind::Net;

    type Scratch = ();

    fn handle(&self, buffers: &mut Buffers, (): &mut ()) -> Result<u32, ChainError> {
        if !buffers.split_tail(1) {
            return Err(ChainError::NoStatus);
        }
        self.common.counts.commands.inc();
        let answer = match self.command(&mut buffers.readable) {
            Some(()) => VIRTIO_NET_OK,
            None => VIRTIO_NET_ERR,
        };
        buffers.tail.write(&[answer as u8]);
        Ok(1)
    }
}

impl Commands {
    /// Obeys one command, or does nothing.
    fn command(&self, bytes: &mut GuestBytes) -> Option<()> {
        let [class, command] = take(bytes)?;
        let offered = |feature| has(self.features, feature);
        let filter = &self.common.filter;
        match (u32::from(class), u32::from(command)) {
            (VIRTIO_NET_CTRL_RX, which) if offered(VIRTIO_NET_F_CTRL_RX) => {
                let [on] = take(bytes)?;
                let on = on != 0;
                let extra = offered(VIRTIO_NET_F_CTRL_RX_EXTRA);
                match which {
                    VIRTIO_NET_CTRL_RX_PROMISC => filter.change(|f| f.promiscuous = on),
                    VIRTIO_NET_CTRL_RX_ALLMULTI => filter.change(|f| f.all_multicast = on),
                    VIRTIO_NET_CTRL_RX_ALLUNI if extra => filter.change(|f| f.all_unicast = on),
                    VIRTIO_NET_CTRL_RX_NOMULTI if extra => filter.change(|f| f.no_multicast = on),
                    VIRTIO_NET_CTRL_RX_NOUNI if extra => filter.change(|f| f.no_unicast = on),
                    VIRTIO_NET_CTRL_RX_NOBCAST if extra => filter.change(|f| f.no_broadcast = on),
                    _ => return None,
                }
            }
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET)
                if offered(VIRTIO_NET_F_CTRL_RX) =>
            {
                let unicast = addresses(bytes)?;
                let multicast = addresses(bytes)?;
                filter.change(|f| f.set_tables(&unicast, &multicast));
            }
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET)
                if offered(VIRTIO_NET_F_CTRL_MAC_ADDR) =>
            {
                let mac = take(bytes)?;
                filter.change(|f| f.mac = mac);
                self.common.shared.set_mac(mac);
            }
            (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK)
                if offered(VIRTIO_NET_F_GUEST_ANNOUNCE) =>
            {
                self.common.shared.announced();
            }
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) if offered(VIRTIO_NET_F_MQ) => {
                let pairs = u16::from_le_bytes(take(bytes)?);
                return self.use_pairs(pairs);
            }
            (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET)
                if offered(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) =>
            {
                let wanted = u64::from_le_bytes(take(bytes)?);
                // §5.1.6.5.6.1: none that wasn't negotiated.
                if wanted & !(self.features & GUEST_OFFLOADS) != 0 {
                    return None;
                }
                self.taps.first()?.set_offload(tap_offloads(wanted)).ok()?;
            }
            _ => return None,
        }
        Some(())
    }

    /// Has the kernel spread packets over the first `pairs` queue pairs (§5.1.6.5.5).
    fn use_pairs(&self, pairs: u16) -> Option<()> {
        if pairs == 0 || pairs > self.pairs {
            return None;
        }
        attach_first(&self.taps, pairs)
            .inspect_err(|error| log::debug!("{}: queue pairs: {error}", self.common.name))
            .ok()
    }
}

/// Attaches the first `pairs` queues of a tap, and detaches the others.
pub fn attach_first(taps: &[Arc<Tap>], pairs: u16) -> std::io::Result<()> {
    for (index, tap) in taps.iter().enumerate() {
        tap.attach(index < usize::from(pairs))?;
    }
    Ok(())
}

/// The next `N` bytes of a command.
fn take<const N: usize>(bytes: &mut GuestBytes) -> Option<[u8; N]> {
    let mut data = [0; N];
    (bytes.read(&mut data) == N).then_some(data)
}

/// `struct virtio_net_ctrl_mac`: a count, and as many addresses.
fn addresses(bytes: &mut GuestBytes) -> Option<Vec<[u8; 6]>> {
    let count = u32::from_le_bytes(take(bytes)?);
    if count > MANY {
        return None;
    }
    (0..count).map(|_| take(bytes)).collect()
}
