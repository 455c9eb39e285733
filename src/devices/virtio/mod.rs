//! virtio 1.3 over MMIO, and the virtio devices.
