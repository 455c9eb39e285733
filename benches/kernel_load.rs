//! How long kernels take into guest memory: unpacked each time, filling the cache, from the cache.
//!
//!     cargo bench --bench kernel_load -- KERNEL...
//!
//! Guest memory is fresh for each load and has small pages, so page faults are in the figure.

use std::path::Path;
use std::time::{Duration, Instant};

use motevm::arch::{ARCHITECTURE, layout};
use motevm::boot::{KernelFormat, KernelOptions, LoadedKernel, load_kernel};
use vm_memory::GuestMemoryMmap;

const MEMORY: u64 = 256 << 20;

/// The shortest of several loads.
fn best_of(times: usize, path: &Path, options: &KernelOptions) -> (LoadedKernel, Duration) {
    let load = |_| {
        let ranges = layout::ram_ranges(MEMORY).into_iter();
        let ranges: Vec<_> = ranges.map(|(at, size)| (at, size as usize)).collect();
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
        let start = Instant::now();
        let kernel =
            load_kernel(path, ARCHITECTURE, &memory, options).expect("a kernel that loads");
        (kernel, start.elapsed())
    };
    (0..times)
        .map(load)
        .min_by_key(|(_, time)| *time)
        .expect("at least one run")
}

fn main() {
    let kernels: Vec<_> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    if kernels.is_empty() {
        println!("NOT RUN: name kernels: cargo bench --bench kernel_load -- KERNEL...");
    }
    for path in kernels {
        let path = Path::new(&path);
        let (kernel, uncached) = best_of(5, path, &KernelOptions::default());
        println!(
            "{}: {} KiB loaded",
            path.display(),
            kernel.bytes_loaded >> 10
        );
        println!("  not cached          {uncached:>10.1?}");
        if let KernelFormat::BzImage { compression, .. }
        | KernelFormat::PackedImage { compression, .. } = kernel.format
        {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let cache = Some(folder.path().join("kernels"));
            let options = KernelOptions {
                cache,
                ..KernelOptions::default()
            };
            let (_, first) = best_of(1, path, &options);
            let (_, cached) = best_of(10, path, &options);
            println!("  first, {compression:?} {first:>10.1?}");
            println!("  cached              {cached:>10.1?}");
        }
    }
}
