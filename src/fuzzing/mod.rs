//! What fuzz/ drives: one function for each parser, and for each device's registers and queues. Each takes any
//! bytes, and panics where something is wrong. docs/testing.md has the rest.
//!
//! Nothing here starts a thread of a device or waits for anything: the same bytes take the same way through the
//! code each time. A function that needs what is private to a module is in a file `fuzzing.rs` of that module.

mod config;
pub(crate) mod files;
mod host;
mod ports;
mod tables;

pub use crate::api::fuzzing::api;
pub use crate::boot::fuzzing::{bzimage, cmdline, decompress, elf, image, initrd};
pub use crate::devices::vhost_user::fuzzing::vhost_user;
pub use crate::devices::virtio::balloon::fuzzing::balloon;
pub use crate::devices::virtio::blk::fuzzing::blk;
pub use crate::devices::virtio::console::fuzzing::console;
pub use crate::devices::virtio::fuzzing::{queue::virtqueue, transport::transport};
pub use crate::devices::virtio::net::fuzzing::net;
pub use crate::devices::virtio::pmem::fuzzing::pmem;
pub use crate::devices::virtio::rng::fuzzing::rng;
pub use crate::devices::virtio::vsock::fuzzing::vsock;
pub use crate::image::fuzzing::image_layer;
pub use crate::metrics::fuzzing::metrics;
pub use config::{config, option};
pub use host::{disk_image, sysfs};
pub use ports::ports;
pub use tables::{a64, fdt};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All of them, with the names of their files in fuzz/fuzz_targets and of their folders in fuzz/corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("a64", a64),
    ("api", api),
    ("balloon", balloon),
    ("blk", blk),
    ("bzimage", bzimage),
    ("cmdline", cmdline),
    ("config", config),
    ("console", console),
    ("decompress", decompress),
    ("disk_image", disk_image),
    ("elf", elf),
    ("fdt", fdt),
    ("image", image),
    ("image_layer", image_layer),
    ("initrd", initrd),
    ("metrics", metrics),
    ("net", net),
    ("option", option),
    ("pmem", pmem),
    ("ports", ports),
    ("rng", rng),
    ("sysfs", sysfs),
    ("transport", transport),
    ("vhost_user", vhost_user),
    ("virtqueue", virtqueue),
    ("vsock", vsock),
];

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
