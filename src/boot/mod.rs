//! Kernel images and their entry points, the initrd, the command line: everything that
//! firmware and a boot loader would do, done on the host before the first guest instruction.
//!
//! ```text
//! vmlinux ────────────────────────────┐
//! arm64 Image ────────────────────────┤
//!                                     ├─ elf or image ─ segments ─> guest memory, Entry
//! bzImage ──────┬─ cache (packed) ────┤
//! packed Image ─┴─ decompress ────────┘
//! initrd ───────────────────────────────> guest memory, InitrdRange
//! Cmdline, memory map ─ pvh or linux64 ─> guest memory, what an x86_64 kernel reads first
//! ```
//!
//! An arm64 kernel reads a device tree instead, which is its machine's to write. For which processor
//! the kernel is, the caller says ([`Architecture`]): all of this runs, and is tested, on either.
//!
//! Nothing here knows KVM, the command line or the configuration. Every function reads
//! files that may be hostile: they are checked once, here, and no content of a file makes
//! these functions panic or write outside guest memory.
//!
//! # Preconditions
//!
//! - Where pages of the file are mapped ([`KernelOptions::map`]), it stays as it is.
//! - Guest memory is fresh (all zero) where the kernel lands: BSS is not written, since
//!   that would cost a page fault for each of its pages.
//! - No vCPU runs yet. A vCPU that wrote to the kernel while it is being loaded would hurt
//!   its own guest only.
//! - x86_64: addresses below [`LOWEST_KERNEL_ADDRESS`] belong to the boot tables: a kernel that asks
//!   for them is refused. arm64: nothing of the machine's is above [`KernelOptions::base`] in RAM.

mod architecture;
mod bzimage;
mod cache;
mod cmdline;
mod decompress;
mod elf;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod image;
mod initrd;
mod kernel;
mod kernel_image;
mod linux64;
mod memory_map;
mod notes;
mod packed;
mod pvh;
mod recognise;
mod segments;
mod source;
#[cfg(test)]
mod tests;
mod unpacked;
mod zboot;

pub use architecture::Architecture;
pub use bzimage::BzImageError;
pub use cache::{default_folder as default_cache_folder, user_folder as user_cache_folder};
pub use cmdline::{COMMAND_LINE_SIZE, Cmdline, CmdlineError, write_cmdline};
pub use decompress::{Compression, DecompressError};
pub use error::{ElfError, KernelError};
pub use image::ImageError;
pub use initrd::{InitrdError, InitrdRange, load_initrd};
pub use kernel::{
    Entry, EntryPreference, FileFormat, KernelFile, KernelFormat, KernelOptions, LoadedKernel,
    load_kernel,
};
pub use linux64::write_zero_page;
pub use memory_map::{BootTableError, MemoryKind, MemoryMapEntry};
pub use pvh::write_pvh;
pub use segments::PlacementError;
pub use zboot::ZbootError;

/// The lowest address, in bytes, at which an x86_64 kernel's segment may lie: 1 MiB. The boot tables,
/// the command line and what remains of the PC's low memory are below.
pub const LOWEST_KERNEL_ADDRESS: u64 = 1 << 20;

/// The end, in bytes, of the highest address range an x86_64 kernel may be loaded to: 3 GiB, where
/// the gap for MMIO begins. Both entry protocols start with 32-bit addresses.
pub const HIGHEST_KERNEL_ADDRESS: u64 = 0xC000_0000;

/// The largest kernel, in bytes, that is unpacked: 1 GiB.
pub const MAX_UNPACKED_SIZE: u64 = 1 << 30;
