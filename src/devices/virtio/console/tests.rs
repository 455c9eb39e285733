//! A console with a driver in plain memory.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

use super::super::testing::{Buffer, DriverQueue, EVENT_IDX, FakeGuest, NEXT, NOWHERE, PATIENCE};
use super::*;
use crate::devices::console::{Drain, InputPort};

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which then belong to the files.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let owned = fds.map(|fd| File::from(OwnedFd::from_raw_fd(fd)));
        owned.into()
    }
}

struct Test {
    guest: FakeGuest,
    queues: Vec<DriverQueue>,
    input: Arc<HvcInput>,
    window: Arc<Window>,
    printed: File,
    drain: Drain,
}

fn start(wanted: u64) -> Test {
    let (printed, output) = pipe();
    let (output, drain) = Output::new(output).unwrap();
    let device = ConsoleDevice::new(output, 80, 24).unwrap();
    let (input, window) = (device.input(), device.window());
    assert_eq!(input.enqueue(b"early"), 0);
    let (guest, queues) = FakeGuest::running(device, wanted);
    Test {
        guest,
        queues,
        input,
        window,
        printed,
        drain,
    }
}

impl Test {
    fn offer(&mut self, len: u32) -> u64 {
        let address = self.guest.alloc(len as usize);
        let head = self.queues[0].add(&[Buffer::Write(address, len)]);
        self.queues[0].publish(&[head]);
        address
    }
}

#[test]
fn output_arrives_and_ends_with_the_vm() {
    for wanted in [F_SIZE, F_SIZE | EVENT_IDX] {
        let mut test = start(wanted);
        let (a, b) = (
            test.guest.alloc_with(b"hello, "),
            test.guest.alloc_with(b"world"),
        );
        let buffers = [Buffer::Read(a, 7), Buffer::Read(b, 5)];
        assert_eq!(test.guest.transact(&mut test.queues[1], &buffers), 0);
        drop(test.guest);
        assert_eq!(test.drain.finish_within(PATIENCE), 0);
        let mut text = [0; 12];
        test.printed.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello, world");
    }
}

#[test]
fn a_reader_that_never_reads_does_not_keep_the_driver() {
    let mut test = start(F_SIZE);
    let address = test.guest.alloc(1 << 20);
    // Far more than a pipe and the buffer hold; each request prints 64 KiB at most.
    for _ in 0..20 {
        test.guest
            .transact(&mut test.queues[1], &[Buffer::Read(address, 1 << 20)]);
    }
    test.guest.set(0x70, 0);
    let lost = test.drain.finish();
    assert!(
        lost >= 20 * (64 << 10) - (64 << 10) - (64 << 10) - 4096,
        "{lost}"
    );
}

/// The event loop's part: waits for the timer.
fn tick(test: &Test) {
    let mut timer = libc::pollfd {
        fd: test.input.timer().unwrap(),
        events: libc::POLLIN,
        revents: 0,
    };
    let patience = PATIENCE.as_millis() as i32;
    // SAFETY: one pollfd, which lives through the call.
    assert_eq!(unsafe { libc::poll(&raw mut timer, 1, patience) }, 1);
    test.input.tick();
}

/// A guest that has shown that it listens, with an empty queue.
fn listening(wanted: u64) -> Test {
    let mut test = start(wanted);
    let buffers: Vec<u64> = (0..QUEUE_SIZE).map(|_| test.offer(4)).collect();
    assert_eq!(test.input.enqueue(b"x"), 0);
    tick(&test);
    let (_, len) = test.guest.wait_used(&mut test.queues[0]);
    assert_eq!(len, 0, "an empty buffer");
    assert_eq!(test.input.enqueue(b"x"), 0);
    test.offer(4);
    tick(&test);
    let all = [b'x'; QUEUE_SIZE as usize * 4];
    assert_eq!(test.input.enqueue(&all), all.len());
    for buffer in &buffers[1..] {
        assert_eq!(test.guest.wait_used(&mut test.queues[0]).1, 4);
        assert_eq!(test.guest.load(*buffer, 4), b"xxxx");
    }
    assert_eq!(test.guest.wait_used(&mut test.queues[0]).1, 4);
    test
}

#[test]
fn input_goes_into_the_buffers_that_there_are() {
    for wanted in [F_SIZE, F_SIZE | EVENT_IDX] {
        let mut test = listening(wanted);
        assert_eq!(test.input.enqueue(b"no room"), 0);
        let (a, b) = (test.offer(4), test.offer(100));
        assert_eq!(test.input.enqueue(b"abcdefg"), 7);
        assert_eq!(test.guest.wait_used(&mut test.queues[0]).1, 4);
        assert_eq!(test.guest.wait_used(&mut test.queues[0]).1, 3);
        assert_eq!(test.guest.load(a, 4), b"abcd");
        assert_eq!(test.guest.load(b, 3), b"efg");
        assert_eq!(test.input.enqueue(b"h"), 0);
    }
}

#[test]
fn input_reaches_a_driver_with_few_buffers_too() {
    let mut test = start(F_SIZE);
    for _ in 0..=input::PROBES {
        test.offer(1);
        assert_eq!(test.input.enqueue(b"a"), 0);
        tick(&test);
    }
    assert_eq!(test.input.enqueue(b"a"), 1);
}

#[test]
fn the_driver_tells_of_buffers_only_when_input_waits() {
    let mut test = listening(F_SIZE | EVENT_IDX);
    let offer = |test: &mut Test| {
        let address = test.guest.alloc(4);
        let head = test.queues[0].add(&[Buffer::Write(address, 4)]);
        test.queues[0].publish(&[head])
    };
    assert_eq!(test.input.enqueue(b"a"), 0);
    assert!(offer(&mut test), "input waits");
    assert_eq!(test.input.enqueue(b"a"), 1);
    assert!(!offer(&mut test), "none does");
}

#[test]
fn the_driver_learns_the_size_and_its_changes() {
    let mut test = start(F_SIZE);
    assert_eq!(test.guest.config(0), [80, 0, 24, 0, 0, 0]);
    test.guest.wait_interrupt(); // of becoming live
    test.window.set_size(132, 300);
    assert_eq!(test.guest.wait_interrupt() & 2, 2, "configuration changed");
    assert_eq!(test.guest.config(0), [132, 0, 44, 1]);
    test.window.set_size(132, 300);
    assert!(test.guest.irq.read().is_err(), "nothing new");
}

#[test]
fn a_bad_driver_fails_the_device_and_a_reset_mends_it() {
    let mut test = listening(F_SIZE);
    while test.guest.irq.read().is_ok() {}
    let at = test.queues[0].add(&[Buffer::Write(NOWHERE, 4)]);
    test.queues[0].set_descriptor(at, NOWHERE, 4, NEXT, at);
    test.queues[0].publish(&[at]);
    assert_eq!(test.input.enqueue(b"x"), 0);
    test.guest.expect_failure();
    assert_eq!(test.input.enqueue(b"x"), 0);
    test.queues = test.guest.start(F_SIZE);
    test.offer(1);
    assert_eq!(
        test.input.enqueue(b"x"),
        0,
        "it must show again that it listens"
    );
    tick(&test);
    assert_eq!(test.guest.wait_used(&mut test.queues[0]).1, 0);
}

#[test]
fn buffers_of_no_use_to_input_do_not_keep_the_event_loop() {
    let mut test = listening(F_SIZE);
    let address = test.guest.alloc_with(b"x");
    let heads: Vec<u16> = (0..QUEUE_SIZE)
        .map(|_| test.queues[0].add(&[Buffer::Read(address, 1)]))
        .collect();
    test.queues[0].publish(&heads);
    assert_eq!(test.input.enqueue(b"x"), 0);
    assert_eq!(test.guest.wait_used(&mut test.queues[0]).1, 0);
}
