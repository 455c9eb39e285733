//! A drive of any sort, on an image in memory, and any requests.

use arbitrary::Unstructured;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::*;
use crate::config::{Cache, Queues};
use crate::devices::virtio::fuzzing::{Handlers, drive};
use crate::fuzzing::files::MemoryFile;

const SIZE: usize = 1 << 16;

/// A drive and its driver; the first byte tells of which sort it is.
pub fn blk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let kind = input.arbitrary::<u8>().unwrap_or(0);
    let image = MemoryFile::new(&[0x11; SIZE]);
    let device = BlkDevice::open(&BlkConfig {
        read_only: kind & 1 != 0,
        cache: match kind & 2 {
            0 => Cache::Writeback,
            _ => Cache::Unsafe,
        },
        id: (kind & 4 != 0).then(|| "12345678901234567890".to_owned()),
        queues: Queues(1 + u16::from(kind & 8 != 0)),
        ..BlkConfig::new("vda", image.path())
    });
    drive(&mut input, device.unwrap(), |device, activation| {
        if activation.features & (1 << VIRTIO_BLK_F_FLUSH) == 0 {
            device.set_writeback(false);
        }
        let shared = device.shared.clone();
        let interrupt = activation.interrupt.clone();
        let requests = move || Requests::new(shared.clone(), interrupt.clone());
        Box::new(Handlers::new(activation, requests))
    });
    // Nobody has made it larger or smaller.
    assert_eq!(std::fs::metadata(image.path()).unwrap().len(), SIZE as u64);
}
