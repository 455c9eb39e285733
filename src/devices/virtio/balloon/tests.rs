//! A balloon with a driver in plain memory.

use super::super::testing::{Buffer, DriverQueue, EVENT_IDX, FakeGuest, NEXT, NOWHERE, wait_until};
use super::*;
use crate::config::Size;
use crate::metrics::Registry;

const ALL: u64 = STATS_VQ | DEFLATE_ON_OOM | PAGE_POISON | PAGE_REPORTING | EVENT_IDX;
/// Where the tests' pages are, in the second region.
const PAGES: u64 = 8 << 20;
const MEMORY: u64 = 33 << 20;

fn config() -> BalloonConfig {
    BalloonConfig {
        size: 0,
        memory: MEMORY,
        deflate_on_oom: true,
        stats: None,
        reporting: true,
    }
}

struct Test {
    guest: FakeGuest,
    queues: Vec<DriverQueue>,
    balloon: Balloon,
    metrics: Registry,
}

fn start(config: BalloonConfig, wanted: u64) -> Test {
    let device = BalloonDevice::new(config);
    let balloon = device.handle();
    let mut metrics = Registry::new();
    metrics.add(device.metrics().unwrap());
    let (guest, queues) = FakeGuest::running(device, wanted);
    Test {
        guest,
        queues,
        balloon,
        metrics,
    }
}

impl Test {
    /// Fills pages from PAGES on with ones.
    fn fill(&self, pages: u64) {
        self.guest.store(PAGES, &vec![1; (pages * PAGE) as usize]);
    }

    /// Whether each page has ones still.
    fn full(&self, pages: u64) -> Vec<bool> {
        let bytes = self.guest.load(PAGES, (pages * PAGE) as usize);
        bytes
            .chunks(PAGE as usize)
            .map(|page| {
                assert!(page.iter().all(|byte| byte == &page[0]));
                page[0] == 1
            })
            .collect()
    }

    /// A request of the inflate (0) or deflate (1) queue.
    fn send(&mut self, queue: usize, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        let address = self.guest.alloc_with(&bytes);
        let buffer = Buffer::Read(address, bytes.len() as u32);
        self.guest.transact(&mut self.queues[queue], &[buffer]);
    }
}

/// The page number of the `n`th page from PAGES on.
fn page(n: u64) -> u32 {
    ((PAGES / PAGE) + n) as u32
}

#[test]
fn features_and_queues_are_those_that_were_asked_for() {
    let queues = |config| {
        FakeGuest::new(BalloonDevice::new(config))
            .transport
            .notifiers()
            .len()
    };
    let mut bare = BalloonConfig {
        reporting: false,
        deflate_on_oom: false,
        ..config()
    };
    assert_eq!(BalloonDevice::new(bare).features(), 0);
    assert_eq!(queues(bare), 2);
    bare.reporting = true;
    assert_eq!(
        BalloonDevice::new(bare).features(),
        PAGE_REPORTING | PAGE_POISON
    );
    assert_eq!(queues(bare), 3);
    bare.stats = Some(Duration::from_secs(1));
    assert_eq!(queues(bare), 4);
}

#[test]
fn inflated_pages_are_given_to_the_host_and_read_as_zero() {
    for wanted in [ALL, ALL & !EVENT_IDX] {
        let mut test = start(config(), wanted);
        test.fill(6);
        // Out of order, twice, and where there is no memory.
        let nowhere = (NOWHERE / PAGE) as u32;
        test.send(0, &[page(4), page(1), page(0), page(1), nowhere, u32::MAX]);
        assert_eq!(test.full(6), [false, false, true, true, false, true]);
        assert_eq!(test.balloon.released(), 3 * PAGE);
        test.fill(6);
        test.send(1, &[page(0), page(1)]);
        assert_eq!(test.full(6), [true; 6]);
        let text = test.metrics.render();
        for line in [
            "mote_balloon_bytes_total{op=\"inflate\"} 12288",
            "mote_balloon_bytes_total{op=\"deflate\"} 8192",
            "mote_balloon_requests_total{op=\"inflate\"} 1",
            "mote_balloon_request_seconds_count 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}

#[test]
fn page_numbers_may_be_cut_anywhere() {
    let mut test = start(config(), ALL);
    test.fill(4);
    let bytes: Vec<u8> = (0..4).flat_map(|n| page(n).to_le_bytes()).collect();
    let (a, b) = (
        test.guest.alloc_with(&bytes[..5]),
        test.guest.alloc_with(&bytes[5..15]),
    );
    let buffers = [Buffer::Read(a, 5), Buffer::Read(b, 10)];
    test.guest.transact(&mut test.queues[0], &buffers);
    // The last number is not all there.
    assert_eq!(test.full(4), [false, false, false, true]);
}

#[test]
fn a_request_is_bounded_whatever_it_says() {
    let mut test = start(config(), ALL);
    test.fill(2);
    // One page more than a request can name.
    let list = (0..16 * 1024).map(|n| (NOWHERE / PAGE) as u32 + n);
    let list: Vec<u32> = list.chain([page(0)]).collect();
    test.send(0, &list);
    assert_eq!(test.full(2), [true, true]);
    test.send(0, &list[1..]);
    assert_eq!(test.full(2), [false, true]);
}

#[test]
fn reported_ranges_are_given_to_the_host_unless_the_guest_fills_its_free_pages() {
    let mut test = start(config(), ALL);
    let buffers = [
        Buffer::Write(PAGES, PAGE as u32),
        Buffer::Write(PAGES + 2 * PAGE, 2 * PAGE as u32),
    ];
    test.fill(5);
    test.guest.transact(&mut test.queues[2], &buffers);
    assert_eq!(test.full(5), [false, true, false, false, true]);
    assert_eq!(test.balloon.released(), 3 * PAGE);
    test.guest.set(0x100 + POISON_VAL as u32, 0xaaaa_aaaa);
    test.fill(5);
    test.guest.transact(&mut test.queues[2], &buffers);
    assert_eq!(test.full(5), [true; 5]);
    assert_eq!(test.balloon.released(), 3 * PAGE);
}

#[test]
fn a_new_target_reaches_the_driver() {
    let mut test = start(
        BalloonConfig {
            size: 3 << 20,
            ..config()
        },
        ALL,
    );
    let target = |guest: &mut FakeGuest| u32::from_le_bytes(guest.config(NUM_PAGES as u64));
    assert_eq!(target(&mut test.guest), 768);
    test.guest.wait_interrupt(); // of becoming live
    test.balloon.set_target(Size::mib(5)).unwrap();
    assert_eq!(test.guest.wait_interrupt() & 2, 2, "configuration changed");
    assert_eq!(target(&mut test.guest), 1280);
    test.guest.set(0x100 + ACTUAL as u32, 700);
    assert_eq!(test.balloon.actual(), Size::new(700 * PAGE));
    assert_eq!(test.guest.config::<4>(ACTUAL as u64), 700u32.to_le_bytes());
    let error = test.balloon.set_target(Size::new(MEMORY)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a balloon of 33M: the guest has 33M, and needs some of it"
    );
    assert_eq!(test.balloon.target(), Size::mib(5));
    // Also while there is no driver.
    test.guest.set(0x70, 0);
    assert_eq!(test.balloon.actual(), Size::new(0));
    test.balloon.set_target(Size::mib(1)).unwrap();
    test.guest.start(ALL);
    assert_eq!(target(&mut test.guest), 256);
}

#[test]
fn statistics_are_asked_for_at_intervals() {
    let mut test = start(
        BalloonConfig {
            stats: Some(Duration::from_millis(20)),
            ..config()
        },
        ALL,
    );
    let tell = |free: u64| {
        let mut bytes = Vec::new();
        for (tag, value) in [(4u16, free), (5, 1 << 30), (999, 1)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes
    };
    let address = test.guest.alloc_with(&tell(1000));
    let head = test.queues[2].add(&[Buffer::Read(address, 30)]);
    test.guest.kick(&mut test.queues[2], &[head]);
    // The buffer comes back when the device wants to know again, not before.
    assert_eq!(test.guest.wait_used(&mut test.queues[2]).0, u32::from(head));
    assert_eq!(test.balloon.stats().free(), Some(1000));
    assert_eq!(
        (test.balloon.stats().total(), test.balloon.stats().caches()),
        (Some(1 << 30), None)
    );
    test.guest.store(address, &tell(2000));
    test.guest.kick(&mut test.queues[2], &[head]);
    wait_until("new statistics", || {
        test.balloon.stats().free() == Some(2000)
    });
    assert_eq!(test.balloon.stats().updates, 2);
    assert!(
        test.metrics
            .render()
            .contains("mote_guest_memory_free_bytes 2000\n")
    );
}

#[test]
fn a_driver_with_fewer_features_numbers_its_queues_without_gaps() {
    let mut test = start(
        BalloonConfig {
            stats: Some(Duration::from_secs(60)),
            ..config()
        },
        ALL & !STATS_VQ,
    );
    test.fill(1);
    let report = [Buffer::Write(PAGES, PAGE as u32)];
    test.guest.transact(&mut test.queues[2], &report);
    assert_eq!(test.full(1), [false]);
}

#[test]
fn a_broken_chain_fails_the_device_and_a_reset_mends_it() {
    let mut test = start(config(), ALL);
    test.guest.wait_interrupt();
    test.queues[0].set_descriptor(0, PAGES, 4, NEXT, 0);
    test.guest.kick(&mut test.queues[0], &[0]);
    test.guest.expect_failure();
    test.queues = test.guest.start(ALL);
    test.fill(1);
    test.send(0, &[page(0)]);
    assert_eq!(test.full(1), [false]);
}
