//! The control queue.

use super::*;

/// Sends a command; the answer.
pub fn command(guest: &mut FakeGuest, queue: &mut DriverQueue, command: &[u8]) -> u8 {
    let place = guest.alloc_with(command);
    let answer = guest.alloc_with(&[0xee]);
    let len = command.len() as u32;
    let buffers = [
        Read(place, len.min(2)),
        Read(place + 2, len.saturating_sub(2)),
        Write(answer, 1),
    ];
    assert_eq!(guest.transact(queue, &buffers), 1);
    guest.load(answer, 1)[0]
}

/// Whether a packet to `to` reaches the guest.
fn passes(guest: &mut FakeGuest, queue: &mut DriverQueue, host: &Host, to: [u8; 6]) -> bool {
    let (passed, filtered) = (&host.counts.rx.packets, &host.counts.filtered);
    let before = (passed.get(), filtered.get());
    host.send(&with_header(&frame(to, 60)));
    wait_until("a packet", || (passed.get(), filtered.get()) != before);
    let passed = passed.get() != before.0;
    if passed {
        guest.wait_used(queue);
        offer(guest, queue, 2000);
    }
    passed
}

const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 7];
const ALL: [u8; 6] = [0xff; 6];

#[test]
fn the_drivers_filter_holds() {
    let (mut guest, mut queues, host) = running(&Net::default(), CTRL | MERGEABLE);
    let mut control = queues.remove(2);
    offer(&mut guest, &mut queues[0], 2000);
    let mut passing = |guest: &mut FakeGuest| {
        [MINE, OTHER, GROUP, ALL].map(|to| passes(guest, &mut queues[0], &host, to))
    };
    assert_eq!(passing(&mut guest), [true; 4]);
    assert_eq!(command(&mut guest, &mut control, &[0, 0, 0]), 0); // not promiscuous
    assert_eq!(passing(&mut guest), [true, false, false, true]);
    assert_eq!(command(&mut guest, &mut control, &[0, 1, 1]), 0); // all groups
    assert_eq!(passing(&mut guest), [true, false, true, true]);
    assert_eq!(command(&mut guest, &mut control, &[0, 1, 0]), 0);
    let mut table = vec![1, 0, 1, 0, 0, 0];
    table.extend(OTHER);
    table.extend([1, 0, 0, 0]);
    table.extend(GROUP);
    assert_eq!(command(&mut guest, &mut control, &table), 0);
    assert_eq!(passing(&mut guest), [true; 4]);
    let empty = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(command(&mut guest, &mut control, &empty), 0);
    assert_eq!(passing(&mut guest), [true, false, false, true]);
    // Another address of its own.
    let set = [&[1, 1][..], &OTHER].concat();
    assert_eq!(command(&mut guest, &mut control, &set), 0);
    assert_eq!(guest.config(0), OTHER);
    assert_eq!(passing(&mut guest), [false, true, false, true]);
    // A reset brings back the first one.
    guest.start(CTRL | MERGEABLE);
    assert_eq!(guest.config(0), MINE);
}

#[test]
fn commands_that_make_no_sense_are_refused_and_change_nothing() {
    let features = CTRL | MERGEABLE | CSUM_AND_TSO | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
    let (mut guest, mut queues, host) = running(&Net::default(), features);
    let queue = &mut queues[2];
    let offloads = |bits: u64| [&[5, 0][..], &bits.to_le_bytes()].concat();
    for good in [offloads(0), offloads(CSUM_AND_TSO)] {
        assert_eq!(command(&mut guest, queue, &good), 0, "{good:x?}");
    }
    let mut short_table = vec![1, 0, 2, 0, 0, 0];
    short_table.extend(OTHER);
    for wrong in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0, 2, 1], // VIRTIO_NET_F_CTRL_RX_EXTRA wasn't accepted
        vec![0, 9, 1],
        vec![1, 0],
        vec![1, 0, 0xff, 0xff, 0xff, 0xff],
        short_table,
        vec![1, 1, 2, 0, 0],
        vec![1, 2],
        vec![2, 0, 1, 0], // no VLAN filter
        vec![3, 0],       // nor VIRTIO_NET_F_GUEST_ANNOUNCE
        vec![4, 0, 1, 0], // nor VIRTIO_NET_F_MQ
        offloads(1 << VIRTIO_NET_F_GUEST_TSO6),
        offloads(!0),
        vec![5, 0, 1],
        vec![5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![255, 255, 255, 255],
    ] {
        assert_eq!(command(&mut guest, queue, &wrong), 1, "{wrong:x?}");
    }
    assert_eq!(guest.config(0), MINE);
    assert_eq!(guest.status(), DRIVER_OK);
    assert_eq!(host.counts.commands.get(), 20);
}

#[test]
fn a_command_without_room_for_an_answer_fails_the_device() {
    let (mut guest, mut queues, _host) = running(&Net::default(), CTRL);
    let place = guest.alloc_with(&[0, 0, 1]);
    let head = queues[2].add(&[Read(place, 3)]);
    guest.kick(&mut queues[2], &[head]);
    guest.expect_failure();
}

#[test]
fn a_huge_table_of_addresses_lets_all_pass() {
    let (mut guest, mut queues, host) = running(&Net::default(), CTRL | MERGEABLE);
    let mut control = queues.remove(2);
    offer(&mut guest, &mut queues[0], 2000);
    command(&mut guest, &mut control, &[0, 0, 0]);
    let mut table = vec![1, 0];
    table.extend(1000u32.to_le_bytes());
    table.extend([4; 6].repeat(1000));
    table.extend([0; 4]);
    assert_eq!(command(&mut guest, &mut control, &table), 0);
    assert!(passes(&mut guest, &mut queues[0], &host, OTHER));
    assert!(!passes(&mut guest, &mut queues[0], &host, GROUP));
}

#[test]
fn more_commands_than_one_turn_serves_are_all_answered() {
    let (mut guest, mut queues, host) = running(&Net::default(), CTRL | EVENT_IDX);
    let (place, answer) = (guest.alloc_with(&[0, 1, 1]), guest.alloc(31));
    let heads: Vec<_> = (0..31)
        .map(|index| queues[2].add(&[Read(place, 3), Write(answer + index, 1)]))
        .collect();
    guest.store(answer, &[0xee; 31]);
    guest.kick(&mut queues[2], &heads);
    for _ in &heads {
        assert_eq!(guest.wait_used(&mut queues[2]).1, 1);
    }
    assert_eq!(guest.load(answer, 31), [0; 31]);
    assert_eq!(host.counts.commands.get(), 31);
}
