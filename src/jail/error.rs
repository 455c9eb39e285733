//! Why there can be no jail.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::devices::virtio::net::NetError;

/// What a host before this has no system calls for.
const KERNEL: &str = "a jail needs Linux 5.12 or newer";

/// Why there can be no jail.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum JailError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("--jail: started as root, it needs uid=N: a user that owns nothing else on this host")]
    NoUser,
    #[error(
        "--jail {key}={id}: only root can become another user or group; leave it out, or be root"
    )]
    OtherUser { key: &'static str, id: u32 },
    #[error("--jail: no folder for it: give root=DIR, or set XDG_RUNTIME_DIR")]
    NoRoot,
    #[error("--jail: this process has several threads; a jail is entered before there are any")]
    Threads,
    #[error("--jail: {path} belongs to user {owner}: remove it, or give root=DIR elsewhere")]
    Foreign { path: PathBuf, owner: u32 },
    #[error("--jail: others may write to {path}: chmod go-w {path}, or give root=DIR elsewhere")]
    Writable { path: PathBuf },
    #[error("--jail: {path} is in use by {holder}; give each VM an id of its own")]
    InUse { path: PathBuf, holder: String },
    #[error("--jail: {path}: {what}: {source}{hint}", hint = hint(source))]
    Folder {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "--jail cgroup=: this host's cgroups are of version 1, which has no limits that can be \
         delegated: boot it with systemd.unified_cgroup_hierarchy=1, or leave cgroup= out"
    )]
    CgroupVersion,
    #[error("--jail cgroup=: {path}: {source}; make it first: mkdir {path}")]
    CgroupParent { path: PathBuf, source: io::Error },
    #[error(
        "--jail {key}=: the cgroup {path} can't give its children the {controller} controller{why}",
        why = controller_hint(source.as_ref())
    )]
    Controller {
        path: PathBuf,
        key: &'static str,
        controller: &'static str,
        source: Option<io::Error>,
    },
    #[error("--jail {key}=: the cgroup {path} doesn't take {value}: {source}")]
    CgroupLimit {
        path: PathBuf,
        key: &'static str,
        value: String,
        source: io::Error,
    },
    #[error("--jail cgroup=: {path}: {what}: {source}")]
    Cgroup {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
    #[error("--jail netns={path}: {source}; as root, make it first: ip netns add NAME")]
    NetNamespace { path: PathBuf, source: io::Error },
    #[error("--jail: {what}: {source}{hint}", hint = hint(source))]
    Host {
        what: &'static str,
        source: io::Error,
    },
    #[error("--jail {key}={value}: {source}; it can't be above this process's own limit")]
    Limit {
        key: &'static str,
        value: u64,
        source: io::Error,
    },
    #[error("{option}={path}: {source}")]
    Open {
        option: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{option}={path}: in a jail mote makes files in its own folder only: give a name with no /, \
         and it is {folder}/NAME"
    )]
    Outside {
        option: &'static str,
        path: PathBuf,
        folder: PathBuf,
    },
    #[error("{option}: not in a jail: {remedy}")]
    NotInside {
        option: &'static str,
        remedy: &'static str,
    },
}

impl JailError {
    /// Whether it's the host that lacks something, rather than the user who asked for what can't be.
    pub fn is_hosts(&self) -> bool {
        match self {
            JailError::Net(error) => error.is_of_host(),
            JailError::CgroupVersion
            | JailError::Controller { .. }
            | JailError::Host { .. }
            | JailError::Limit { .. } => true,
            _ => false,
        }
    }
}

/// What a call that made it fail says of the host.
fn hint(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ELOOP) => "; none may be there, or on the way there".to_owned(),
        Some(libc::ENOSYS) => format!("; {KERNEL}"),
        Some(libc::EPERM) => "; without root's rights it needs user namespaces \
             (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)"
            .to_owned(),
        _ => String::new(),
    }
}

fn controller_hint(error: Option<&io::Error>) -> String {
    match error {
        None => ", which it doesn't have itself: enable it from the top down \
             (echo +CONTROLLER > cgroup.subtree_control), or have it delegated (systemd: Delegate=yes)"
            .to_owned(),
        Some(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            ", since processes are in it: name one with none (systemd: DelegateSubgroup=supervisor)"
                .to_owned()
        }
        Some(error) => format!(": {error}"),
    }
}
