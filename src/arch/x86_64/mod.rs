//! x86_64: guest layout, CPUID and registers, the kernel's default flags, MP and ACPI tables.

use crate::boot;

pub mod acpi;
pub mod board;
pub mod clock;
pub mod cmdline;
pub mod cpu;
pub mod cpuid;
pub mod crash;
pub mod features;
pub mod idle;
pub mod irqchip;
pub mod layout;
pub mod mptable;
mod numa;
pub mod reboot;
pub mod responder;
pub mod stores;
pub mod syscalls;
pub mod tables;
pub mod vcpus;

/// Whose kernels run here.
pub const ARCHITECTURE: boot::Architecture = boot::Architecture::X86_64;
