//! The only place that calls KVM ioctls.
//!
//! [`Host`] is what the host can do, asked once per process; [`Vm`] and [`Vcpu`] wrap the file
//! descriptors of a virtual machine and of a virtual processor.

mod host;
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
pub mod native;
mod stats;
mod vcpu;
mod vm;

pub use host::{Host, HostError};
pub use stats::{Statistic, StatisticKind, Statistics, StatisticsError};
pub use vcpu::{IoWidth, Vcpu};
pub use vm::{MemorySlot, Vm};

/// KVM_CREATE_VM takes 1 to 2 ms; above this it is the host's settings.
pub(crate) const SLOW_CREATE_VM: std::time::Duration = std::time::Duration::from_millis(5);

/// A KVM ioctl that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}{}", remedy(source.errno()))]
pub struct KvmError {
    /// The ioctl's name, with its object.
    pub operation: String,
    /// What the kernel said.
    pub source: vmm_sys_util::errno::Error,
}

/// What can be done about an ioctl that fails in one of the ways that are the host's doing.
fn remedy(errno: i32) -> &'static str {
    match errno {
        libc::ENOMEM => "; the host, or the cgroup that this runs in, is out of memory",
        libc::EMFILE => "; raise the limit on open files (ulimit -n)",
        libc::ENFILE => "; the host is out of open files (sysctl fs.file-max)",
        libc::EBUSY => "; another hypervisor (VirtualBox, VMware) may hold the processor: stop it",
        libc::EPERM | libc::EACCES => "; a security policy (seccomp, SELinux) forbids it",
        libc::EOPNOTSUPP | libc::ENODEV | libc::EIO => {
            "; the processor or the kernel can't do it: `mote check` tells what this host has"
        }
        _ => "; `mote check` tells what this host has",
    }
}

/// Names the ioctl in its error.
fn named<T>(operation: &str, result: Result<T, vmm_sys_util::errno::Error>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError {
        operation: operation.to_owned(),
        source,
    })
}
