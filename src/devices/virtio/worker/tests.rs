use super::*;
use crate::bus::BusDevice;
use crate::devices::virtio::testing::{Buffer::*, *};
use crate::devices::virtio::{Activation, VirtioDevice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

const MAX: usize = 4;

/// Widens the moment in which a request can come between a look at the queue and the wish to
/// be notified; without it, no test meets it.
pub(super) fn dawdle() {
    for _ in 0..200 {
        std::hint::spin_loop();
    }
}

/// Answers each request with its own bytes, once the gate lets it.
#[derive(Clone)]
struct Echo {
    started: Sender<()>,
    gate: Option<Arc<Mutex<Receiver<()>>>>,
    running: Arc<AtomicUsize>,
}

impl RequestHandler for Echo {
    type Scratch = Vec<u8>;
    fn handle(&self, buffers: &mut Buffers, data: &mut Vec<u8>) -> Result<u32, ChainError> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _ = self.started.send(());
        if let Some(gate) = &self.gate {
            let _ = gate.lock().unwrap().recv();
        }
        data.resize(buffers.readable.len(), 0);
        buffers.readable.read(data);
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(buffers.writable.write(data) as u32)
    }
}

struct EchoDevice {
    handler: Echo,
    threads: Arc<AtomicUsize>,
    pool: Option<WorkerPool<Echo>>,
}

impl VirtioDevice for EchoDevice {
    fn name(&self) -> &str {
        "echo"
    }
    fn device_type(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }
    /// Abused to count the threads.
    fn read_config(&self, _: u64, data: &mut [u8]) {
        data[0] = self.pool.as_ref().map_or(0, WorkerPool::threads) as u8;
    }
    fn activate(&mut self, a: Activation) -> Result<(), ActivateError> {
        let queue = a.queues.into_iter().next().unwrap();
        let handler = self.handler.clone();
        let pool = WorkerPool::start("mote-echo", MAX, handler, queue, a.memory, a.interrupt)?;
        self.pool = Some(pool);
        Ok(())
    }
    fn reset(&mut self) {
        self.pool = None;
        self.threads.store(0, Ordering::SeqCst);
    }
}

struct Bench {
    guest: FakeGuest,
    queue: DriverQueue,
    started: Receiver<()>,
    open: Sender<()>,
    running: Arc<AtomicUsize>,
}

fn bench(gated: bool, features: u64) -> Bench {
    let (started_tx, started) = channel();
    let (open, gate) = channel();
    let running = Arc::new(AtomicUsize::new(0));
    let device = EchoDevice {
        handler: Echo {
            started: started_tx,
            gate: gated.then(|| Arc::new(Mutex::new(gate))),
            running: running.clone(),
        },
        threads: Arc::default(),
        pool: None,
    };
    let (guest, mut queues) = FakeGuest::running(device, features);
    Bench {
        guest,
        queue: queues.remove(0),
        started,
        open,
        running,
    }
}

fn threads(guest: &mut FakeGuest) -> u8 {
    // A driver's write has the transport ask the device anew.
    guest.transport.write(0x100, &[0]);
    guest.config::<1>(0)[0]
}

#[test]
fn one_request_at_a_time_needs_one_thread() {
    for features in [0, EVENT_IDX] {
        let mut b = bench(false, features);
        let input = b.guest.alloc_with(b"ping");
        let output = b.guest.alloc(16);
        for _ in 0..1000 {
            b.guest.store(output, &[0; 4]);
            let len = b
                .guest
                .transact(&mut b.queue, &[Read(input, 4), Write(output, 16)]);
            assert_eq!((len, b.guest.load(output, 4)), (4, b"ping".to_vec()));
        }
        assert_eq!(threads(&mut b.guest), 1);
    }
}

#[test]
fn requests_that_wait_get_more_threads_up_to_the_limit() {
    for features in [0, EVENT_IDX] {
        let mut b = bench(true, features);
        let page = b.guest.alloc(64);
        // All in one go, with one notification.
        let heads: Vec<_> = (0..16)
            .map(|_| b.queue.add(&[Read(page, 8), Write(page, 8)]))
            .collect();
        b.guest.kick(&mut b.queue, &heads);
        for _ in 0..MAX {
            b.started.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!(usize::from(threads(&mut b.guest)), MAX);
        assert!(b.started.try_recv().is_err());
        for _ in 0..16 {
            b.open.send(()).unwrap();
        }
        let mut used: Vec<_> = (0..16)
            .map(|_| b.guest.wait_used(&mut b.queue).0 as u16)
            .collect();
        used.sort_unstable();
        assert_eq!(used, heads);
        // Those that aren't needed leave.
        wait_until("idle threads to end", || threads(&mut b.guest) == 1);
    }
}

#[test]
fn two_requests_in_flight_overlap_for_good() {
    for features in [0, EVENT_IDX] {
        let mut b = bench(true, features);
        let page = b.guest.alloc(64);
        let submit = |b: &mut Bench| {
            let head = b.queue.add(&[Read(page, 8), Write(page, 8)]);
            b.guest.kick(&mut b.queue, &[head]);
        };
        // The first two may be served one after the other...
        submit(&mut b);
        b.started.recv().unwrap();
        submit(&mut b);
        b.open.send(()).unwrap();
        b.guest.wait_used(&mut b.queue);
        b.started.recv_timeout(PATIENCE).unwrap();
        // ...but then a second thread knows.
        for _ in 0..20 {
            submit(&mut b);
            b.started.recv_timeout(PATIENCE).unwrap();
            assert_eq!(b.running.load(Ordering::SeqCst), 2);
            b.open.send(()).unwrap();
            b.guest.wait_used(&mut b.queue);
        }
        b.open.send(()).unwrap();
        b.guest.wait_used(&mut b.queue);
        assert!(threads(&mut b.guest) <= 3);
    }
}

#[test]
fn reset_waits_for_the_request_in_flight() {
    let mut b = bench(true, EVENT_IDX);
    let page = b.guest.alloc(64);
    let head = b.queue.add(&[Read(page, 8), Write(page, 8)]);
    b.guest.kick(&mut b.queue, &[head]);
    b.started.recv().unwrap();
    let (open, running) = (b.open.clone(), b.running.clone());
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(running.load(Ordering::SeqCst), 1);
        open.send(()).unwrap();
    });
    b.guest.set(0x70, 0);
    assert_eq!(b.running.load(Ordering::SeqCst), 0);
    assert_eq!(threads(&mut b.guest), 0);
    opener.join().unwrap();
    // And again from the start, with nothing left over.
    let mut queue = b.guest.start(EVENT_IDX).remove(0);
    b.open.send(()).unwrap();
    assert_eq!(
        b.guest
            .transact(&mut queue, &[Read(page, 8), Write(page, 8)]),
        8
    );
}

#[test]
fn many_requests_under_contention_are_each_answered_once() {
    for features in [0, EVENT_IDX] {
        let mut b = bench(false, features);
        let page = b.guest.alloc(0x1000);
        let (mut in_flight, mut sent, mut seen) = (0, 0u32, vec![0u32; 64]);
        while seen.iter().sum::<u32>() < 20_000 {
            let mut heads = Vec::new();
            while in_flight < 32 && sent < 20_000 && heads.len() < 1 + sent as usize % 5 {
                heads.push(b.queue.add(&[Read(page, 8), Write(page + 64, 8)]));
                in_flight += 1;
                sent += 1;
            }
            b.guest.kick(&mut b.queue, &heads);
            let (id, len) = b.guest.wait_used(&mut b.queue);
            assert_eq!(len, 8);
            seen[id as usize] += 1;
            in_flight -= 1;
        }
        // Descriptors go round in twos: each head is used as often as the others.
        for (id, count) in seen.iter().enumerate() {
            let expected = if id % 2 == 0 { 20_000 / 32 } else { 0 };
            assert_eq!(*count, expected, "head {id}");
        }
    }
}

/// No notification may be lost while the pool goes to sleep.
#[test]
fn a_driver_that_never_waits_is_always_heard() {
    for features in [0, EVENT_IDX] {
        let mut b = bench(false, features);
        let page = b.guest.alloc(64);
        for i in 0..30_000u32 {
            let head = b.queue.add(&[Read(page, 8), Write(page, 8)]);
            b.guest.kick(&mut b.queue, &[head]);
            let start = std::time::Instant::now();
            while b.queue.take_used().is_none() {
                assert!(start.elapsed() < PATIENCE, "request {i} is lost");
                // Where CPUs are few, the pool gets this one.
                std::thread::yield_now();
            }
            // A moment more or less each time, to meet the pool at every step.
            for _ in 0..i % 97 * 8 {
                std::hint::spin_loop();
            }
        }
    }
}

#[test]
fn a_broken_chain_stops_the_device_until_reset() {
    let mut b = bench(false, EVENT_IDX);
    let page = b.guest.alloc(64);
    b.queue.set_descriptor(0, page, 8, NEXT, 0);
    b.guest.kick(&mut b.queue, &[0]);
    b.guest.expect_failure();
    let status = b.guest.status();
    assert_eq!(status, DRIVER_OK | NEEDS_RESET);
    // Nothing is served any more, and nobody minds.
    b.guest.notify(&b.queue);
    wait_until("threads to end", || threads(&mut b.guest) == 0);
    let mut queue = b.guest.start(EVENT_IDX).remove(0);
    assert_eq!(b.guest.status(), DRIVER_OK);
    assert_eq!(
        b.guest
            .transact(&mut queue, &[Read(page, 8), Write(page, 8)]),
        8
    );
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let mut b = bench(false, 0);
    let page = b.guest.alloc(64);
    b.guest.store(b.queue.available, &1u16.to_le_bytes());
    let head = b.queue.add(&[Read(page, 8), Write(page, 8)]);
    b.guest.kick(&mut b.queue, &[head]);
    wait_until("the request", || b.queue.take_used().is_some());
    b.guest.set(0x70, 0);
    assert!(b.guest.irq.read().is_err());
}
