//! Kernel files, initrds and command lines of any content.

use arbitrary::{Arbitrary, Unstructured};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::decompress::unpack;
use super::notes::find_pvh_entry;
use super::packed::{HEAD_SIZE, Stamp};
use super::source::Source;
use super::*;
use crate::fuzzing::files::MemoryFile;

/// RAM is this large: a kernel that unpacks to more is refused, or doesn't fit.
const RAM: u64 = 32 << 20;
/// The most that a packed kernel unpacks to here: the real limit, a gibibyte, takes seconds.
const UNPACKED: u64 = 8 << 20;
/// Where RAM is on AArch64.
const BASE: u64 = 1 << 30;

/// A vmlinux.
pub fn elf(data: &[u8]) {
    let head = &data[..data.len().min(HEAD_SIZE)];
    if let Ok(image) = elf::parse(head, &Source::Bytes(data)) {
        let mut previous = LOWEST_KERNEL_ADDRESS;
        for segment in &image.segments {
            assert!(segment.address >= previous && segment.file_size <= segment.memory_size);
            assert!(segment.offset + segment.file_size <= data.len() as u64);
            previous = segment.address + segment.memory_size;
        }
        assert!(previous <= HIGHEST_KERNEL_ADDRESS && image.end() == previous);
        load(data, Architecture::X86_64, 0);
    }
    let _ = find_pvh_entry(data, 4);
    let _ = find_pvh_entry(data, 8);
    if let Some(head) = data.first_chunk() {
        let _ = Stamp::read(head); // of an entry of the cache
    }
}

/// A bzImage.
pub fn bzimage(data: &[u8]) {
    let length = data.len() as u64;
    let head = &data[..data.len().min(HEAD_SIZE)];
    if bzimage::is_bzimage(head)
        && let Ok(payload) = bzimage::parse(head, length)
    {
        assert!(payload.length > 0 && payload.offset + payload.length <= length);
        load_packed(data, payload, Architecture::X86_64, 0);
    }
}

/// An arm64 kernel: an Image, one in gzip, or one inside of EFI zboot.
pub fn image(data: &[u8]) {
    let length = data.len() as u64;
    let head = &data[..data.len().min(HEAD_SIZE)];
    if let Ok(header) = image::Header::parse(head, length) {
        assert!(header.file_size <= header.memory_size && header.file_size <= length);
        load(data, Architecture::Aarch64, BASE);
    }
    let payload = match head {
        [0x1f, 0x8b, ..] => zboot::whole_file(length).ok(),
        _ if zboot::is_zboot(head) => zboot::parse(head, length).ok(),
        _ => None,
    };
    if let Some(payload) = payload {
        assert!(payload.length > 0 && payload.offset + payload.length <= length);
        load_packed(data, payload, Architecture::Aarch64, BASE);
    }
}

/// The decoders: gzip, zstd, lz4, xz, lzma, bzip2.
pub fn decompress(data: &[u8]) {
    if let Ok(unpacked) = unpack(data.to_vec(), UNPACKED)
        && !data.starts_with(&elf::MAGIC)
    {
        assert!(unpacked.len() as u64 <= UNPACKED);
    }
}

/// As a VM's start does: copied, and mapped.
fn load(data: &[u8], architecture: Architecture, base: u64) {
    let file = MemoryFile::new(data);
    for map in [false, true] {
        let memory = memory(base);
        let options = KernelOptions {
            base: GuestAddress(base),
            map,
            ..KernelOptions::default()
        };
        if let Ok(kernel) = load_kernel(&file.path(), architecture, &memory, &options) {
            assert!(kernel.start < kernel.end && kernel.start.0 >= base);
            assert!(kernel.end.0 <= base + RAM);
        }
    }
}

/// The same for a packed one, unless it would take long and show nothing.
fn load_packed(data: &[u8], payload: unpacked::Payload, architecture: Architecture, base: u64) {
    let end = (payload.offset + payload.length) as usize;
    let size = data[..end]
        .last_chunk()
        .map(|size| u32::from_le_bytes(*size));
    if size.is_some_and(|size| u64::from(size) <= UNPACKED) {
        load(data, architecture, base);
    }
}

fn memory(base: u64) -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(base), RAM as usize)]).unwrap()
}

/// An initrd beside a kernel.
#[derive(Arbitrary, Debug)]
struct Beside {
    /// Pages.
    size: u16,
    odd: u16,
    kernel: (u32, u32),
    ram: (u16, u16),
    highest: u64,
    arm64: bool,
}

/// The place of an initrd.
pub fn initrd(data: &[u8]) {
    let Ok(beside) = Beside::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    // One region, or two with a gap.
    let (low, high) = beside.ram;
    let low = (usize::from(low) << 12) + 0x1000;
    let mut ranges = vec![(GuestAddress(BASE), low)];
    if high > 0 {
        let start = BASE + (16 << 30) + u64::from(high);
        ranges.push((
            GuestAddress(start << 12 & ((1 << 46) - 1) | BASE << 13),
            1 << 20,
        ));
    }
    let Ok(memory) = GuestMemoryMmap::<()>::from_ranges(&ranges) else {
        return;
    };
    let start = BASE + u64::from(beside.kernel.0);
    let end = start + u64::from(beside.kernel.1);
    let entry = match beside.arm64 {
        true => Entry::Arm64(GuestAddress(start)),
        false => Entry::Linux64(GuestAddress(start)),
    };
    let kernel = LoadedKernel {
        entry,
        start: GuestAddress(start),
        end: GuestAddress(end),
        text_end: GuestAddress(end),
        bytes_loaded: 0,
        bytes_mapped: 0,
        format: KernelFormat::Elf,
    };
    let size = (usize::from(beside.size % 64) << 12) + usize::from(beside.odd);
    let file = MemoryFile::new(&vec![1; size]);
    if let Ok(range) = load_initrd(&file.path(), &memory, &kernel, beside.highest) {
        assert_eq!((range.size, range.start.0 % 4096), (size as u64, 0));
        assert!(range.start.0 >= end && range.start.0 + range.size - 1 <= beside.highest);
        assert!(vm_memory::GuestMemoryBackend::check_range(
            &memory,
            range.start,
            size
        ));
    }
}

/// The parts of a kernel's command line.
pub fn cmdline(data: &[u8]) {
    let mut cmdline = Cmdline::with_defaults(&["console=ttyS0", "quiet", "reboot=t", "b=\"c d\""]);
    for text in data.split(|byte| *byte == 0).take(8) {
        let text = String::from_utf8_lossy(text);
        match text.strip_prefix('@') {
            Some(device) => cmdline.add_device(device),
            None => cmdline.add(text),
        }
    }
    let Ok(line) = cmdline.finish() else { return };
    assert!(line.as_bytes_with_nul().len() <= COMMAND_LINE_SIZE);
    let base = GuestAddress(BASE);
    let _ = write_cmdline(&memory(BASE), &line, base);
}
