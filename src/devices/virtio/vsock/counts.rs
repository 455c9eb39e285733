//! What the device counts.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::metrics::{Counter, Histogram, Samples, Source};

/// The counts of one device, for all of its connections.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections now, those that are being made included.
    open: AtomicI64,
    /// Connections made: by programs on the host, and by the guest.
    pub from_host: Counter,
    pub from_guest: Counter,
    /// Bytes of data.
    pub bytes_to_guest: Counter,
    pub bytes_to_host: Counter,
    /// Packets of all kinds.
    pub packets_to_guest: Counter,
    pub packets_from_guest: Counter,
    /// Connections that ended by a reset, from the guest or because of it.
    pub resets: Counter,
    /// Connections that came to nothing: by the host's part, and by the guest's.
    pub refused_by_host: Counter,
    pub refused_by_guest: Counter,
    /// Packets of the guest that were dropped: no whole header, or another's address.
    pub dropped: Counter,
    /// From a program's connection until the guest has accepted it.
    pub connect: Histogram,
}

impl Counts {
    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub fn closed(&self, count: usize) {
        self.open.fetch_sub(count as i64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn open(&self) -> i64 {
        self.open.load(Ordering::Relaxed)
    }
}

impl Source for Counts {
    fn collect(&self, samples: &mut Samples) {
        let device = ("device", "vsock");
        samples.gauge(
            "mote_vsock_connections",
            "Connections now.",
            &[device],
            self.open.load(Ordering::Relaxed) as f64,
        );
        for (name, help, label, values) in [
            (
                "mote_vsock_connections_total",
                "Connections made.",
                "from",
                [("host", &self.from_host), ("guest", &self.from_guest)],
            ),
            (
                "mote_vsock_refused_total",
                "Connections that were refused, or not accepted in time.",
                "by",
                [
                    ("host", &self.refused_by_host),
                    ("guest", &self.refused_by_guest),
                ],
            ),
            (
                "mote_vsock_bytes_total",
                "Bytes of data.",
                "to",
                [
                    ("guest", &self.bytes_to_guest),
                    ("host", &self.bytes_to_host),
                ],
            ),
            (
                "mote_vsock_packets_total",
                "Packets of all kinds.",
                "to",
                [
                    ("guest", &self.packets_to_guest),
                    ("host", &self.packets_from_guest),
                ],
            ),
        ] {
            for (value, counter) in values {
                samples.counter(name, help, &[device, (label, value)], counter.get());
            }
        }
        samples.counter(
            "mote_vsock_resets_total",
            "Connections that ended by a reset.",
            &[device],
            self.resets.get(),
        );
        samples.counter(
            "mote_vsock_dropped_packets_total",
            "Packets of the guest without a whole header, or with another's address.",
            &[device],
            self.dropped.get(),
        );
        samples.histogram(
            "mote_vsock_connect_seconds",
            "From a host program's connection until the guest has accepted it.",
            &[device],
            &self.connect,
        );
    }
}
