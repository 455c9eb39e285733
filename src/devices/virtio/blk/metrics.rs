//! What a drive counts: requests, bytes, errors and times, by operation.

use std::time::Duration;

use crate::metrics::{Counter, Histogram, Samples, Source};

/// The kinds of requests that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// VIRTIO_BLK_T_IN
    Read,
    /// VIRTIO_BLK_T_OUT
    Write,
    /// VIRTIO_BLK_T_FLUSH
    Flush,
    /// VIRTIO_BLK_T_DISCARD
    Discard,
    /// VIRTIO_BLK_T_WRITE_ZEROES
    Zeroes,
    /// The request for the drive's id, and what the drive doesn't understand.
    Other,
}

const OPS: [(Op, &str); 6] = [
    (Op::Read, "read"),
    (Op::Write, "write"),
    (Op::Flush, "flush"),
    (Op::Discard, "discard"),
    (Op::Zeroes, "write_zeroes"),
    (Op::Other, "other"),
];

/// The counts of one drive, over all of its queues.
#[derive(Debug, Default)]
pub struct BlkMetrics {
    name: String,
    ops: [Counts; OPS.len()],
    throttled: Counter,
}

#[derive(Debug, Default)]
struct Counts {
    errors: Counter,
    bytes: Counter,
    times: Histogram,
}

impl BlkMetrics {
    /// No counts yet, of the drive `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// A request has been answered.
    pub(super) fn answered(&self, op: Op, bytes: u64, time: Duration, ok: bool) {
        let counts = &self.ops[op as usize];
        match ok {
            true => counts.bytes.add(bytes),
            false => counts.errors.inc(),
        }
        counts.times.record(time);
    }

    /// A request has to wait for its time.
    pub(super) fn throttled(&self) {
        self.throttled.inc();
    }
}

impl Source for BlkMetrics {
    fn collect(&self, samples: &mut Samples) {
        for (op, label) in OPS {
            let counts = &self.ops[op as usize];
            let labels: &[_] = &[("device", &*self.name), ("op", label)];
            samples.counter(
                "mote_blk_requests_total",
                "Requests that a drive has answered.",
                labels,
                counts.times.count(),
            );
            samples.counter(
                "mote_blk_errors_total",
                "Requests that a drive has answered with an error.",
                labels,
                counts.errors.get(),
            );
            if !matches!(op, Op::Flush | Op::Other) {
                samples.counter(
                    "mote_blk_bytes_total",
                    "Bytes read, written, discarded or zeroed without an error.",
                    labels,
                    counts.bytes.get(),
                );
            }
            samples.histogram(
                "mote_blk_request_seconds",
                "From taking a request to its answer, waiting for a rate limit included.",
                labels,
                &counts.times,
            );
        }
        samples.counter(
            "mote_blk_throttled_total",
            "Requests that had to wait for a rate limit.",
            &[("device", &*self.name)],
            self.throttled.get(),
        );
    }
}
