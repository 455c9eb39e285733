//! What a VM is: plain data, read from a file or from arguments, and checked. No I/O, no KVM.
//!
//! One struct per part. They are the same for the command line, for a TOML or JSON file and for
//! a program that embeds the library, so a new option is one field here and one argument in
//! `cli/`.

mod balloon;
mod dax;
mod disk;
mod fs;
mod metrics;
mod net;
mod rate;
mod size;
mod vsock;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use balloon::Balloon;
pub use dax::DaxMode;
pub use disk::{Cache, Disk, Engine, MAX_QUEUES, Queues};
pub use fs::{Fs, OnDisconnect};
pub use metrics::{DEFAULT_INTERVAL as METRICS_INTERVAL, Metrics};
pub use net::{MAX_QUEUES as MAX_NET_QUEUES, Mac, Net};
pub use rate::{Rate, RateLimit};
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
    /// Size of the guest's RAM.
    pub memory: Memory,
    /// CPU features to hide, by the names that Linux shows in /proc/cpuinfo.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_mask: Vec<String>,
    /// Whether the guest finds ACPI tables.
    pub acpi: Acpi,
    /// The guest's console.
    pub console: Console,
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

/// The size of guest memory, 128 MiB by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(pub Size);

impl Default for Memory {
    fn default() -> Self {
        Memory(Size::mib(128))
    }
}

/// The kernel, and what it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Boot {
    /// A vmlinux (ELF) or a bzImage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk, as the kernel takes it (cpio, possibly compressed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Added to mote's own command line; a key given here replaces mote's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Leave out mote's defaults: the command line is `cmdline` and the devices' own entries.
    pub cmdline_only: bool,
    /// How the first vCPU enters the kernel.
    pub protocol: Protocol,
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
    /// On for a bzImage (what distributions ship), off for a vmlinux.
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

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Number of vCPUs out of range.
    #[error("--cpus {0}: a VM has 1 to {MAX_CPUS} vCPUs")]
    Cpus(u8),
    /// Too little memory to place a kernel.
    #[error("--memory {0}: too small for a Linux kernel; give at least {MIN_MEMORY}")]
    MemoryTooSmall(Size),
    /// Not a whole number of MiB.
    #[error("--memory {0}: must be a whole number of MiB")]
    MemoryUnaligned(Size),
    /// More memory than is supported.
    #[error("--memory {0}: a VM has at most {MAX_MEMORY}")]
    MemoryTooLarge(Size),
    /// No kernel was named.
    #[error("no kernel: give --kernel PATH (a vmlinux or a bzImage)")]
    NoKernel,
    /// A device id that does not fit into virtio-blk's 20 bytes.
    #[error(
        "--disk id={0}: a drive's id has 1 to 20 bytes of printable ASCII (virtio 1.3 §5.2.6.1)"
    )]
    DiskId(String),
    /// A number of queues out of range.
    #[error("--disk queues={0}: a drive has 1 to {MAX_QUEUES} queues")]
    DiskQueues(u16),
    /// A rate of nothing at all.
    #[error(
        "{option} {key}: a rate or burst of 0 would stop the device; leave it out for no limit"
    )]
    RateZero {
        /// The option, such as "--disk".
        option: &'static str,
        /// Its key, such as "iops".
        key: &'static str,
    },
    /// A burst over no rate.
    #[error(
        "{option} {key}-burst without {key}: a burst needs the rate that it is over, e.g. {key}=1000"
    )]
    BurstAlone {
        /// The option, such as "--disk".
        option: &'static str,
        /// The rate's key, such as "iops".
        key: &'static str,
    },
    /// A network device that leads nowhere.
    #[error("--net: give one of user, tap=NAME, fd=N and vhost-user=SOCKET")]
    NetNowhere,
    /// A value of a network device that it can't have.
    #[error("--net {key}={value}: {remedy}")]
    Net {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        remedy: &'static str,
    },
    /// A key for another kind of network.
    #[error("--net {key}: goes with {with} only; leave it out")]
    NetKey {
        /// The key.
        key: &'static str,
        /// What it is for.
        with: &'static str,
    },
    /// A drive with no image, or with two.
    #[error("--disk, --rootfs: give either path=FILE or vhost-user=SOCKET")]
    DiskPath,
    /// An option for a drive that mote doesn't serve itself.
    #[error("--disk vhost-user={0},{1}: who serves the drive decides that; say it to the back-end")]
    DiskVhostUser(String, &'static str),
    /// An option for a drive that someone else serves.
    #[error("--disk {0}: goes with vhost-user=SOCKET only")]
    DiskNotVhostUser(&'static str),
    /// A path that is too long for a socket's address (unix(7)).
    #[error("{option}={}: {len} bytes are too long for a socket; {MAX_SOCKET_PATH} are the most", path.display())]
    SocketPath {
        /// What the user wrote.
        option: &'static str,
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// A tag that doesn't fit into virtio-fs's 36 bytes.
    #[error("--fs tag={0}: a tag has 1 to 36 bytes (virtio 1.3 §5.11.4)")]
    FsTag(String),
    /// Two folders that can't be told apart.
    #[error("--fs tag={0}: given twice; each folder needs a tag of its own")]
    FsTagTwice(String),
    /// Too many queues, or none.
    #[error("--fs queues={0}: must be 1 to {1}")]
    FsQueues(u16, u16),
    /// A CID that no guest can have.
    #[error("--vsock cid={0}: a guest's cid is from 3 to 4294967294")]
    VsockCid(u32),
    /// Neither a Unix socket nor the host's kernel.
    #[error("--vsock: give socket=PATH, or vhost for the host's kernel")]
    VsockNowhere,
    /// Both.
    #[error("--vsock: socket=PATH and vhost exclude each other; leave one out")]
    VsockTwice,
    /// A path that is too long for a socket's address.
    #[error("--vsock socket={}: {len} bytes are too long for a socket; {max} are the most", path.display())]
    VsockPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
        /// What fits.
        max: usize,
    },
    /// A path that no file can have.
    #[error("--vsock socket=: a path can't have a NUL in it")]
    VsockPathNul,
    /// A balloon as large as the memory.
    #[error("--balloon size={0}: the guest has only --memory {1}, and needs some of it")]
    BalloonSize(Size, Size),
    /// Not an interval.
    #[error("--balloon stats={0}: the interval is 1 to {1} seconds")]
    BalloonStats(u32, u32),
    /// Copy on write is for mappings.
    #[error("drive {}: cow needs dax (for a writable copy in a file: `cp --reflink=auto`)", .0.display())]
    CowWithoutDax(PathBuf),
    /// Both of what a guest may do with its writes.
    #[error("drive {}: ro and cow are given; choose one of them", .0.display())]
    CowReadOnly(PathBuf),
    /// Options that mean something for requests only.
    #[error("drive {}: with dax there are only ro and cow; leave out id, cache, engine, queues, limits \
         and vhost-user", .0.display())]
    OnlyWithoutDax(PathBuf),
    /// Metrics that go nowhere, or not as they were asked to.
    #[error("--metrics {0}")]
    Metrics(String),
    /// More devices than interrupt lines.
    #[error("{0} virtio devices: at most {1} fit, the entropy device included; leave some out")]
    TooManyDevices(usize, usize),
}

/// Refuses a path that no socket can have; `option` is what the user wrote it behind.
fn check_socket(option: &'static str, path: &std::path::Path) -> Result<(), ConfigError> {
    let len = path.as_os_str().len();
    if len <= MAX_SOCKET_PATH {
        return Ok(());
    }
    let path = path.to_owned();
    Err(ConfigError::SocketPath { option, path, len })
}

impl VmConfig {
    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    ///
    /// The first value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (cpus, memory) = (self.cpus.0, self.memory.0);
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(ConfigError::Cpus(cpus));
        }
        if memory < MIN_MEMORY {
            return Err(ConfigError::MemoryTooSmall(memory));
        }
        if memory > MAX_MEMORY {
            return Err(ConfigError::MemoryTooLarge(memory));
        }
        if !memory.bytes().is_multiple_of(1 << 20) {
            return Err(ConfigError::MemoryUnaligned(memory));
        }
        if self.boot.kernel.is_none() {
            return Err(ConfigError::NoKernel);
        }
        self.drives().try_for_each(Disk::validate)?;
        self.drives().try_for_each(Disk::validate_dax)?;
        self.nets.iter().try_for_each(Net::validate)?;
        Fs::validate_all(&self.fs)?;
        if let Some(vsock) = &self.vsock {
            vsock.validate()?;
        }
        if let Some(balloon) = &self.balloon {
            balloon.validate(memory)?;
        }
        if let Some(metrics) = &self.metrics {
            metrics.validate()?;
        }
        Ok(())
    }

    /// Whether another process serves a device, and so must reach the guest's memory.
    pub fn shares_memory(&self) -> bool {
        self.drives().any(|drive| drive.vhost_user.is_some())
            || self.nets.iter().any(Net::is_served_elsewhere)
            || !self.fs.is_empty()
    }

    /// All drives in the order in which the guest sees them: the root file system first.
    pub fn drives(&self) -> impl Iterator<Item = &Disk> {
        self.rootfs.iter().chain(&self.disks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> VmConfig {
        let mut config = VmConfig::default();
        config.boot.kernel = Some("vmlinux".into());
        config
    }

    #[test]
    fn defaults_need_only_a_kernel() {
        assert_eq!(VmConfig::default().validate(), Err(ConfigError::NoKernel));
        assert_eq!(valid().validate(), Ok(()));
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_named() {
        let path = "x".repeat(MAX_SOCKET_PATH + 1);
        for (text, option) in [
            (
                format!("[[disks]]\nvhost-user = '{path}'"),
                "--disk vhost-user=x",
            ),
            (
                format!("[[nets]]\nvhost-user = '{path}'"),
                "--net vhost-user=x",
            ),
            (
                format!("[[fs]]\ntag = 'a'\nsocket = '{path}'"),
                "--fs socket=x",
            ),
            (format!("[metrics]\nunix = '{path}'"), "--metrics unix=x"),
        ] {
            let validate = |text: &str| {
                let config: VmConfig = toml::from_str(text).unwrap();
                VmConfig {
                    boot: valid().boot,
                    ..config
                }
                .validate()
            };
            let error = validate(&text).unwrap_err().to_string();
            assert!(
                error.starts_with(option) && error.contains("107"),
                "{error}"
            );
            assert_eq!(validate(&text.replacen("'x", "'", 1)), Ok(()), "{option}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let mut config = valid();
        for cpus in [0, MAX_CPUS + 1] {
            config.cpus = Cpus(cpus);
            assert_eq!(config.validate(), Err(ConfigError::Cpus(cpus)));
        }
        config = valid();
        config.memory = Memory(Size::mib(2));
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("--memory 2M")
        );
        config.memory = Memory(Size::new(MAX_MEMORY.bytes() + 1));
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "--memory 1099511627777: a VM has at most 1T"
        );
        config.memory = Memory(Size::new((128 << 20) + 4096));
        assert!(matches!(
            config.validate(),
            Err(ConfigError::MemoryUnaligned(_))
        ));
        config = valid();
        config.disks.push(Disk {
            id: Some("x".repeat(21)),
            ..Disk::default()
        });
        assert!(matches!(config.validate(), Err(ConfigError::DiskId(_))));
    }

    #[test]
    fn a_file_says_the_same_as_it_prints() {
        let text = r#"
            cpus = 4
            memory = "2G"
            acpi = "on"
            console = { file = "out.log" }
            [boot]
            kernel = "vmlinux"
            cmdline = "quiet"
            [rootfs]
            path = "root.ext4"
            ro = true
            [[disks]]
            path = "data.img"
            cache = "none"
        "#;
        let config: VmConfig = toml::from_str(text).unwrap();
        assert_eq!(config.memory.0, Size::gib(2));
        assert_eq!(config.console, Console::File("out.log".into()));
        assert_eq!(config.drives().count(), 2);
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<VmConfig>(&printed).unwrap(), config);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&json).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(toml::from_str::<VmConfig>("cpu = 4").is_err());
    }
}
