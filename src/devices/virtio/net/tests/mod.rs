//! The device between a driver in plain memory and sockets that stand for a tap.

mod control;
mod hostile;
mod real;
mod receive;
mod transmit;

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::tap::offload;
use super::*;
use crate::devices::virtio::testing::{Buffer::*, *};

const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CSUM_AND_TSO: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const CTRL: u64 =
    1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_CTRL_RX | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;
const MQ: u64 = 1 << VIRTIO_NET_F_MQ;
const HEADER_ONLY: [u8; 12] = [0; 12];

/// What stands for the host's network.
struct Host {
    sockets: Vec<UnixDatagram>,
    counts: Arc<Counts>,
    link: Link,
}

impl Host {
    /// The next packet that the guest has sent, with its header.
    fn receive(&self) -> Vec<u8> {
        self.receive_from(0)
    }

    fn receive_from(&self, pair: usize) -> Vec<u8> {
        let mut packet = vec![0; 80_000];
        let len = self.sockets[pair].recv(&mut packet).unwrap();
        packet.truncate(len);
        packet
    }

    /// A packet for the guest, with its header.
    fn send(&self, packet: &[u8]) {
        assert_eq!(self.sockets[0].send(packet).unwrap(), packet.len());
    }

    fn is_silent(&self) -> bool {
        self.sockets[0].set_nonblocking(true).unwrap();
        let silent = self.sockets[0].recv(&mut [0; 100]).is_err();
        self.sockets[0].set_nonblocking(false).unwrap();
        silent
    }
}

/// A device on a tap with these queues and offloads.
fn device(net: &Net, header: bool) -> (NetDevice, Host) {
    let (mut taps, mut sockets) = (Vec::new(), Vec::new());
    for _ in 0..net.queues {
        let (tap, socket) = UnixDatagram::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        taps.push(Tap::fake(tap, header));
        sockets.push(socket);
    }
    let offloads = offload::CSUM | offload::TSO4 | offload::TSO6 | offload::ECN | offload::UFO;
    let opened = Opened {
        taps,
        mtu: None,
        offloads: if header { offloads | offload::USO } else { 0 },
    };
    let device = NetDevice::new("net0", net, opened, None, MINE).unwrap();
    let host = Host {
        sockets,
        counts: device.common.counts.clone(),
        link: device.link(),
    };
    (device, host)
}

/// A running guest with that device.
fn running(net: &Net, features: u64) -> (FakeGuest, Vec<DriverQueue>, Host) {
    let (device, host) = device(net, true);
    let (guest, queues) = FakeGuest::running(device, features);
    (guest, queues, host)
}

/// An Ethernet frame to `to` with a body that shows what is missing or out of place.
fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame
}

fn with_header(frame: &[u8]) -> Vec<u8> {
    [&HEADER_ONLY[..], frame].concat()
}

/// Makes a buffer of `len` bytes available on a receive queue; its address.
fn offer(guest: &mut FakeGuest, queue: &mut DriverQueue, len: usize) -> u64 {
    let buffer = guest.alloc(len);
    let head = queue.add(&[Write(buffer, len as u32)]);
    guest.kick(queue, &[head]);
    buffer
}

/// Sends one packet, with its header in front; what the device used of it.
fn send(guest: &mut FakeGuest, queue: &mut DriverQueue, packet: &[u8]) {
    let buffer = guest.alloc_with(packet);
    let used = guest.transact(queue, &[Read(buffer, packet.len() as u32)]);
    assert_eq!(used, 0);
}

#[test]
fn the_configuration_space_has_what_the_options_say() {
    let net = Net {
        queues: 2,
        mtu: Some(9000),
        ..Net::default()
    };
    let (device, _host) = device(&net, true);
    let mut guest = FakeGuest::new(device);
    assert_eq!(guest.get(8), 1);
    assert_eq!(
        guest.config(0),
        [2, 0, 0, 0, 0, 1, 1, 0, 2, 0, 40, 35, 0, 0]
    );
    let offered = guest.offered();
    for bit in [VIRTIO_NET_F_MTU, VIRTIO_NET_F_MQ, VIRTIO_NET_F_HOST_USO] {
        assert!(has(offered, bit), "{bit}");
    }
    guest.start(!0);
    assert_eq!(guest.status(), DRIVER_OK);
    assert_eq!(guest.transport.notifiers().len(), 5);
}

#[test]
fn a_tap_without_headers_gets_and_gives_packets_without() {
    let (device, host) = device(&Net::default(), false);
    let (mut guest, mut queues) = FakeGuest::running(device, MERGEABLE | EVENT_IDX);
    assert_eq!(guest.offered() & features::GUEST_OFFLOADS, 0);
    let frame = frame(MINE, 100);
    send(&mut guest, &mut queues[1], &with_header(&frame));
    assert_eq!(host.receive(), frame);
    let buffer = offer(&mut guest, &mut queues[0], 2000);
    host.send(&frame);
    assert_eq!(guest.wait_used(&mut queues[0]), (0, 112));
    assert_eq!(guest.load(buffer + 12, 100), frame);
    assert_eq!(guest.load(buffer, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn each_pair_has_its_tap_queue_and_the_control_queue_comes_after_them() {
    let net = Net {
        queues: 2,
        ..Net::default()
    };
    let (mut guest, mut queues, host) = running(&net, CTRL | MQ | MERGEABLE);
    let packet = with_header(&frame(MINE, 60));
    send(&mut guest, &mut queues[3], &packet);
    assert_eq!(host.receive_from(1), packet);
    let ack = control::command(&mut guest, &mut queues[4], &[4, 0, 2, 0]);
    assert_eq!(ack, 0);
    for pairs in [0, 3] {
        let ack = control::command(&mut guest, &mut queues[4], &[4, 0, pairs, 0]);
        assert_eq!(ack, 1, "{pairs} pairs");
    }
    // A driver that knows one pair only has its control queue where it expects it.
    let mut queues = guest.start(CTRL | MERGEABLE);
    assert_eq!(control::command(&mut guest, &mut queues[2], &[0, 0, 1]), 0);
    assert_eq!(
        control::command(&mut guest, &mut queues[2], &[4, 0, 1, 0]),
        1
    );
}

#[test]
fn the_cable_can_be_pulled_and_plugged_in() {
    let features = CTRL | MERGEABLE | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
    let (mut guest, mut queues, host) = running(&Net::default(), features);
    assert!(host.link.is_up());
    host.link.set(false);
    host.link.set(false);
    assert_eq!(guest.wait_interrupt(), 3);
    assert_eq!(guest.config(6), [0, 0]);
    // What is sent is lost, as on a wire, and what comes is.
    send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
    assert_eq!(host.counts.tx.drops.get(), 1);
    offer(&mut guest, &mut queues[0], 2000);
    host.send(&with_header(&frame(MINE, 60)));
    wait_until("a drop", || host.counts.rx.drops.get() == 1);
    assert!(host.is_silent() && queues[0].take_used().is_none());
    host.link.set(true);
    assert_eq!(guest.wait_interrupt() & 2, 2);
    // Up, and: announce yourself.
    assert_eq!(guest.config(6), [3, 0]);
    assert_eq!(control::command(&mut guest, &mut queues[2], &[3, 0]), 0);
    assert_eq!(guest.config(6), [1, 0]);
    host.send(&with_header(&frame(MINE, 60)));
    assert_eq!(guest.wait_used(&mut queues[0]), (0, 72));
    // The cable doesn't care for the driver.
    host.link.set(false);
    guest.start(features);
    assert_eq!(guest.config(6), [0, 0]);
}

#[test]
fn a_driver_that_comes_later_learns_that_the_cable_was_pulled() {
    let features = MERGEABLE | 1 << VIRTIO_NET_F_STATUS;
    let (device, host) = device(&Net::default(), true);
    let mut guest = FakeGuest::new(device);
    guest.negotiate(features);
    host.link.set(false);
    guest.set(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, DRIVER_OK);
    assert_eq!(guest.config(6), [0, 0]);
    host.link.set(true);
    assert_eq!(guest.config(6), [1, 0]);
}

#[test]
fn limits_hold_in_both_directions() {
    let net = Net {
        tx_pps: Some(100),
        tx_pps_burst: Some(1),
        rx_bw: Some(crate::config::Size::new(10_000)),
        rx_bw_burst: Some(crate::config::Size::new(100)),
        ..Net::default()
    };
    let (mut guest, mut queues, host) = running(&net, MERGEABLE | EVENT_IDX);
    let start = std::time::Instant::now();
    for _ in 0..20 {
        send(&mut guest, &mut queues[1], &with_header(&frame(MINE, 60)));
        host.receive();
    }
    // The first is the burst's, and the last one's wait is still to come.
    assert!(start.elapsed() >= Duration::from_millis(10 * 18));
    let start = std::time::Instant::now();
    for _ in 0..12 {
        offer(&mut guest, &mut queues[0], 200);
        host.send(&with_header(&frame(MINE, 100)));
        guest.wait_used(&mut queues[0]);
    }
    assert!(start.elapsed() >= Duration::from_millis(10 * 10));
}

#[test]
fn a_reset_in_mid_traffic_leaves_nothing_running() {
    let (mut guest, mut queues, host) = running(&Net::default(), MERGEABLE | EVENT_IDX);
    for round in 0..50 {
        let buffer = guest.alloc_with(&with_header(&frame(MINE, 60)));
        let heads: Vec<_> = (0..8).map(|_| queues[1].add(&[Read(buffer, 72)])).collect();
        guest.kick(&mut queues[1], &heads);
        let head = queues[0].add(&[Write(buffer, 72)]);
        guest.kick(&mut queues[0], &[head]);
        let _ = host.sockets[0].send(&with_header(&frame(MINE, 60)));
        if round % 2 == 0 {
            guest.wait_used(&mut queues[1]);
        }
        while !host.is_silent() {}
        queues = guest.start(MERGEABLE | EVENT_IDX);
        assert_eq!(guest.status(), DRIVER_OK);
    }
}
