//! Where the initrd goes, on either architecture, and what is said where it can't.

use std::fs;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::{Entry, KernelFormat, LoadedKernel, load_initrd};
use super::{Fixture, guest_bytes, memory};

/// A kernel from 16 MiB to so many bytes after.
fn kernel(size: u64) -> LoadedKernel {
    LoadedKernel {
        text_end: GuestAddress(0x100_0000 + size),
        entry: Entry::Pvh(GuestAddress(16 << 20)),
        start: GuestAddress(16 << 20),
        end: GuestAddress((16 << 20) + size),
        bytes_loaded: size,
        bytes_mapped: 0,
        format: KernelFormat::Elf,
    }
}

#[test]
fn the_initrd_goes_as_high_as_it_may() {
    let contents: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let file = Fixture::new(&contents);
    for (highest, start) in [
        (u64::MAX, (64 << 20) - 25 * 4096),
        (64 << 20, (64 << 20) - 25 * 4096),
        (32 << 20, (32 << 20) - 25 * 4096),
        ((32 << 20) + 1, (32 << 20) - 25 * 4096),
        // Straight after the kernel.
        ((17 << 20) + 100_000, 17 << 20),
    ] {
        let memory = memory(64);
        let range = load_initrd(&file.path, &memory, &kernel(1 << 20), highest).unwrap();
        assert_eq!(range.start, GuestAddress(start), "{highest:#x}");
        assert_eq!(range.size, 100_000);
        assert!(guest_bytes(&memory, start, 100_000) == contents);
    }
}

#[test]
fn the_initrd_stays_below_the_gap() {
    let ranges = [
        (GuestAddress(0), 32 << 20),
        (GuestAddress(1 << 32), 32 << 20),
    ];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    let file = Fixture::new(b"070701");
    let range = load_initrd(&file.path, &memory, &kernel(4096), u64::MAX).unwrap();
    assert_eq!(range.start, GuestAddress((32 << 20) - 4096));
}

#[test]
fn an_initrd_that_does_not_fit_says_what_would_help() {
    let file = Fixture::new(&[1; 100_000]);
    let refusal = |mib, size, highest| {
        load_initrd(&file.path, &memory(mib), &kernel(size), highest)
            .unwrap_err()
            .to_string()
    };
    // One byte more than in the test above.
    let message = refusal(64, (1 << 20) + 1, (17 << 20) + 100_000);
    assert!(
        message.contains("make it smaller, or use a root"),
        "{message}"
    );
    let message = refusal(18, 2 << 20, u64::MAX);
    assert!(message.contains("--memory 19M"), "{message}");
    assert!(message.contains("100000 bytes"), "{message}");

    let big = file.folder.path().join("big");
    fs::File::create(&big).unwrap().set_len(1 << 40).unwrap();
    let error = load_initrd(&big, &memory(64), &kernel(4096), u64::MAX).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("use a root filesystem on a drive"),
        "{error}"
    );
}

#[test]
fn wrong_initrds_are_refused() {
    let file = Fixture::new(b"");
    let refusal = |path| {
        load_initrd(path, &memory(64), &kernel(4096), u64::MAX)
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(&file.path).contains("is empty"));
    assert!(refusal(file.folder.path()).contains("not a regular file"));
    assert!(refusal(&file.folder.path().join("none")).contains("cannot open"));
}

const GIB: u64 = 1 << 30;

/// An arm64 kernel from so many bytes after 1 GiB, and so many bytes long.
fn arm64_kernel(offset: u64, size: u64) -> LoadedKernel {
    let start = GuestAddress(GIB + offset);
    LoadedKernel {
        entry: Entry::Arm64(start),
        start,
        end: GuestAddress(start.0 + size),
        format: KernelFormat::Image,
        ..kernel(size)
    }
}

/// Fresh guest memory from 1 GiB on; pages that nobody touches cost nothing.
fn high_memory(size: u64) -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(GIB), size as usize)]).unwrap()
}

#[test]
fn on_arm64_it_goes_to_the_end_of_ram_that_begins_at_1_gib() {
    let contents = [7; 5000];
    let file = Fixture::new(&contents);
    let memory = high_memory(64 << 20);
    let kernel = arm64_kernel(2 << 20, 10 << 20);
    let range = load_initrd(&file.path, &memory, &kernel, u64::MAX).unwrap();
    assert_eq!(range.start, GuestAddress(GIB + (64 << 20) - 2 * 4096));
    assert_eq!(guest_bytes(&memory, range.start.0, 5000), contents);
    // Straight after the kernel, and not a byte before its end.
    let highest = GIB + (12 << 20) + 5000;
    let range = load_initrd(&file.path, &memory, &kernel, highest).unwrap();
    assert_eq!(range.start, kernel.end);
    assert!(load_initrd(&file.path, &memory, &kernel, highest - 1).is_err());
}

#[test]
fn on_arm64_it_lies_in_one_window_with_the_kernel() {
    let file = Fixture::new(b"070701");
    let memory = high_memory(40 << 30);
    let start = |kernel| {
        let range = load_initrd(&file.path, &memory, &kernel, u64::MAX);
        range.unwrap().start.0
    };
    // The window begins at the GiB that the kernel begins in.
    assert_eq!(start(arm64_kernel(2 << 20, 4096)), 33 * GIB - 4096);
    assert_eq!(start(arm64_kernel(GIB - 4096, 8192)), 33 * GIB - 4096);
    assert_eq!(start(arm64_kernel(GIB, 4096)), 34 * GIB - 4096);
}

#[test]
fn on_arm64_the_memory_that_would_help_is_counted_from_the_start_of_ram() {
    let file = Fixture::new(&[1; 100_000]);
    let refusal = |memory: &GuestMemoryMmap<()>, highest| {
        let kernel = arm64_kernel(2 << 20, 60 << 20);
        load_initrd(&file.path, memory, &kernel, highest)
            .unwrap_err()
            .to_string()
    };
    let message = refusal(&high_memory(62 << 20), u64::MAX);
    assert!(message.contains("--memory 63M"), "{message}");
    assert!(message.contains("kernel's end at 0x43e00000"), "{message}");
    let message = refusal(&high_memory(64 << 20), GIB + (62 << 20));
    assert!(
        message.contains("make it smaller, or use a root"),
        "{message}"
    );
    let big = file.folder.path().join("big");
    fs::File::create(&big).unwrap().set_len(33 << 30).unwrap();
    let kernel = arm64_kernel(2 << 20, 4096);
    let error = load_initrd(&big, &high_memory(64 << 20), &kernel, u64::MAX).unwrap_err();
    assert!(
        error.to_string().contains("use a root filesystem"),
        "{error}"
    );
}
