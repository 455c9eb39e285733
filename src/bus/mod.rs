//! Finds the device behind an MMIO or port address.
