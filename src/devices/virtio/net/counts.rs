//! What a network device counts.

use crate::metrics::{Counter, Histogram, Samples, Source};

/// The counts of a device, over all of its queues.
#[derive(Debug)]
pub struct Counts {
    name: String,
    /// From the host to the guest.
    pub rx: Direction,
    /// From the guest to the host.
    pub tx: Direction,
    /// Packets that the guest's filter didn't want.
    pub filtered: Counter,
    /// What the driver has asked for by the control queue.
    pub commands: Counter,
    /// From the event that wakes a queue pair's thread until what was there is served, at most a
    /// batch of each direction.
    pub service: Histogram,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Direction {
    /// Packets that went through.
    pub packets: Counter,
    /// Their bytes, without the virtio header.
    pub bytes: Counter,
    /// Packets that were thrown away: the link is down, or they don't fit.
    pub drops: Counter,
    /// Packets that the tap refused, and failed reads.
    pub errors: Counter,
    /// Waits because of a rate limit.
    pub throttled: Counter,
}

impl Counts {
    /// All zero.
    pub fn new(name: &str) -> Self {
        Counts {
            name: name.to_owned(),
            rx: Direction::default(),
            tx: Direction::default(),
            filtered: Counter::new(),
            commands: Counter::new(),
            service: Histogram::new(),
        }
    }
}

impl Source for Counts {
    fn collect(&self, samples: &mut Samples) {
        let device = ("device", self.name.as_str());
        for (name, direction) in [("rx", &self.rx), ("tx", &self.tx)] {
            let labels = [device, ("direction", name)];
            let mut add = |name, help, counter: &Counter| {
                samples.counter(name, help, &labels, counter.get());
            };
            add(
                "mote_net_packets_total",
                "Packets; a large send that the host cuts is one.",
                &direction.packets,
            );
            add(
                "mote_net_bytes_total",
                "Bytes of packets.",
                &direction.bytes,
            );
            add(
                "mote_net_dropped_total",
                "Packets thrown away: link down, or no room for them.",
                &direction.drops,
            );
            add(
                "mote_net_errors_total",
                "Packets that the host refused.",
                &direction.errors,
            );
            add(
                "mote_net_throttled_total",
                "Waits because of a rate limit.",
                &direction.throttled,
            );
        }
        samples.counter(
            "mote_net_filtered_total",
            "Received packets that the guest's address filter didn't want.",
            &[device],
            self.filtered.get(),
        );
        samples.counter(
            "mote_net_commands_total",
            "Commands on the control queue.",
            &[device],
            self.commands.get(),
        );
        samples.histogram(
            "mote_net_service_seconds",
            "From the event that wakes a queue's thread until what was there is served.",
            &[device],
            &self.service,
        );
    }
}
