//! What a VM is: plain data, read from a file or from arguments, and checked. No I/O, no KVM.
//!
//! One struct per part. They are the same for the command line, for a TOML or JSON file and for
//! a program that embeds the library, so a new option is one field here and one argument in
//! `cli/`.

mod balloon;
mod cpu_list;
mod dax;
mod disk;
mod error;
mod fs;
mod idle;
mod jail;
mod memory;
mod metrics;
mod net;
mod numa;
mod paths;
mod placement;
mod rate;
mod rng;
mod sched;
mod size;
mod vsock;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use balloon::Balloon;
pub use cpu_list::{CPU_NUMBERS, CpuList};
pub use dax::DaxMode;
pub use disk::{Cache, Disk, Engine, MAX_QUEUES, Queues};
pub use error::ConfigError;
pub use fs::{Fs, OnDisconnect};
pub use idle::{HaltPoll, Idle, IdleMode};
pub use jail::{CpuTime, Jail};
pub use memory::{HugePages, Memory};
pub use metrics::{DEFAULT_INTERVAL as METRICS_INTERVAL, Metrics};
pub use net::{MAX_QUEUES as MAX_NET_QUEUES, Mac, Net};
pub use numa::{Distances, MAX_NODES, NumaNode};
pub use paths::{PathOf, PathUse};
pub use placement::{Pin, Placement};
pub use rate::{Rate, RateLimit};
pub use rng::Rng;
pub use sched::{PRIORITIES, Policy, Sched};
pub use size::Size;
pub use vsock::Vsock;

/// The most vCPUs that a VM can have (MP table, APIC ids of 8 bits, and what is tested).
pub const MAX_CPUS: u8 = 64;

/// The least memory in which a Linux kernel can be placed at its usual address of 16 MiB.
pub const MIN_MEMORY: Size = Size::mib(24);

/// The most memory that a VM can have.
pub const MAX_MEMORY: Size = Size::gib(1024);

/// The longest path of a Unix socket (unix(7): sun_path, less its NUL).
pub const MAX_SOCKET_PATH: usize = 107;

/// Everything that can be said of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmConfig {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: Cpus,
    /// The guest's RAM.
    pub memory: Memory,
    /// CPU features to hide, by the names that Linux shows in /proc/cpuinfo.
    #[serde(alias = "cpu-mask", skip_serializing_if = "Vec::is_empty")]
    pub cpu_mask: Vec<String>,
    /// Whether the guest has performance counters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pmu: bool,
    /// How long KVM polls before the thread of a halted vCPU sleeps.
    #[serde(alias = "halt-poll")]
    pub halt_poll: HaltPoll,
    /// What happens while a vCPU has nothing to do.
    pub idle: Idle,
    /// Whether the guest finds ACPI tables.
    pub acpi: Acpi,
    /// The guest's console.
    pub console: Console,
    /// Where its threads and its memory are on the host.
    #[serde(skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// The guest's NUMA nodes; it learns of them where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<NumaNode>,
    /// The kernel and what it is given.
    pub boot: Boot,
    /// The drive that holds the root file system, and so the first drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Disk>,
    /// Further drives, in the guest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Shared folders.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fs: Vec<Fs>,
    /// Network devices, in the guest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<Net>,
    /// The way between programs in the guest and on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// A balloon, by which the guest gives memory back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Balloon>,
    /// Whether the guest has an entropy device.
    pub rng: Rng,
    /// Where metrics go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
}

/// A number of vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cpus(pub u8);

impl Default for Cpus {
    fn default() -> Self {
        Cpus(1)
    }
}

/// The kernel, and what it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Boot {
    /// A vmlinux (ELF) or a bzImage; on AArch64 an Image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk, as the kernel takes it (cpio, possibly compressed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Added to mote's own command line; a key given here replaces mote's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Leave out mote's defaults: the command line is `cmdline` and the devices' own entries.
    #[serde(alias = "cmdline-only")]
    pub cmdline_only: bool,
    /// How the first vCPU enters the kernel.
    pub protocol: Protocol,
    /// How the kernel gets into guest memory.
    pub load: KernelLoad,
}

/// How the kernel gets into guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KernelLoad {
    /// Read into it: the guest has its own copy, in huge pages where there are such.
    #[default]
    Copy,
    /// Its file is mapped privately where it can be: VMs share its pages. The file must stay as it
    /// is while they run.
    Map,
}

/// How the first vCPU enters the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// PVH where the kernel has that note, else the 64-bit boot protocol.
    #[default]
    Auto,
    /// The 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst).
    #[value(name = "linux64")]
    Linux64,
}

/// Whether the guest finds ACPI tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Acpi {
    /// On for a bzImage (what distributions ship), off for a vmlinux; always off on AArch64.
    #[default]
    Auto,
    /// ACPI tables, with the virtio devices in the DSDT.
    On,
    /// An MP table, with the virtio devices on the kernel's command line.
    Off,
}

/// The guest's console: the serial port, or hvc0, and where it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// The serial port, on the standard input and output of the process.
    #[default]
    Stdio,
    /// No console, and no serial port at all.
    None,
    /// The serial port, on a pseudo-terminal made for this VM; its name is printed.
    Pty,
    /// The serial port's output is written to a file, made anew; there is no input.
    File(PathBuf),
    /// A virtio console (hvc0) and no serial port.
    Hvc(Endpoint),
}

/// Where a console leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// The standard input and output of the process.
    #[default]
    Stdio,
    /// A pseudo-terminal made for this VM; its name is printed.
    Pty,
    /// Output is written to a file, made anew; there is no input.
    File(PathBuf),
}

impl Console {
    /// Where it leads, if there is one.
    pub fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Console::None => None,
            Console::Stdio => Some(Endpoint::Stdio),
            Console::Pty => Some(Endpoint::Pty),
            Console::File(path) => Some(Endpoint::File(path.clone())),
            Console::Hvc(endpoint) => Some(endpoint.clone()),
        }
    }

    /// Whether the guest has a serial port.
    pub fn is_serial(&self) -> bool {
        !matches!(self, Console::None | Console::Hvc(_))
    }
}

/// Refuses a path of more than `max` bytes, or that no socket can have; `option` is what the user
/// wrote it behind.
fn check_socket(option: &'static str, path: &Path, max: usize) -> Result<(), ConfigError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err(ConfigError::PathNul(option));
    }
    let len = bytes.len();
    if len <= max {
        return Ok(());
    }
    let path = path.to_owned();
    Err(ConfigError::SocketPath {
        option,
        path,
        len,
        max,
    })
}

impl VmConfig {
    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    ///
    /// The first value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let cpus = self.cpus.0;
        self.validate_parts()?;
        if self.boot.kernel.is_none() {
            return Err(ConfigError::NoKernel);
        }
        self.validate_load()?;
        self.placement.validate(cpus)?;
        NumaNode::validate_all(self)?;
        if self.has_numa_table() && self.acpi == Acpi::Off {
            return Err(ConfigError::NumaWithoutAcpi);
        }
        self.idle.validate(self.has_dedicated_cpus())?;
        if let Some(balloon) = &self.balloon {
            balloon.validate(self.memory.size)?;
        }
        Ok(())
    }

    /// The same of each part by itself, for a VM that isn't described to its end yet.
    ///
    /// # Errors
    ///
    /// The first value that is out of its range.
    pub fn validate_parts(&self) -> Result<(), ConfigError> {
        let cpus = self.cpus.0;
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(ConfigError::Cpus(cpus));
        }
        let balloon = self.balloon.as_ref();
        let reporting = balloon.map(|balloon| balloon.free_page_reporting);
        self.memory.validate(self.shares_memory(), reporting)?;
        self.drives().try_for_each(Disk::validate)?;
        self.drives().try_for_each(Disk::validate_dax)?;
        self.nets.iter().try_for_each(Net::validate)?;
        Fs::validate_all(&self.fs)?;
        if let Some(vsock) = &self.vsock {
            vsock.validate()?;
        }
        if let Some(metrics) = &self.metrics {
            metrics.validate()?;
        }
        Ok(())
    }

    /// Refuses a mapped kernel where its pages would not stay the file's, or come back as such.
    fn validate_load(&self) -> Result<(), ConfigError> {
        let excluded = [
            (
                self.memory.prefault,
                "--kernel-load map with --memory prefault=on",
                "prefault would copy all pages; leave one of them out",
            ),
            (
                self.memory.mlock,
                "--kernel-load map with --mlock",
                "a page that VMs share can't be one VM's to lock; leave one of them out",
            ),
            (
                self.balloon.is_some(),
                "--kernel-load map with --balloon",
                "pages that the guest gives back would be the file's again instead of zeros; leave \
                 one of them out",
            ),
        ];
        let map = self.boot.load == KernelLoad::Map;
        match excluded.into_iter().find(|(given, ..)| map && *given) {
            Some((_, what, remedy)) => Err(ConfigError::MemoryExcludes(what, remedy)),
            None => Ok(()),
        }
    }

    /// Whether each vCPU has a CPU of the host to itself: one of its own, on which no other vCPU is,
    /// and none of mote's other threads as far as they are placed.
    fn has_dedicated_cpus(&self) -> bool {
        let mut taken = self.placement.io_cpus.clone().unwrap_or_default();
        (0..self.cpus.0).all(|id| {
            let own = self.placement.pin.as_ref().and_then(|pin| pin.of(id));
            own.is_some_and(|own| {
                let alone = own.len() == 1 && own.and(&taken).is_empty();
                taken = taken.or(own);
                alone
            })
        })
    }

    /// Whether another process serves a device, and so must reach the guest's memory.
    pub fn shares_memory(&self) -> bool {
        self.drives().any(|drive| drive.vhost_user.is_some())
            || self.nets.iter().any(Net::is_served_elsewhere)
            || !self.fs.is_empty()
    }

    /// Whether the guest is told of NUMA nodes, which ACPI tables do.
    pub fn has_numa_table(&self) -> bool {
        self.numa.len() > 1
    }

    /// All drives in the order in which the guest sees them: the root file system first.
    pub fn drives(&self) -> impl Iterator<Item = &Disk> {
        self.rootfs.iter().chain(&self.disks)
    }
}

#[cfg(test)]
mod tests;
