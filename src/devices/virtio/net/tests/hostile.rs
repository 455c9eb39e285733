//! A driver that errs, and one that does anything.

use super::*;

/// Makes one chain available, by whatever `add` does, and expects the device to give up; and to
/// work again after a reset.
fn fails(index: usize, add: impl FnOnce(&mut FakeGuest, &mut DriverQueue) -> u16) {
    let features = MERGEABLE | CTRL | CSUM_AND_TSO;
    let (mut guest, mut queues, host) = running(&Net::default(), features);
    let head = add(&mut guest, &mut queues[index]);
    guest.kick(&mut queues[index], &[head]);
    guest.expect_failure();
    let mut queues = guest.start(features);
    send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
    host.receive();
    offer(&mut guest, &mut queues[0], 2000);
    host.send(&with_header(&frame(MINE, 60)));
    assert_eq!(guest.wait_used(&mut queues[0]).1, 72);
}

#[test]
fn broken_chains_fail_the_device_and_nothing_else() {
    for index in 0..3 {
        let write = if index == 0 { WRITE } else { 0 };
        fails(index, |_, queue| {
            queue.add(&[if index == 0 {
                Write(NOWHERE, 64)
            } else {
                Read(NOWHERE, 64)
            }])
        });
        fails(index, |guest, queue| {
            // A loop.
            let memory = guest.alloc(64);
            queue.set_descriptor(0, memory, 64, NEXT | write, 0);
            0
        });
        fails(index, |guest, queue| {
            // Beyond the table.
            let memory = guest.alloc(64);
            queue.set_descriptor(0, memory, 64, NEXT | write, 5000);
            0
        });
        fails(index, |_, queue| {
            // An indirect table that isn't there.
            queue.set_descriptor(0, NOWHERE, 64, INDIRECT, 0);
            0
        });
        fails(index, |guest, queue| {
            let memory = guest.alloc(64);
            queue.add(&[Write(memory, 32), Read(memory, 32)])
        });
        fails(index, |_, _| 9999);
    }
}

#[test]
fn receive_buffers_that_are_none_fail_the_device() {
    fails(0, |guest, queue| {
        let memory = guest.alloc(64);
        queue.add(&[Read(memory, 64)])
    });
    fails(0, |guest, queue| {
        let memory = guest.alloc(64);
        queue.add(&[Write(memory, 5), Write(memory, 6)])
    });
    for len in [0, 4] {
        fails(0, |guest, queue| {
            let memory = guest.alloc(0x2000);
            let table = guest.alloc(0x2000);
            queue.add_indirect(table, &[Write(memory, len); 257])
        });
    }
}

#[test]
fn an_available_index_out_of_reach_fails_the_device() {
    for index in 0..3 {
        let (mut guest, mut queues, _host) = running(&Net::default(), MERGEABLE | CTRL);
        queues[index].set_available_index(30_000);
        guest.notify(&queues[index]);
        guest.expect_failure();
    }
}

#[test]
fn queues_that_were_left_out_are_not_served() {
    let (device, host) = device(&Net::default(), true);
    let mut guest = FakeGuest::new(device);
    guest.negotiate(MERGEABLE | CTRL);
    let queue = guest.queue(0, 256, false);
    guest.set_up(&queue);
    guest.set(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, DRIVER_OK);
    assert_eq!(guest.status(), DRIVER_OK);
    host.send(&with_header(&frame(MINE, 60)));
    let queues = guest.start(MERGEABLE | CTRL);
    assert_eq!((queues.len(), guest.status()), (3, DRIVER_OK));
}

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn a_driver_that_does_anything_does_no_harm() {
    let seed = std::env::var("MOTE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    let mut dice = Dice(seed);
    println!("MOTE_SEED={seed}");
    let net = Net {
        queues: 2,
        ..Net::default()
    };
    let (mut guest, mut queues, host) = running(&net, !0);
    for socket in &host.sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let memory = guest.alloc(0x10000);
    let table = guest.alloc(0x1000);
    let mark = guest.alloc(1);
    for _ in 0..3000 {
        let index = dice.roll(5) as usize;
        let mut buffers = Vec::new();
        for _ in 0..dice.roll(5) {
            let address = match dice.roll(40) {
                0 => NOWHERE,
                1 => BORDER - dice.roll(100),
                _ => memory + dice.roll(0x8000),
            };
            let len = match dice.roll(30) {
                0 => dice.roll(1 << 32) as u32,
                1..5 => dice.roll(20) as u32,
                _ => dice.roll(3000) as u32,
            };
            buffers.push(
                match (dice.roll(20), index.is_multiple_of(2) && index < 4) {
                    (0, write) | (1.., write) if write => Write(address, len),
                    _ => Read(address, len),
                },
            );
        }
        if index == 4 || dice.roll(20) == 0 {
            buffers.push(Write(memory, dice.roll(3) as u32));
        }
        let queue = &mut queues[index];
        let head = match dice.roll(10) {
            0 => dice.roll(1 << 16) as u16,
            1 if !buffers.is_empty() => queue.add_indirect(table, &buffers),
            _ if buffers.is_empty() => continue,
            _ => queue.add(&buffers),
        };
        guest.kick(queue, &[head]);
        let bytes: Vec<u8> = (0..dice.roll(64)).map(|_| dice.roll(256) as u8).collect();
        guest.store(memory + dice.roll(0x8000), &bytes);
        let packet = vec![0; dice.roll(3000) as usize];
        let _ = host.sockets[dice.roll(2) as usize].send(&packet);
        let _ = host.sockets[dice.roll(2) as usize].recv(&mut [0; 100]);
        match dice.roll(200) {
            0 => host.link.set(dice.roll(2) == 0),
            1 => queues = restart(&mut guest, mark),
            _ => {}
        }
        if guest.status() & NEEDS_RESET != 0 {
            queues = restart(&mut guest, mark);
        }
    }
    host.link.set(true);
    let mut queues = restart(&mut guest, mark);
    let mut drained = [0; 100];
    while host.sockets[0].recv(&mut drained).is_ok() {}
    send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
    host.sockets[0].set_nonblocking(false).unwrap();
    println!("{:?} {:?}", host.counts, host.link);
    assert_eq!(host.receive().len(), 72);
}

fn restart(guest: &mut FakeGuest, mark: u64) -> Vec<DriverQueue> {
    // The rings of before, which nobody uses after this.
    guest.set(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    guest.release(mark);
    guest.start(!0)
}
