//! What can be wrong with a configuration: each message names the option and the remedy.

use std::path::PathBuf;

use super::{MAX_CPUS, MAX_MEMORY, MAX_QUEUES, MIN_MEMORY, Size};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Number of vCPUs out of range.
    #[error("--cpus {0}: a VM has 1 to {MAX_CPUS} vCPUs")]
    Cpus(u8),
    /// Too little memory to place a kernel.
    #[error(
        "--memory {0}: too small for a Linux kernel; give at least {MIN_MEMORY} (a number without a unit is bytes)"
    )]
    MemoryTooSmall(Size),
    /// Not a whole number of MiB.
    #[error("--memory {0}: must be a whole number of MiB")]
    MemoryUnaligned(Size),
    /// More memory than is supported.
    #[error("--memory {0}: a VM has at most {MAX_MEMORY}")]
    MemoryTooLarge(Size),
    /// More memory than a guest of this host can address: the size, and the address that it would end at.
    #[error(
        "--memory {0}: it would end at {1:#x}, and this host's guests can't address more than {2:#x} bytes"
    )]
    MemoryBeyondHost(Size, u64, u64),
    /// A part of a huge page.
    #[error("--memory {0},hugepages={1}: the size must be a multiple of {1}")]
    MemoryHugePages(Size, Size),
    /// Two wishes for memory that can't both be had.
    #[error("{0}: {1}")]
    MemoryExcludes(&'static str, &'static str),
    /// A wish that has no meaning on this architecture: the option, and why.
    #[error("{0}: {1}; leave it out")]
    NotHere(&'static str, &'static str),
    /// No kernel was named.
    #[error("no kernel: give --kernel PATH (a vmlinux or a bzImage, on AArch64 an Image)")]
    NoKernel,
    /// A guest that keeps CPUs which others need.
    #[error(
        "--idle pass-through: the guest never gives a CPU back, so each vCPU needs one to itself: \
         pin them (--pin 0=2,1=3), or say --idle pass-through,force if they are"
    )]
    IdleShared,
    /// Forced, but nothing to force.
    #[error("--idle: force goes with pass-through only; leave it out")]
    IdleForce,
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
    #[error("{option}={}: {len} bytes are too long for a socket; {max} are the most", path.display())]
    SocketPath {
        /// What the user wrote.
        option: &'static str,
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
        /// What fits.
        max: usize,
    },
    /// A path that no file can have.
    #[error("{0}=: a path can't have a NUL in it")]
    PathNul(&'static str),
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
    /// The host's kernel, where a port leads to this process.
    #[error(
        "--vsock vhost: the agent of --image is reached by mote's own device; give socket=PATH"
    )]
    VsockOwn,
    /// Both.
    #[error("--vsock: socket=PATH and vhost exclude each other; leave one out")]
    VsockTwice,
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
    /// vCPUs that can't be pinned as asked.
    #[error("--pin {0}")]
    Pin(String),
    /// vCPUs that can't be scheduled as asked.
    #[error("--sched {0}")]
    Sched(String),
    /// NUMA nodes that don't make up the guest.
    #[error("--numa {0}")]
    Numa(String),
    /// NUMA nodes that the guest can't learn of.
    #[error("--numa: a guest learns of its nodes by ACPI; leave --acpi off out")]
    NumaWithoutAcpi,
    /// No name for a folder.
    #[error(
        "--jail id={0}: 1 to 64 letters, digits, `-`, `_` and `.`, which isn't the first of them"
    )]
    JailId(String),
    /// No user to be in a jail.
    #[error("--jail {0}={1}: must be a user or group other than root's, up to 4294967294")]
    JailUser(&'static str, u32),
    /// Limits of a cgroup, and no cgroup.
    #[error("--jail: cpu=, memory=, pids= and cpus= are limits of a cgroup; give cgroup=PATH, too")]
    JailLimits,
    /// More devices than interrupt lines.
    #[error("{0} virtio devices: at most {1} fit, the entropy device included; leave some out")]
    TooManyDevices(usize, usize),
}
