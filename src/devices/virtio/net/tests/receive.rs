//! From the host to the guest.

use super::*;

#[test]
fn a_packet_arrives_with_its_header() {
    for features in [0, MERGEABLE, MERGEABLE | EVENT_IDX, CSUM_AND_TSO] {
        let (mut guest, mut queues, host) = running(&Net::default(), features);
        let mut packet = with_header(&frame(MINE, 1500));
        packet[0] = 1; // NEEDS_CSUM
        let buffer = offer(&mut guest, &mut queues[0], 65562);
        host.send(&packet);
        assert_eq!(guest.wait_used(&mut queues[0]), (0, 1512));
        packet[10] = 1; // num_buffers
        assert!(guest.load(buffer, 1512) == packet, "{features:#x}");
        assert_eq!(host.counts.rx.packets.get(), 1);
        assert_eq!(host.counts.rx.bytes.get(), 1500);
    }
}

#[test]
fn a_large_packet_fills_many_buffers_and_the_rest_is_for_the_next() {
    let (mut guest, mut queues, host) = running(&Net::default(), MERGEABLE | CSUM_AND_TSO);
    let memory = guest.alloc(1536 * 100);
    for _ in 0..3 {
        let place = |i: u64| memory + 1536 * i;
        let heads: Vec<_> = (0..100)
            .map(|i| queues[0].add(&[Write(place(i), 1000), Write(place(i) + 1000, 536)]))
            .collect();
        guest.kick(&mut queues[0], &heads);
        let large = with_header(&frame(MINE, 65550));
        let small = with_header(&frame(MINE, 60));
        for packet in [&large, &small, &large] {
            host.send(packet);
        }
        let mut next = 0;
        for packet in [large.clone(), small, large] {
            let mut received = Vec::new();
            let (_, first) = guest.wait_used(&mut queues[0]);
            received.extend(guest.load(place(next), first as usize));
            next += 1;
            let count = u16::from_le_bytes([received[10], received[11]]);
            assert_eq!(usize::from(count), packet.len().div_ceil(1536));
            for _ in 1..count {
                // All of a packet is there at once.
                let (_, len) = queues[0].take_used().unwrap();
                received.extend(guest.load(place(next), len as usize));
                next += 1;
            }
            received[10..12].fill(0);
            assert!(received == packet);
        }
        while next < 100 {
            host.send(&with_header(&frame(MINE, 60)));
            guest.wait_used(&mut queues[0]);
            next += 1;
        }
    }
}

#[test]
fn with_little_room_small_packets_pass_and_large_ones_wait() {
    let (mut guest, mut queues, host) = running(&Net::default(), MERGEABLE | CSUM_AND_TSO);
    let packet = with_header(&frame(MINE, 3000));
    // Nothing is lost while there's no room at all.
    host.send(&packet);
    let first = offer(&mut guest, &mut queues[0], 1536);
    let second = offer(&mut guest, &mut queues[0], 1536);
    assert_eq!(guest.wait_used(&mut queues[0]), (0, 1536));
    assert_eq!(guest.wait_used(&mut queues[0]), (1, 3012 - 1536));
    let mut received = guest.load(first, 1536);
    received.extend(guest.load(second, 3012 - 1536));
    assert_eq!(received[10], 2);
    received[10] = 0;
    assert!(received == packet);
}

#[test]
fn what_can_never_fit_is_dropped() {
    // Without mergeable buffers one that is too small for a packet stays for the next.
    let (mut guest, mut queues, host) = running(&Net::default(), CSUM_AND_TSO);
    offer(&mut guest, &mut queues[0], 200);
    host.send(&with_header(&frame(MINE, 1000)));
    host.send(&with_header(&frame(MINE, 60)));
    assert_eq!(guest.wait_used(&mut queues[0]), (0, 72));
    assert_eq!(host.counts.rx.drops.get(), 1);
    // A full ring of the smallest buffers holds 3072 bytes.
    let (mut guest, mut queues, host) = running(&Net::default(), MERGEABLE | CSUM_AND_TSO);
    let memory = guest.alloc(12 * 256);
    let heads: Vec<_> = (0..256)
        .map(|i| queues[0].add(&[Write(memory + 12 * i, 12)]))
        .collect();
    guest.kick(&mut queues[0], &heads);
    host.send(&with_header(&frame(MINE, 3061)));
    host.send(&with_header(&frame(MINE, 3060)));
    for _ in 0..256 {
        assert_eq!(guest.wait_used(&mut queues[0]).1, 12);
    }
    assert_eq!(host.counts.rx.drops.get(), 1);
    // Not a packet, and larger than any.
    host.send(&[0; 11]);
    host.send(&[0; 70_000]);
    let head = queues[0].add(&[Write(memory, 12)]);
    guest.kick(&mut queues[0], &[head]);
    wait_until("drops", || host.counts.rx.drops.get() == 3);
}

#[test]
fn a_buffer_may_cross_from_region_to_region() {
    let (mut guest, mut queues, host) = running(&Net::default(), MERGEABLE);
    let packet = with_header(&frame(MINE, 1000));
    let head = queues[0].add(&[Write(BORDER - 6, 3000)]);
    guest.kick(&mut queues[0], &[head]);
    host.send(&packet);
    assert_eq!(guest.wait_used(&mut queues[0]).1, 1012);
    assert!(guest.load(BORDER + 6, 1000) == packet[12..]);
}

#[test]
fn a_batch_is_one_interrupt_at_most() {
    let (mut guest, mut queues, host) = running(&Net::default(), MERGEABLE | EVENT_IDX);
    for _ in 0..10 {
        host.send(&with_header(&frame(MINE, 60)));
    }
    let memory = guest.alloc(0x1000);
    let heads: Vec<_> = (0..10)
        .map(|_| queues[0].add(&[Write(memory, 2000)]))
        .collect();
    guest.kick(&mut queues[0], &heads);
    for _ in 0..10 {
        guest.wait_used(&mut queues[0]);
    }
    let status = host.counts.rx.packets.get();
    assert_eq!(status, 10);
    // wait_used takes interrupts as it needs them; none is left but, perhaps, one that came late.
    assert!(guest.irq.read().map_or(0, |count| count) <= 1);
}
