//! A drive that the guest maps: its flushes, and accesses where its memory is not.

use std::fmt::Display;

use arbitrary::Unstructured;

use super::*;
use crate::bus::BusDevice;
use crate::config::DaxMode;
use crate::devices::virtio::fuzzing::{Handlers, Served, drive};
use crate::fuzzing::files::MemoryFile;

const SIZE: u64 = 1 << 16;

struct Mapped {
    flushes: Handlers<Flushes>,
    beyond: Beyond,
}

impl Served for Mapped {
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        self.flushes.turn()
    }

    /// An access that KVM hands over.
    fn host(&mut self, what: u8, data: &[u8]) {
        let mut bytes = data.to_vec();
        match what {
            128.. => self.beyond.write(u64::from(what) << 9, &bytes),
            _ => {
                self.beyond.read(u64::from(what) << 9, &mut bytes);
                assert!(bytes.iter().all(|byte| *byte == 0xff));
            }
        }
    }
}

/// A drive and its driver; the first byte tells how it is mapped.
pub fn pmem(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mode = match input.arbitrary::<u8>().unwrap_or(0) % 3 {
        0 => DaxMode::Shared,
        1 => DaxMode::Private,
        _ => DaxMode::ReadOnly,
    };
    let image = MemoryFile::new(&[1; SIZE as usize]);
    let file = PmemDevice::open(&PmemConfig {
        name: "pmem0".to_owned(),
        path: image.path(),
        mode,
    });
    let device = PmemDevice::new(file.unwrap(), 1 << 33, SIZE);
    drive(&mut input, device, |device, activation| {
        let file = device.file.clone();
        Box::new(Mapped {
            flushes: Handlers::new(activation, || Flushes(file.clone())),
            beyond: Beyond::new(file.clone(), SIZE / 2..SIZE),
        })
    });
}
