//! The entropy device, with any driver.

use arbitrary::Unstructured;

use super::*;
use crate::devices::virtio::fuzzing::{Handlers, drive};

/// The device and its driver.
pub fn rng(data: &[u8]) {
    drive(
        &mut Unstructured::new(data),
        RngDevice::new(),
        |device, activation| {
            let counts = device.counts.clone();
            Box::new(Handlers::new(activation, move || Entropy(counts.clone())))
        },
    );
}
