//! What differs between processors. Each architecture has the same files and function names.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("mote runs on x86_64; another architecture needs its own folder under src/arch");
