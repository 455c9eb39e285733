//! The flattened device tree, by which an AArch64 guest is told of its machine: what is in it, and
//! where it goes. Which properties a node has is in the other files of this folder.
//!
//! "DTSpec" is the Devicetree Specification 0.4, "bindings" are the files below
//! Documentation/devicetree/bindings of Linux. Nothing here is of one processor only, so that the tests,
//! which have `dtc` read the trees, run on every host.

mod chosen;
mod cpus;
mod devices;
pub mod host;
#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_fdt::FdtWriter;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::MmioDevice;
use crate::boot::InitrdRange;
use crate::config::NumaNode;
use crate::handed::{self, Access};

/// Start and size in bytes of a range of guest addresses.
pub type Range = (u64, u64);

/// The guest's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the controller's own names
pub enum Gic {
    V2 {
        distributor: Range,
        cpu_interface: Range,
    },
    /// All redistributors are in one range.
    V3 {
        distributor: Range,
        redistributors: Range,
    },
}

/// What the guest is told.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// The kernel's command line; any bytes.
    pub cmdline: &'a CStr,
    /// Where the initrd is.
    pub initrd: Option<InitrdRange>,
    /// RAM: the ranges of each node of `nodes`, in their order; one list where there are none.
    pub ram: &'a [Vec<(GuestAddress, u64)>],
    /// The NUMA nodes.
    pub nodes: &'a [NumaNode],
    /// MPIDR_EL1 of each vCPU, as KVM has it. Only the affinity is looked at.
    pub cpus: &'a [u64],
    /// How fast each vCPU is ([`host::capacities`]); empty where all are the same.
    pub capacities: &'a [u32],
    /// The caches of the host's processors, if they are known.
    pub caches: &'a host::Caches,
    /// The interrupt controller.
    pub gic: Gic,
    /// Whether the vCPUs have a performance monitor (PMUv3).
    pub pmu: bool,
    /// The serial port, a 16550.
    pub serial: Option<MmioDevice>,
    /// The address of the clock, a PL031. It has no interrupt: its alarm never rings, and a guest that is told
    /// of none doesn't wait for it.
    pub rtc: u64,
    /// The virtio devices.
    pub devices: &'a [MmioDevice],
}

/// Why the guest can't have its device tree.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum FdtError {
    #[error(
        "the device tree takes {size} bytes, and has room for {room}: give the VM fewer devices"
    )]
    TooLarge { size: u64, room: u64 },
    #[error("making the device tree: {0}")]
    Build(#[from] vm_fdt::Error),
    #[error("the device tree at {address:#x}: {source}")]
    Memory {
        address: u64,
        source: GuestMemoryError,
    },
    #[error("the device tree needs random numbers for the guest; getrandom: {0}")]
    Random(io::Error),
    #[error("--dump-fdt {path}: {source}")]
    Save { path: PathBuf, source: io::Error },
}

/// Writes the device tree to `at`, a multiple of 8 (Linux Documentation/arch/arm64/booting.rst §2), and
/// gives its size, which is at most `room` bytes.
///
/// # Errors
///
/// See [`FdtError`].
pub fn write(
    description: &Description,
    memory: &GuestMemoryMmap<()>,
    at: GuestAddress,
    room: u64,
) -> Result<u64, FdtError> {
    let tree = tree(description)?;
    let size = tree.len() as u64;
    if size > room {
        return Err(FdtError::TooLarge { size, room });
    }
    match memory.write_slice(&tree, at) {
        Ok(()) => Ok(size),
        Err(source) => Err(FdtError::Memory {
            address: at.0,
            source,
        }),
    }
}

/// Writes the tree at `at`, which [`write`] put there, to a file, as `dtc -I dtb -O dts` reads it. The guest's
/// seeds are in it: the file is its owner's only.
///
/// # Errors
///
/// [`FdtError::Save`], and [`FdtError::Memory`] where there is no tree.
pub fn save(memory: &GuestMemoryMmap<()>, at: GuestAddress, path: &Path) -> Result<(), FdtError> {
    let unreadable = |source| FdtError::Memory {
        address: at.0,
        source,
    };
    // DTSpec §5.2: magic and size come first.
    let mut header = [0; 8];
    memory.read_slice(&mut header, at).map_err(unreadable)?;
    let [.., a, b, c, d] = header;
    let mut tree = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    memory.read_slice(&mut tree, at).map_err(unreadable)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let result = handed::open(path, Access::Write, &options);
    let result = result.and_then(|mut file| file.write_all(&tree));
    result.map_err(|source| FdtError::Save {
        path: path.to_owned(),
        source,
    })
}

/// The interrupt controller's phandle (DTSpec §2.3.3), by which others name it. Those of the CPUs and of
/// their caches are from [`cpus::CPU`] up.
const GIC: u32 = 1;
/// The clock's that the PL031 counts by.
const CLOCK: u32 = 2;

/// The whole tree, with its header (DTSpec §5).
fn tree(description: &Description) -> Result<Vec<u8>, FdtError> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    // §2.3.5: addresses and sizes of two cells each, which `Range` has.
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    fdt.property_string("model", "mote,microvm")?;
    // Arm's name for a machine with nothing but what its tree says.
    fdt.property_string("compatible", "linux,dummy-virt")?;
    chosen::chosen(&mut fdt, description)?;
    chosen::memory(&mut fdt, description)?;
    cpus::cpus(&mut fdt, description)?;
    devices::platform(&mut fdt, description)?;
    devices::devices(&mut fdt, description)?;
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

/// `compatible` of several names, the most special one first (DTSpec §2.3.1): each with its zero.
fn compatible(fdt: &mut FdtWriter, names: &str) -> Result<(), vm_fdt::Error> {
    debug_assert!(names.ends_with('\0'));
    fdt.property("compatible", names.as_bytes())
}

/// `reg` of these ranges (DTSpec §2.3.6).
fn reg(fdt: &mut FdtWriter, ranges: &[Range]) -> Result<(), vm_fdt::Error> {
    let numbers = ranges.iter().flat_map(|&(start, size)| [start, size]);
    let bytes: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
    fdt.property("reg", &bytes)
}
