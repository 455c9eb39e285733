//! x86_64: guest layout, CPUID and registers, the kernel's default flags, MP and ACPI tables.

pub mod acpi;
pub mod cmdline;
pub mod cpu;
pub mod cpuid;
pub mod crash;
pub mod features;
pub mod idle;
pub mod layout;
pub mod mptable;
mod numa;
pub mod responder;
