//! The registers, with no device to speak of behind them, beside a model of what virtio says of them: see
//! [`super::super::transport::model`].

use arbitrary::{Arbitrary, Unstructured};

use crate::devices::virtio::transport::model::{Access, Pair};

/// Any accesses; after each, both must agree.
pub fn transport(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut pair = Pair::new();
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        let Ok(access) = Access::arbitrary(&mut input) else {
            break;
        };
        pair.access(&access);
    }
}
