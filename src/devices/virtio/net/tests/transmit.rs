//! From the guest to the host.

use std::os::fd::AsRawFd;

use super::*;

#[test]
fn a_large_send_in_many_pieces_is_one_packet() {
    let (mut guest, mut queues, host) = running(&Net::default(), EVENT_IDX);
    let packet = with_header(&frame(MINE, 65550));
    let start = guest.alloc_with(&packet);
    let mut pieces = vec![Read(start, 12)];
    let mut at = 12;
    while at < packet.len() {
        let len = (packet.len() - at).min(4000);
        pieces.push(Read(start + at as u64, len as u32));
        at += len;
    }
    let table = guest.alloc(0x1000);
    let head = queues[1].add_indirect(table, &pieces);
    guest.kick(&mut queues[1], &[head]);
    assert_eq!(guest.wait_used(&mut queues[1]), (u32::from(head), 0));
    assert!(host.receive() == packet);
    assert_eq!(host.counts.tx.packets.get(), 1);
    assert_eq!(host.counts.tx.bytes.get(), 65550);
}

#[test]
fn a_header_may_be_cut_anywhere() {
    let (mut guest, mut queues, host) = running(&Net::default(), 0);
    let packet = with_header(&frame(MINE, 60));
    let start = guest.alloc_with(&packet);
    let pieces = [
        Read(start, 5),
        Read(start, 0),
        Read(start + 5, 20),
        Read(start + 25, 47),
    ];
    guest.transact(&mut queues[1], &pieces);
    assert_eq!(host.receive(), packet);
}

#[test]
fn what_is_no_packet_is_dropped_and_the_next_one_sent() {
    let (mut guest, mut queues, host) = running(&Net::default(), 0);
    let memory = guest.alloc(0x20000);
    for len in [0, 11, 12, 65563, 0x20000] {
        guest.transact(&mut queues[1], &[Read(memory, len)]);
    }
    // Nothing to send at all, but something to write.
    guest.transact(&mut queues[1], &[Write(memory, 100)]);
    assert_eq!(host.counts.tx.drops.get(), 6);
    send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
    assert_eq!(host.receive().len(), 72);
}

#[test]
fn a_tap_without_room_is_waited_for() {
    waits_for_room(true);
}

/// The header, which such a tap isn't given, is taken off once, however often it is tried.
#[test]
fn a_tap_without_room_and_headers_is_waited_for() {
    waits_for_room(false);
}

fn waits_for_room(header: bool) {
    let (device, host) = device(&Net::default(), header);
    // Room for a few packets, whatever the host's queue would hold (net.unix.max_dgram_qlen).
    let least: libc::c_int = 1;
    // SAFETY: a number and its length.
    let set = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_SNDBUF);
        let value = (&raw const least).cast();
        libc::setsockopt(device.taps[0].as_raw_fd(), level, option, value, 4)
    };
    assert_eq!(set, 0);
    let (mut guest, mut queues) = FakeGuest::running(device, EVENT_IDX);
    let packet = with_header(&frame(MINE, 60));
    let buffer = guest.alloc_with(&packet);
    let expected = if header { &packet[..] } else { &packet[12..] };
    let heads: Vec<_> = (0..255)
        .map(|_| queues[1].add(&[Read(buffer, 72)]))
        .collect();
    for _ in 0..8 {
        guest.kick(&mut queues[1], &heads);
        for _ in &heads {
            assert_eq!(host.receive(), expected);
        }
        for _ in &heads {
            guest.wait_used(&mut queues[1]);
        }
    }
    assert_eq!(host.counts.tx.packets.get(), 8 * 255);
    assert_eq!(host.counts.tx.bytes.get(), 8 * 255 * 60);
    assert_eq!(host.counts.tx.errors.get() + host.counts.tx.drops.get(), 0);
}

#[test]
fn what_the_tap_refuses_is_counted() {
    let (mut guest, mut queues, host) = running(&Net::default(), 0);
    let Host {
        sockets, counts, ..
    } = host;
    // Not only closed: a process that another test starts has them, too, until its own program runs.
    sockets[0].shutdown(std::net::Shutdown::Both).unwrap();
    send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
    send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
    assert_eq!(counts.tx.errors.get(), 2);
    assert_eq!(guest.status(), DRIVER_OK);
}
