//! What the benches of devices share.

pub mod guest;
pub mod perf;
