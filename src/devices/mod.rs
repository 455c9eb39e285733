//! The devices of the machine. They know guest memory, their queues and an interrupt; never KVM.

pub mod virtio;
