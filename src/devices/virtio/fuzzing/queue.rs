//! Chains of descriptors as streams of bytes: a device that does with a chain whatever the chain says.

use arbitrary::Unstructured;

use super::super::buffers::{Buffers, ChainError, GuestBytes};
use super::super::worker::RequestHandler;
use super::super::{ActivateError, Activation, VirtioDevice};
use super::{Handlers, drive};

/// A device with two queues, and its driver.
pub fn virtqueue(data: &[u8]) {
    drive(&mut Unstructured::new(data), Device, |_, activation| {
        Box::new(Handlers::new(activation, || Anything))
    });
}

struct Device;

impl VirtioDevice for Device {
    fn name(&self) -> &str {
        "any"
    }
    fn device_type(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8, 256]
    }
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn activate(&mut self, _: Activation) -> Result<(), ActivateError> {
        Ok(())
    }
    fn reset(&mut self) {}
}

struct Anything;

impl RequestHandler for Anything {
    type Scratch = ();

    /// The first bytes tell what is done with the rest, and with what is to be written.
    fn handle(&self, buffers: &mut Buffers, (): &mut ()) -> Result<u32, ChainError> {
        let mut script = [0; 16];
        let steps = buffers.readable.read(&mut script);
        let room = buffers.writable.len();
        for step in script[..steps].chunks_exact(2) {
            let amount = usize::from(step[1]) << (step[0] >> 4);
            match step[0] & 7 {
                0 if buffers.tail.is_empty() => {
                    let before = buffers.writable.len();
                    let done = buffers.split_tail(amount);
                    assert_eq!(done, amount <= before);
                    assert_eq!(buffers.writable.len() + buffers.tail.len(), before);
                }
                0 => touch(&mut buffers.tail, amount),
                1 => touch(&mut buffers.readable, amount),
                2 => touch(&mut buffers.writable, amount),
                3 => buffers.readable.advance(amount),
                4 => buffers.writable.advance(amount),
                5 => fill(&mut buffers.writable, amount),
                6 => fill(&mut buffers.tail, amount),
                _ => drop((
                    buffers.readable.is_aligned(512, 512),
                    buffers.writable.is_aligned(4, 1),
                )),
            }
        }
        let left = buffers.writable.len() + buffers.tail.len();
        assert!(left <= room);
        Ok((room - left) as u32)
    }
}

/// Lends some, and reads some.
fn touch(bytes: &mut GuestBytes, amount: usize) {
    let (limit, before) = (amount.min(1 << 16), bytes.len());
    let lent = bytes.lend(limit, |pieces| {
        pieces.iter().map(|piece| piece.iov_len).sum::<usize>()
    });
    assert!(lent <= limit && lent <= before && bytes.len() == before);
    let mut data = vec![0; limit];
    let done = bytes.read(&mut data);
    assert_eq!((done, bytes.len()), (before.min(limit), before - done));
}

/// Writes some.
fn fill(bytes: &mut GuestBytes, amount: usize) {
    let (data, before) = (vec![0x5a; amount.min(1 << 16)], bytes.len());
    let done = bytes.write(&data);
    assert_eq!((done, bytes.len()), (before.min(data.len()), before - done));
}
