//! Real kernels, for whoever has them: loads each file in `MOTE_TEST_KERNELS` (separated by
//! `:`) and prints the times.
//!
//! ```text
//! MOTE_TEST_KERNELS=/boot/vmlinuz cargo test --release real_kernels -- --ignored --nocapture
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::{KernelFormat, KernelOptions, LoadedKernel};
use super::{load_kernel, memory};

/// The shortest of several loads into fresh memory.
fn time(path: &Path, options: &KernelOptions, times: usize) -> (LoadedKernel, Duration) {
    let mut best = None;
    for _ in 0..times {
        let memory = memory(256);
        let start = Instant::now();
        let kernel = load_kernel(path, &memory, options).unwrap();
        let elapsed = start.elapsed();
        if best.is_none_or(|(_, time)| elapsed < time) {
            best = Some((kernel, elapsed));
        }
    }
    best.unwrap()
}

#[test]
#[ignore = "needs real kernels, named in MOTE_TEST_KERNELS"]
fn real_kernels() {
    let kernels = std::env::var("MOTE_TEST_KERNELS").expect("MOTE_TEST_KERNELS is not set");
    for path in kernels.split(':') {
        let folder = TempDir::new().unwrap();
        let path = Path::new(path);
        let (kernel, uncached) = time(path, &KernelOptions::default(), 3);
        println!(
            "{}: {kernel:x?}\n  not cached: {uncached:?}",
            path.display()
        );
        if matches!(kernel.format, KernelFormat::BzImage { .. }) {
            let options = KernelOptions {
                cache: Some(folder.path().join("kernels")),
                ..KernelOptions::default()
            };
            let (_, first) = time(path, &options, 1);
            let (again, cached) = time(path, &options, 10);
            println!("  fills the cache: {first:?}\n  cached: {cached:?}");
            assert!(matches!(
                again.format,
                KernelFormat::BzImage { cached: true, .. }
            ));
            assert_eq!((again.entry, again.end), (kernel.entry, kernel.end));
        }
    }
}
