//! The only place that calls KVM ioctls.
//!
//! [`Host`] is what the host can do, asked once per process; [`Vm`] and [`Vcpu`] wrap the file
//! descriptors of a virtual machine and of a virtual processor.

mod host;
mod vcpu;
mod vm;

pub use host::{Host, HostError};
pub use vcpu::Vcpu;
pub use vm::Vm;

/// A KVM ioctl that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct KvmError {
    /// The ioctl's name, with its object.
    pub operation: String,
    /// What the kernel said.
    pub source: vmm_sys_util::errno::Error,
}

/// Names the ioctl in its error.
fn named<T>(operation: &str, result: Result<T, vmm_sys_util::errno::Error>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError {
        operation: operation.to_owned(),
        source,
    })
}
