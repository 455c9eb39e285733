//! virtio-net (virtio 1.3 §5.1) on a tap of the host.
//!
//! - `open`: from an option to the open queues of a tap, or a message that says what's wrong
//! - `tap`: a queue of a tap at work
//! - `features`: what a tap makes possible
//! - `link`: the configuration space, and the cable that can be plugged in and out
//! - `pair`: the thread of a queue pair, with `rx`, `tx` and, in the first one, `control`
//! - `gathered`: the guest's buffers for packets whose size isn't known yet
//! - `filter`: which packets the guest wants
//! - `counts`: what is counted
//! - `vhost`: the host's kernel in place of `pair`, `rx` and `tx`
//!
//! # What it costs
//!
//! A packet is one system call, between the tap and guest memory, in each direction, and nothing is
//! copied besides; with segmentation offload a packet is up to 64 KiB. A batch is one wait for
//! events and at most one interrupt. A notification of the guest's is an ioeventfd, and it's asked for
//! none while the thread is at work.

mod control;
mod counts;
mod features;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gathered;
mod link;
mod open;
mod pair;
mod rx;
mod tap;
mod tx;
mod vhost;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::*;
use vmm_sys_util::eventfd::EventFd;

use super::worker::WorkerPool;
use super::{ActivateError, Activation, ActiveQueue, VirtioDevice};
use crate::config::{Mac, Net, RateLimit};
use crate::devices::rate_limit::RateLimiter;
use crate::metrics::Source;
use control::{Commands, Control, attach_first};
use counts::Counts;
use features::{GUEST_LARGE, has, tap_offloads};
use filter::{Filter, SharedFilter};
pub use link::Link;
use link::Shared;
use open::Opened;
pub use open::{NetError, beforehand};
use pair::{Common, Events, Pair};
use rx::Receiver;
use tap::Tap;
use tx::Transmitter;
use vhost::Backend;

/// Descriptors of each data queue.
const QUEUE_SIZE: u16 = 256;
/// Descriptors of the control queue.
const CONTROL_SIZE: u16 = 64;
/// What an Ethernet has unless someone says otherwise.
const USUAL_MTU: u16 = 1500;

/// A virtio network device.
pub struct NetDevice {
    common: Arc<Common>,
    taps: Vec<Arc<Tap>>,
    mac: [u8; 6],
    features: u64,
    mtu: Option<u16>,
    queue_sizes: Vec<u16>,
    stop: Option<Arc<EventFd>>,
    threads: Vec<JoinHandle<()>>,
    /// Whether the kernel moves the packets, and who obeys the control queue then.
    vhost: bool,
    control: Option<WorkerPool<Commands>>,
}

impl NetDevice {
    /// Opens the tap. No thread is started before the driver is ready.
    ///
    /// # Errors
    ///
    /// See [`NetError`].
    pub fn open(name: &str, net: &Net) -> Result<Self, NetError> {
        let opened = match (&net.tap, net.fd) {
            (Some(tap), _) => open::by_name(tap, net.queues, net.mtu)?,
            (None, Some(fd)) => open::by_descriptor(fd, net.queues)?,
            (None, None) => return Err(crate::config::ConfigError::NetNowhere.into()),
        };
        let vhost = match net.vhost {
            true => Some(vhost::features(&described(net))?),
            false => None,
        };
        let mac = net.mac.map_or_else(random_mac, |mac| mac.0);
        log::info!("{name}: the guest's address is {}", Mac(mac));
        Self::new(name, net, opened, vhost, mac)
    }

    /// `vhost` is what the kernel's vhost-net can do, if that is to move the packets.
    fn new(
        name: &str,
        net: &Net,
        opened: Opened,
        vhost: Option<u64>,
        mac: [u8; 6],
    ) -> Result<Self, NetError> {
        let pairs = opened.taps.len() as u16;
        let [rx_limit, tx_limit] = net.limits()?.map(|limit| RateLimiter::new(&limit));
        let taps: Vec<_> = opened.taps.into_iter().map(Arc::new).collect();
        // Until the driver asks for more, one pair has all packets.
        attach_first(&taps, 1).map_err(|source| NetError::Refused {
            net: described(net),
            what: "detaching its further queues",
            source,
        })?;
        let mtu = net.mtu.or(opened.mtu);
        // Worth saying only if it's not what every driver assumes.
        let told = net.mtu.or(opened.mtu.filter(|mtu| *mtu != USUAL_MTU));
        let shared = Shared::new(mac, pairs, told.unwrap_or(0), net.link, taps.clone());
        let features = features::offered(opened.offloads, told.is_some(), pairs);
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * usize::from(pairs)];
        queue_sizes.push(CONTROL_SIZE);
        Ok(Self {
            common: Arc::new(Common {
                name: name.to_owned(),
                shared: Arc::new(shared),
                filter: SharedFilter::new(mac),
                counts: Arc::new(Counts::new(name)),
                rx_limit,
                tx_limit,
                failed: AtomicBool::new(false),
            }),
            features: match vhost {
                Some(known) => features::by_vhost(features, known),
                None => features,
            },
            mtu,
            taps,
            mac,
            queue_sizes,
            stop: None,
            threads: Vec::new(),
            vhost: vhost.is_some(),
            control: None,
        })
    }

    /// The cable, to be plugged in and out while the device works.
    pub fn link(&self) -> Link {
        Link::new(self.common.shared.clone())
    }

    /// Its limits, to be changed while it works; `None` where the kernel moves the packets, which knows none.
    pub fn limits(&self) -> Option<Limits> {
        (!self.vhost).then(|| Limits(self.common.clone()))
    }

    fn start(&mut self, activation: Activation) -> Result<(), ActivateError> {
        for (index, pair) in self.pairs(activation)? {
            let name = match index {
                0 => format!("mote-{}", self.common.name),
                _ => format!("mote-{}.{index}", self.common.name),
            };
            let Some(stop) = self.stop.clone() else { break };
            let thread = pair
                .start(&name, stop)
                .map_err(|source| ActivateError::Thread { name, source })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// The queue pairs that threads are to serve, with their numbers; none where the kernel does.
    fn pairs(&mut self, activation: Activation) -> Result<Vec<(usize, Pair)>, ActivateError> {
        let refused = |what: &str, source| ActivateError::Host {
            what: format!("{}: {what}", self.common.name),
            source,
        };
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        if let Some(tap) = self.taps.first().filter(|tap| tap.has_header()) {
            tap.set_offload(tap_offloads(features))
                .map_err(|e| refused("setting the tap's offloads", e))?;
        }
        let announces = has(features, VIRTIO_NET_F_GUEST_ANNOUNCE);
        self.common.shared.start(&interrupt, announces);

        // §5.1.2: without VIRTIO_NET_F_MQ there's one pair, whatever the device has.
        let pairs = match has(features, VIRTIO_NET_F_MQ) {
            true => self.taps.len(),
            false => 1,
        };
        let mut slots: Vec<Option<ActiveQueue>> = Vec::new();
        slots.resize_with(self.queue_sizes.len(), || None);
        for queue in queues {
            let index = usize::from(queue.index);
            slots[index] = Some(queue);
        }
        let mut control = slots[2 * pairs]
            .take()
            .filter(|_| has(features, VIRTIO_NET_F_CTRL_VQ));
        let commands = Commands {
            common: self.common.clone(),
            taps: self.taps.clone(),
            features,
            pairs: pairs as u16,
        };
        if self.vhost {
            if let Some(queue) = control {
                let name = format!("mote-{}", self.common.name);
                let pool =
                    WorkerPool::start(&name, 1, commands, queue, memory.clone(), interrupt.clone());
                self.control = Some(pool?);
            }
            let mut backends = Vec::with_capacity(pairs);
            for (tap, queues) in self.taps.iter().zip(slots.chunks(2)).take(pairs) {
                if let [Some(rx), Some(tx)] = queues {
                    let queues = [rx, tx];
                    backends.push(Backend::new(tap, queues, features, &memory, &interrupt)?);
                }
            }
            self.common.shared.serve_by(backends)?;
            return Ok(Vec::new());
        }
        let mut commands = Some(commands);
        let mergeable = has(features, VIRTIO_NET_F_MRG_RXBUF);
        let mtu = match features & GUEST_LARGE {
            0 => Some(self.mtu.unwrap_or(USUAL_MTU)),
            _ => None,
        };
        let stop = Arc::new(EventFd::new(libc::EFD_CLOEXEC).map_err(|e| refused("an event", e))?);
        self.stop = Some(stop.clone());
        let mut ready = Vec::with_capacity(pairs);
        for (index, tap) in self.taps.iter().enumerate().take(pairs) {
            let (Some(rx), Some(tx)) = (slots[2 * index].take(), slots[2 * index + 1].take())
            else {
                continue; // of no use to the driver
            };
            let control = control.take().filter(|_| index == 0);
            let epoll = Events {
                stop: &stop,
                tap,
                rx: &rx.notify,
                tx: &tx.notify,
                control: control.as_ref().map(|queue| &*queue.notify),
            };
            let epoll = epoll
                .register()
                .map_err(|e| refused("waiting for events", e))?;
            let control = control
                .zip(commands.take())
                .map(|(queue, commands)| Control::new(queue.queue, &memory, commands));
            let common = &self.common;
            let pair = Pair {
                receiver: Receiver::new(rx.queue, &memory, common, tap, mergeable, mtu),
                transmitter: Transmitter::new(tx.queue, &memory, common, tap),
                control,
                common: common.clone(),
                interrupt: interrupt.clone(),
                epoll,
                _events: [rx.notify, tx.notify],
            };
            ready.push((index, pair));
        }
        Ok(ready)
    }
}

impl VirtioDevice for NetDevice {
    fn name(&self) -> &str {
        &self.common.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.common.shared.read(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.start(activation)
    }

    fn reset(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.write(1); // a full counter stops just as well
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of {} has panicked", self.common.name);
                assert!(
                    !cfg!(test) || std::thread::panicking(),
                    "a thread has panicked"
                );
            }
        }
        self.control = None;
        self.common.shared.stop(self.mac);
        self.common
            .filter
            .change(|filter| *filter = Filter::new(self.mac));
        let back = attach_first(&self.taps, 1).and_then(|()| match self.taps.first() {
            Some(tap) if tap.has_header() => tap.set_offload(0),
            _ => Ok(()),
        });
        if let Err(error) = back {
            log::debug!("{}: setting the tap back: {error}", self.common.name);
        }
    }

    fn is_served_elsewhere(&self) -> bool {
        self.vhost
    }

    fn serve_elsewhere(&mut self, on: bool) -> Result<(), ActivateError> {
        Ok(self.common.shared.pause(!on)?)
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.common.counts.clone())
    }
}

/// The limits of a network device, from any thread.
#[derive(Clone)]
pub struct Limits(Arc<Common>);

impl Limits {
    /// Other limits for what goes to the guest, from the next packet on.
    pub fn set_to_guest(&self, limit: &RateLimit) {
        self.0.rx_limit.set(limit);
    }

    /// Other limits for what comes from the guest, likewise.
    pub fn set_from_guest(&self, limit: &RateLimit) {
        self.0.tx_limit.set(limit);
    }
}

/// The device as it was given.
fn described(net: &Net) -> String {
    match (&net.tap, net.fd) {
        (Some(tap), _) => format!("tap={tap}"),
        (None, Some(fd)) => format!("fd={fd}"),
        (None, None) => String::new(),
    }
}

/// A random address of the locally administered ones, of one station.
pub fn random_mac() -> [u8; 6] {
    let mut mac = [0; 6];
    // SAFETY: a buffer and its length.
    let count = unsafe { libc::getrandom(mac.as_mut_ptr().cast(), mac.len(), 0) };
    if count != mac.len() as isize {
        log::debug!("no random numbers for an address");
    }
    mac[0] = mac[0] & !1 | 2;
    mac
}

#[cfg(test)]
mod tests;
