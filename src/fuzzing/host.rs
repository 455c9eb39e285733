//! What is read of the host: disk images, files of the kernel.

use crate::config::{Cache, CpuList, DaxMode};
use crate::devices::virtio::blk::{BlkConfig, BlkDevice};
use crate::devices::virtio::pmem::{PmemConfig, PmemDevice, rootflags::root_mount};
use crate::footprint::smaps;
use crate::fuzzing::files::MemoryFile;

/// A drive's image: whether it is a raw one, and which file system is in it.
pub fn disk_image(data: &[u8]) {
    let file = MemoryFile::new(data);
    for read_only in [false, true] {
        let config = BlkConfig {
            read_only,
            cache: Cache::Unsafe,
            ..BlkConfig::new("vda", file.path())
        };
        if let Ok(device) = BlkDevice::open(&config) {
            assert_eq!(device.size(), data.len() as u64);
        }
    }
    for mode in [DaxMode::Shared, DaxMode::ReadOnly] {
        let config = PmemConfig {
            name: "pmem0".to_owned(),
            path: file.path(),
            mode,
        };
        if let Ok(file) = PmemDevice::open(&config) {
            let _ = root_mount(&file);
        }
    }
}

/// Files of the kernel's that tell of processes and CPUs.
pub fn sysfs(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for mapping in smaps::parse(&text) {
        assert!(mapping.range.start < mapping.range.end);
    }
    let _ = CpuList::of_kernel(&text);
    let _ = CpuList::of_mask(&text);
}
