//! The drives that the guest maps: their place in its memory, and what KVM is told of them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::error::BuildError;
use super::virtio::DAX_SLOTS;
use crate::arch::{cpu, layout};
use crate::bus::Bus;
use crate::config::{DaxMode, Disk, VmConfig};
use crate::devices::virtio::pmem::rootflags::{RootMount, root_mount};
use crate::devices::virtio::pmem::{Beyond, DaxFile, PmemConfig, PmemDevice, PmemError};
use crate::kvm::{self, Host, MemorySlot};
use crate::memory::dax::DaxMapping;

/// The drives that the guest maps, in order. It keeps the mappings, so it must outlive the VM's
/// KVM descriptors.
#[derive(Default)]
pub struct DaxDrives {
    drives: Vec<DaxDrive>,
}

struct DaxDrive {
    file: Arc<DaxFile>,
    mapping: DaxMapping,
    guest: u64,
}

impl DaxDrives {
    /// Opens and maps those drives of `config` that are to be mapped, and gives them places after
    /// RAM.
    pub fn open(config: &VmConfig, host: &Host) -> Result<Self, BuildError> {
        let mut drives = Vec::new();
        let mut guest = layout::dax_start(config.memory.size.bytes());
        for disk in config.drives() {
            let Some(mode) = disk.dax_mode() else {
                continue;
            };
            let file = PmemDevice::open(&PmemConfig {
                // Named as Linux will: by the order of its probes (drivers/nvdimm/region_devs.c).
                name: format!("pmem{}", drives.len()),
                path: disk.path.clone(),
                mode,
            })?;
            let path = || disk.path.clone();
            let mapping =
                DaxMapping::new(file.file(), file.size(), mode, &disk.path).map_err(|source| {
                    PmemError::Map {
                        path: path(),
                        source,
                    }
                })?;
            let end = guest.checked_add(mapping.len());
            let limit = cpu::physical_end(host)?;
            let Some(end) = end.filter(|end| *end <= limit) else {
                let (path, size) = (path(), file.size() >> 20);
                return Err(PmemError::TooLarge { path, size }.into());
            };
            drives.push(DaxDrive {
                file,
                mapping,
                guest,
            });
            guest = end.next_multiple_of(layout::DAX_ALIGN);
        }
        Ok(DaxDrives { drives })
    }

    /// Gives the mappings to the guest, at most two slots each: what it may write, and what it may
    /// only read.
    ///
    /// # Safety
    ///
    /// `self` must live until `fd` and all its vCPUs are dropped.
    pub unsafe fn show(&self, fd: &kvm::Vm) -> Result<(), BuildError> {
        let mut slot = DAX_SLOTS;
        for drive in &self.drives {
            let read_only = drive.read_only();
            for (range, read_only) in [(0..read_only.start, false), (read_only, true)] {
                if range.is_empty() {
                    continue;
                }
                let slot_of_drive = MemorySlot {
                    slot,
                    guest: drive.guest + range.start,
                    host: drive.mapping.host_address() + range.start,
                    len: range.end - range.start,
                    read_only,
                };
                // SAFETY: the range is mapped as long as `self` lives, and no reference to it is
                // ever made.
                unsafe { fd.set_slot(slot_of_drive)? };
                slot += 1;
            }
        }
        Ok(())
    }

    /// Guest memory as devices see it: RAM, and the mappings, in which a guest's program may have
    /// its buffers too (a read with O_DIRECT into a file that it maps).
    ///
    /// # Safety
    ///
    /// `self` must outlive what is returned and its clones.
    pub unsafe fn with_ram(&self, ram: &GuestMemoryMmap<()>) -> GuestMemoryMmap<()> {
        let add = |memory: GuestMemoryMmap<()>, drive: &DaxDrive| {
            // SAFETY: the caller's promise.
            let region = unsafe { drive.mapping.region(GuestAddress(drive.guest)) };
            let with = region.and_then(|region| memory.insert_region(Arc::new(region)).ok());
            with.unwrap_or(memory)
        };
        self.drives.iter().fold(ram.clone(), add)
    }

    /// Places what the guest meets where it can't reach a mapping.
    pub fn attach(&self, mmio: &mut Bus) -> Result<(), BuildError> {
        for drive in &self.drives {
            let device = Arc::new(Mutex::new(Beyond::new(
                drive.file.clone(),
                drive.read_only(),
            )));
            let name = format!("{}-memory", drive.file.config().name);
            mmio.insert(&name, drive.guest, drive.mapping.len(), device)?;
        }
        Ok(())
    }

    /// The virtio devices, in order.
    pub fn devices(&self) -> Vec<PmemDevice> {
        let device = |d: &DaxDrive| PmemDevice::new(d.file.clone(), d.guest, d.mapping.len());
        self.drives.iter().map(device).collect()
    }

    /// How the guest's kernel is to mount the first of them as its root.
    fn root_mount(&self) -> Option<RootMount> {
        self.drives
            .first()
            .and_then(|drive| root_mount(&drive.file))
    }

    /// The guest addresses of what the guest may only read.
    pub fn read_only_memory(&self) -> Vec<Range<u64>> {
        let place = |drive: &DaxDrive| {
            let Range { start, end } = drive.read_only();
            drive.guest + start..drive.guest + end
        };
        let places = self.drives.iter().map(place);
        places.filter(|range| !range.is_empty()).collect()
    }

    /// The host addresses of the mappings.
    pub fn host_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.drives.iter().flat_map(|d| d.mapping.host_ranges())
    }

    /// Why the host has no page for the guest, if a mapped drive can be the reason: the one that
    /// is smaller than it was before all others.
    pub fn trouble(&self) -> Option<String> {
        let texts = self.drives.iter().filter_map(|drive| drive.file.trouble());
        let texts: Vec<_> = texts.collect();
        let shrunk = texts.iter().position(|text| text.contains("while in use"));
        texts.into_iter().nth(shrunk.unwrap_or(0))
    }
}

impl DaxDrive {
    /// Which part of the mapping the guest may only read.
    fn read_only(&self) -> Range<u64> {
        let len = self.mapping.len();
        match self.file.config().mode {
            DaxMode::ReadOnly => 0..len,
            // Nothing would keep what is written there.
            DaxMode::Shared => self.mapping.file_len()..len,
            DaxMode::Private => len..len,
        }
    }
}

/// Where the root file system is, for the kernel's command line.
pub fn root_options(root: &Disk, dax: &DaxDrives) -> Vec<String> {
    let device = if root.dax { "pmem0" } else { "vda" };
    let mut options = vec![
        format!("root=/dev/{device}"),
        if root.read_only { "ro" } else { "rw" }.to_owned(),
    ];
    let mount = root.dax.then(|| dax.root_mount()).flatten();
    if root.dax && !mount.is_some_and(RootMount::is_dax) {
        log::warn!(
            "--rootfs {},dax: no rootflags=dax for it, so that the guest keeps copies of its pages: of \
             ext4 (with no inline data), XFS and EROFS the blocks must have 4096 bytes (mke2fs -b 4096)",
            root.path.display()
        );
    }
    if let Some(mount) = mount {
        options.push(format!("rootfstype={}", mount.kind));
        if !mount.flags.is_empty() {
            options.push(format!("rootflags={}", mount.flags));
        }
    }
    options
}
