//! mote: a microVM monitor for KVM.
//!
//! Each layer knows only the ones above it in this list:
//!
//! - [`config`]: what a VM is, as plain serde structs with validation
//! - [`memory`]: guest RAM: layout, backing and placement
//! - [`kvm`]: the only place that calls KVM ioctls
//! - [`boot`]: kernel images and their entry, initrd, command line
//! - [`arch`]: what differs between processors: layout, registers, tables
//! - [`bus`]: finds the device behind an MMIO or port address
//! - [`devices`]: serial, i8042, boot timer and the virtio devices
//! - [`vcpu`]: the vCPU threads and their exit loop
//! - [`machine`]: builds a VM out of the above and runs it

pub mod boot;
pub mod bus;
pub mod devices;
