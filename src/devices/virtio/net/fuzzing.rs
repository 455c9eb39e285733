//! A network device with two pairs of queues, between any driver and any packets.

use std::fmt::Display;
use std::os::unix::net::UnixDatagram;

use arbitrary::Unstructured;

use super::tap::offload;
use super::*;
use crate::devices::virtio::fuzzing::{Served, drive};

/// Packets of a direction in a turn, and how large they are at most.
const BATCH: usize = 32;
const PACKET: usize = 70_000;

struct Inline {
    pairs: Vec<Pair>,
    host: Arc<Vec<UnixDatagram>>,
    link: Link,
}

impl Served for Inline {
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        let result = self.pairs.iter_mut().try_for_each(|pair| {
            if let Some(control) = &mut pair.control {
                control.serve()?;
            }
            pair.receiver.round(BATCH)?;
            pair.transmitter.round(BATCH)?;
            let rx = pair.receiver.wants_interrupt()?;
            if rx | pair.transmitter.wants_interrupt()? {
                pair.interrupt.used_buffers();
            }
            Ok(())
        });
        result.map_err(|error: pair::PairError| -> Box<dyn Display> { Box::new(error) })
    }

    fn host(&mut self, what: u8, data: &[u8]) {
        let socket = &self.host[usize::from(what & 1)];
        match what >> 1 & 7 {
            // A larger packet: the bytes again and again.
            0 if !data.is_empty() => {
                let packet: Vec<u8> = data
                    .iter()
                    .copied()
                    .cycle()
                    .take(data.len() * 300)
                    .collect();
                let _ = socket.send(&packet[..packet.len().min(PACKET)]);
            }
            1 => {
                let mut packet = [0; 2000];
                while socket.recv(&mut packet).is_ok() {}
            }
            2 => self.link.set(data.len().is_multiple_of(2)),
            _ => drop(socket.send(data)),
        }
    }
}

/// A network device; the first byte tells what its tap can do.
pub fn net(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let kind = input.arbitrary::<u8>().unwrap_or(0);
    let (mut taps, mut host) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (tap, socket) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        taps.push(Tap::fake(tap, kind & 1 == 0));
        host.push(socket);
    }
    let offloads = offload::CSUM | offload::TSO4 | offload::TSO6 | offload::ECN | offload::UFO;
    let opened = Opened {
        taps,
        mtu: (kind & 2 != 0).then_some(9000),
        offloads: if kind & 1 == 0 {
            offloads | offload::USO
        } else {
            0
        },
    };
    let net = Net {
        queues: 2,
        ..Net::default()
    };
    let device = NetDevice::new("net0", &net, opened, None, [2, 0, 0, 0, 0, 1]).unwrap();
    let host = Arc::new(host);
    drive(&mut input, device, move |device, activation| {
        let pairs = device.pairs(activation).unwrap();
        Box::new(Inline {
            pairs: pairs.into_iter().map(|(_, pair)| pair).collect(),
            host: host.clone(),
            link: device.link(),
        })
    });
}
