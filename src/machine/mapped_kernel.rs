//! A kernel whose file is guest memory: what is said when the file doesn't stay as it is.

use std::path::Path;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::boot::LoadedKernel;
use crate::memory::sigbus::Named;

/// Says why, where a page of the file is gone; for as long as this value lives.
pub(super) struct MappedKernel {
    _named: Option<Named>,
    path: String,
}

impl MappedKernel {
    /// `None` for a kernel that was copied.
    pub fn of(kernel: &LoadedKernel, path: &Path, memory: &GuestMemoryMmap<()>) -> Option<Self> {
        if kernel.bytes_mapped == 0 {
            return None;
        }
        let path = path.display().to_string();
        let host = |address: GuestAddress| memory.get_host_address(address).ok();
        let start = host(kernel.start).map(|start| start as u64);
        let length = kernel.end.0 - kernel.start.0;
        let named = start.map(|start| Named::new(start..start + length, &trouble(&path)));
        Some(MappedKernel {
            _named: named,
            path,
        })
    }

    /// Advice where KVM has found no page for the guest.
    pub fn trouble(&self) -> String {
        trouble(&self.path)
    }
}

fn trouble(path: &str) -> String {
    format!(
        "kernel {path}: the guest maps its file (--kernel-load map), and the host had no page where one \
         was used: the file has shrunk, or its disk is failing"
    )
}
