//! A balloon: pages that are none, statistics that make no sense, and a host that changes its mind.

use std::fmt::Display;

use arbitrary::Unstructured;

use super::*;
use crate::config::Size;
use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::fuzzing::{Served, drive};

const MEMORY: u64 = 1 << 20;
/// In a turn.
const REQUESTS: usize = 64;

struct Inline {
    service: Service,
    buffers: Buffers,
    balloon: Balloon,
}

impl Served for Inline {
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        for _ in 0..REQUESTS {
            match self.service.turn(&mut self.buffers) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(Box::new(error)),
            }
        }
        Ok(())
    }

    fn host(&mut self, what: u8, data: &[u8]) {
        match what % 2 {
            0 => {
                let size = Size::new((data.len() as u64) << 14);
                assert_eq!(self.balloon.set_target(size).is_ok(), size.bytes() < MEMORY);
            }
            _ => drop(self.service.ask_for_stats()),
        }
    }
}

/// A balloon and its driver.
pub fn balloon(data: &[u8]) {
    let device = BalloonDevice::new(BalloonConfig {
        memory: MEMORY,
        deflate_on_oom: true,
        stats: Some(Duration::from_secs(3600)),
        reporting: true,
        ..BalloonConfig::default()
    });
    drive(
        &mut Unstructured::new(data),
        device,
        |device, activation| {
            let stop = Arc::new(Stop::new().unwrap());
            // So that it takes no more than a request in a turn.
            stop.ask().unwrap();
            let roles: Vec<Role> = BalloonDevice::roles(activation.features).collect();
            let (memory, interrupt) = (activation.memory.clone(), activation.interrupt.clone());
            let service = Service::new(activation, &roles, stop, None, device.shared.clone());
            device.shared.go_live(interrupt);
            Box::new(Inline {
                service: service.unwrap(),
                buffers: Buffers::new(&memory),
                balloon: device.handle(),
            })
        },
    );
}
