//! What a container and a process are: what of the OCI runtime specification the agent does. The host's side
//! refuses the rest by its name.

use serde::{Deserialize, Serialize};

/// A container: a root file system and what is around its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The folder in the guest that is its root.
    pub root: String,
    /// Whether the root is read-only for it.
    pub read_only: bool,
    /// Its name, in a UTS namespace of its own.
    pub hostname: Option<String>,
    /// Namespaces of its own, or another container's.
    pub namespaces: Vec<Namespace>,
    /// Mounts in its root, in this order.
    pub mounts: Vec<Mount>,
    /// Device nodes in its root.
    pub devices: Vec<Device>,
    /// Paths that can't be read.
    pub masked: Vec<String>,
    /// Paths that can't be written.
    pub read_only_paths: Vec<String>,
    /// Kernel settings: names with dots or slashes, and their values.
    pub sysctl: Vec<(String, String)>,
    /// Limits of its cgroup.
    pub limits: Limits,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// By its name in /proc/self/ns: mnt, pid, net, ipc, uts, cgroup.
    pub kind: String,
    /// The container whose it is; else a new one.
    pub of: Option<String>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What: a device, a folder, a tag.
    pub source: String,
    /// Where: a path in the root of which it is.
    pub target: String,
    /// The file system's type; `bind` for a part of another.
    pub kind: String,
    /// As fstab and the OCI specification name them: ro, nosuid, rbind, mode=755.
    pub options: Vec<String>,
}

impl Mount {
    /// A mount with these, options by commas.
    pub fn new(kind: &str, source: &str, target: &str, options: &str) -> Self {
        let options = options.split(',').filter(|option| !option.is_empty());
        Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            kind: kind.to_owned(),
            options: options.map(str::to_owned).collect(),
        }
    }
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path.
    pub path: String,
    /// Its type and permissions, as of mknod(2).
    pub mode: u32,
    /// Its numbers.
    pub numbers: (u32, u32),
    /// Whose it is.
    pub owner: (u32, u32),
}

/// Limits of a cgroup; one that is asked for and can't be set is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together are this many more.
    pub swap: Option<u64>,
    /// Microseconds of processor time in each period of so many.
    pub cpu: Option<(u64, u64)>,
    /// The share of the processors, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// The processors, as a list.
    pub cpus: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A process of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments. A program with no slash is looked for in its PATH.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<String>,
    /// Its folder, made where it isn't there.
    pub folder: String,
    /// Whose it is.
    pub user: User,
    /// Its mask of permissions.
    pub umask: Option<u32>,
    /// What it may do besides what its user may; all, where nothing is said.
    pub capabilities: Option<Capabilities>,
    /// Limits of its own: Linux's number of it, soft and hard.
    pub limits: Vec<(u32, u64, u64)>,
    /// No program that it runs gives it more rights.
    pub no_new_privileges: bool,
    /// A terminal of this size.
    pub terminal: Option<Window>,
    /// How soon the kernel kills it when memory is short, -1000 to 1000.
    pub oom_score: Option<i32>,
    /// A seccomp filter, as BPF: the bytes of its instructions.
    pub seccomp: Option<Vec<u8>>,
}

/// A user and its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// By numbers.
    Ids {
        /// The user's.
        user: u32,
        /// Its group's.
        group: u32,
        /// Further groups'.
        groups: Vec<u32>,
    },
    /// As an image names it: USER, or USER:GROUP, by names in its /etc/passwd and /etc/group or by numbers.
    Named(String),
}

impl Default for User {
    /// root.
    fn default() -> Self {
        User::Ids {
            user: 0,
            group: 0,
            groups: Vec::new(),
        }
    }
}

/// Sets of capabilities, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What it can ever have.
    pub bounding: u64,
    /// What it has.
    pub effective: u64,
    /// What it may have.
    pub permitted: u64,
    /// What programs that it runs may have.
    pub inheritable: u64,
    /// What they have without asking.
    pub ambient: u64,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}
