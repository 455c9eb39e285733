//! AArch64: guest layout, vCPUs and their features, the interrupt controller, and the device tree.

use crate::boot;

pub mod board;
mod caches;
pub mod clock;
pub mod cmdline;
pub mod cpu;
pub mod crash;
pub mod features;
mod id_registers;
pub mod idle;
pub mod irqchip;
pub mod layout;
pub mod mask;
pub mod reboot;
pub mod responder;
pub mod stores;
pub mod syscalls;
pub mod tables;
pub mod vcpus;

/// Whose kernels run here.
pub const ARCHITECTURE: boot::Architecture = boot::Architecture::Aarch64;
