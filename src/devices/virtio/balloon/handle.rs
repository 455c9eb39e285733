//! The host's end of a balloon: what the guest shall give up, what it says of itself, and counts.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::Interrupt;
use super::{BalloonConfig, NUM_PAGES, PAGE};
use crate::config::Size;
use crate::metrics::{Counter, Histogram, Samples, Source};

/// Why a balloon can't have a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BalloonError {
    /// The guest hasn't that much memory.
    #[error("a balloon of {size}: the guest has {memory}, and needs some of it")]
    TooLarge {
        /// What was asked for.
        size: Size,
        /// All of the guest's memory.
        memory: Size,
    },
}

/// A VM's balloon, from any thread.
#[derive(Clone)]
pub struct Balloon {
    shared: Arc<Shared>,
}

impl Balloon {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Balloon { shared }
    }

    /// Asks the guest to give up `size` of its memory, in whole pages of 4 KiB: more than now
    /// inflates the balloon, less gives memory back to the guest. Its driver does it when it can,
    /// which [`actual`](Self::actual) shows; a guest without a driver never does.
    ///
    /// # Errors
    ///
    /// `size` isn't less than the guest's memory.
    pub fn set_target(&self, size: Size) -> Result<(), BalloonError> {
        let memory = self.shared.memory;
        if size.bytes() >= memory {
            let memory = Size::new(memory);
            return Err(BalloonError::TooLarge { size, memory });
        }
        let pages = pages(size.bytes());
        let live = self.shared.lock();
        self.shared.target.store(pages, Ordering::SeqCst);
        if let Some(interrupt) = live.as_ref() {
            interrupt.set_config(NUM_PAGES, &pages.to_le_bytes());
        }
        Ok(())
    }

    /// What the guest was asked to give up.
    pub fn target(&self) -> Size {
        size(self.shared.target())
    }

    /// What the guest says that it has given up.
    pub fn actual(&self) -> Size {
        size(self.shared.actual())
    }

    /// What the guest last said of its memory; nothing if the balloon was made without statistics.
    pub fn stats(&self) -> GuestStats {
        *self.shared.stats()
    }

    /// Bytes that the host has taken back so far, by inflation and by reports of free pages.
    /// Memory that the guest has used again is still counted.
    pub fn released(&self) -> u64 {
        self.shared.counts.inflated.get() + self.shared.counts.reported.get()
    }
}

/// What a guest says of its memory (virtio 1.3 §5.5.6.3): what it doesn't say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    values: [Option<u64>; TAGS.len()],
    /// How many times it has told.
    pub updates: u64,
}

/// One figure of [`GuestStats`]: its name, what it means, whether it only grows.
struct Tag {
    name: &'static str,
    help: &'static str,
    counter: bool,
}

const fn grows(name: &'static str, help: &'static str) -> Tag {
    Tag {
        name,
        help,
        counter: true,
    }
}

const fn level(name: &'static str, help: &'static str) -> Tag {
    Tag {
        name,
        help,
        counter: false,
    }
}

/// In the order of their tags (§5.5.6.4).
const TAGS: [Tag; 16] = [
    grows(
        "mote_guest_swap_in_bytes_total",
        "Memory swapped in, in bytes, as the guest says.",
    ),
    grows(
        "mote_guest_swap_out_bytes_total",
        "Memory swapped out, in bytes, as the guest says.",
    ),
    grows(
        "mote_guest_major_faults_total",
        "Page faults that needed I/O, as the guest says.",
    ),
    grows(
        "mote_guest_minor_faults_total",
        "Page faults that needed none, as the guest says.",
    ),
    level(
        "mote_guest_memory_free_bytes",
        "Memory used for nothing, as the guest says.",
    ),
    level(
        "mote_guest_memory_total_bytes",
        "All memory, as the guest says.",
    ),
    level(
        "mote_guest_memory_available_bytes",
        "Memory for new programs without swapping, as the guest says.",
    ),
    level(
        "mote_guest_disk_caches_bytes",
        "Memory that caches files, as the guest says.",
    ),
    grows(
        "mote_guest_hugetlb_allocations_total",
        "Huge pages allocated, as the guest says.",
    ),
    grows(
        "mote_guest_hugetlb_failures_total",
        "Huge pages not to be had, as the guest says.",
    ),
    grows(
        "mote_guest_oom_kills_total",
        "Times that the guest's kernel killed for want of memory.",
    ),
    grows(
        "mote_guest_allocation_stalls_total",
        "Times that an allocation had to wait, as the guest says.",
    ),
    grows(
        "mote_guest_async_scanned_pages_total",
        "Pages scanned in the background, as the guest says.",
    ),
    grows(
        "mote_guest_direct_scanned_pages_total",
        "Pages scanned for an allocation, as the guest says.",
    ),
    grows(
        "mote_guest_async_reclaimed_pages_total",
        "Pages reclaimed in the background, as the guest says.",
    ),
    grows(
        "mote_guest_direct_reclaimed_pages_total",
        "Pages reclaimed for an allocation, as the guest says.",
    ),
];

impl GuestStats {
    /// Memory that the guest uses for nothing.
    pub fn free(&self) -> Option<u64> {
        self.values[4]
    }

    /// All of the guest's memory, without what is in the balloon.
    pub fn total(&self) -> Option<u64> {
        self.values[5]
    }

    /// What the guest could give to programs without swapping.
    pub fn available(&self) -> Option<u64> {
        self.values[6]
    }

    /// Memory that caches files.
    pub fn caches(&self) -> Option<u64> {
        self.values[7]
    }

    /// Times that the guest's kernel has killed a process for want of memory.
    pub fn oom_kills(&self) -> Option<u64> {
        self.values[10]
    }

    /// All figures, in the order of their tags (§5.5.6.4).
    pub fn values(&self) -> &[Option<u64>] {
        &self.values
    }

    /// A tag that isn't known is passed over.
    pub(super) fn set(&mut self, tag: u16, value: u64) {
        if let Some(place) = self.values.get_mut(usize::from(tag)) {
            *place = Some(value);
        }
    }
}

/// What the device, its thread and the host's handles share.
pub(super) struct Shared {
    memory: u64,
    /// In pages: what the host wants, and what the driver says.
    target: AtomicU32,
    actual: AtomicU32,
    poison: AtomicU32,
    /// The way to the driver, while there is one. Held while the target changes.
    live: Mutex<Option<Arc<Interrupt>>>,
    stats: Mutex<GuestStats>,
    /// The host has refused something, and that is in its log.
    pub refused_before: AtomicBool,
    pub counts: Counts,
}

/// What the device has done.
#[derive(Default)]
pub(super) struct Counts {
    pub inflate_requests: Counter,
    pub deflate_requests: Counter,
    pub report_requests: Counter,
    /// Bytes taken back.
    pub inflated: Counter,
    pub reported: Counter,
    /// Bytes that the guest took out of the balloon.
    pub deflated: Counter,
    pub errors: Counter,
    pub latency: Histogram,
}

impl Shared {
    pub fn new(config: &BalloonConfig) -> Self {
        Shared {
            memory: config.memory,
            target: AtomicU32::new(pages(config.size)),
            actual: AtomicU32::new(0),
            poison: AtomicU32::new(0),
            live: Mutex::new(None),
            stats: Mutex::default(),
            refused_before: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Interrupt>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, GuestStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn target(&self) -> u32 {
        self.target.load(Ordering::SeqCst)
    }

    pub fn actual(&self) -> u32 {
        self.actual.load(Ordering::SeqCst)
    }

    pub fn set_actual(&self, pages: u32) {
        self.actual.store(pages, Ordering::SeqCst);
    }

    /// What the guest fills free pages with.
    pub fn poison(&self) -> u32 {
        self.poison.load(Ordering::SeqCst)
    }

    pub fn set_poison(&self, value: u32) {
        self.poison.store(value, Ordering::SeqCst);
    }

    pub fn set_stats(&self, mut stats: GuestStats) {
        let mut last = self.stats();
        stats.updates = last.updates + 1;
        *last = stats;
    }

    /// From now on a new target reaches the driver; one of before reaches it here.
    pub fn go_live(&self, interrupt: Arc<Interrupt>) {
        let mut live = self.lock();
        interrupt.set_config(NUM_PAGES, &self.target().to_le_bytes());
        *live = Some(interrupt);
    }

    /// The driver is gone, and with it what it held.
    pub fn reset(&self) {
        *self.lock() = None;
        self.set_actual(0);
        self.set_poison(0);
    }
}

impl Source for Shared {
    fn collect(&self, samples: &mut Samples) {
        let gauge = |value: u32| (u64::from(value) * PAGE) as f64;
        samples.gauge(
            "mote_balloon_target_bytes",
            "Memory that the guest was asked to give up.",
            &[],
            gauge(self.target()),
        );
        samples.gauge(
            "mote_balloon_actual_bytes",
            "Memory that the guest says it has given up.",
            &[],
            gauge(self.actual()),
        );
        let counts = &self.counts;
        for (op, requests, bytes) in [
            ("inflate", &counts.inflate_requests, &counts.inflated),
            ("deflate", &counts.deflate_requests, &counts.deflated),
            ("report", &counts.report_requests, &counts.reported),
        ] {
            samples.counter(
                "mote_balloon_requests_total",
                "Requests of the guest's balloon driver.",
                &[("op", op)],
                requests.get(),
            );
            samples.counter(
                "mote_balloon_bytes_total",
                "Memory that they were about: given to the host (inflate, report), taken back (deflate).",
                &[("op", op)],
                bytes.get(),
            );
        }
        samples.counter(
            "mote_balloon_errors_total",
            "Requests whose memory the host would not take back.",
            &[],
            counts.errors.get(),
        );
        samples.histogram(
            "mote_balloon_request_seconds",
            "How long requests took.",
            &[],
            &counts.latency,
        );
        let stats = *self.stats();
        for (tag, value) in TAGS.iter().zip(stats.values) {
            match value {
                Some(value) if tag.counter => samples.counter(tag.name, tag.help, &[], value),
                Some(value) => samples.gauge(tag.name, tag.help, &[], value as f64),
                None => {}
            }
        }
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}

fn size(pages: u32) -> Size {
    Size::new(u64::from(pages) * PAGE)
}
