//! Why a VM could not be built, and whose part it is to mend that.

use std::io;

use super::idle::IdleError;
use crate::arch::features::UnknownFeature;
use crate::arch::irqchip::IrqchipError;
use crate::arch::tables::TablesError;
use crate::arch::vcpus::CpuError;
use crate::boot::{CmdlineError, InitrdError, KernelError};
use crate::bus::BusError;
use crate::config::ConfigError;
use crate::devices::console::ConsoleError;
use crate::devices::vhost_user::ConnectError;
use crate::devices::vhost_user::passt::PasstError;
use crate::devices::virtio::blk::BlkError;
use crate::devices::virtio::net::NetError;
use crate::devices::virtio::pmem::PmemError;
use crate::devices::virtio::vsock::VsockError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::metrics::export::ExportError;
use crate::placement::PlacementError;
use crate::sandbox::SandboxError;

/// Why a VM could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value of the configuration is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name in the CPU mask is unknown.
    #[error(transparent)]
    CpuMask(#[from] UnknownFeature),
    /// The kernel can't be used.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd can't be used.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The command line can't be used.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// A drive can't be used.
    #[error(transparent)]
    Disk(#[from] BlkError),
    /// A network device can't be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A device's back-end can't be reached, or can't be used.
    #[error(transparent)]
    VhostUser(#[from] ConnectError),
    /// There is no user-mode network.
    #[error(transparent)]
    Passt(#[from] PasstError),
    /// There can be no vsock device.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A drive can't be mapped.
    #[error(transparent)]
    Dax(#[from] PmemError),
    /// The console can't be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Metrics can't be shown where they should be.
    #[error(transparent)]
    Metrics(#[from] ExportError),
    /// The VM can't be where it was asked to be.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// Guest memory can't be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The VM can't idle as it was asked to.
    #[error(transparent)]
    Idle(#[from] IdleError),
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There can be no interrupt controller.
    #[error(transparent)]
    Irqchip(#[from] IrqchipError),
    /// The vCPUs can't be had, or not as asked for.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// Tables for the guest could not be written.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Boot structures could not be written to guest memory.
    #[error("writing boot structures: {0}")]
    GuestMemory(#[from] vm_memory::GuestMemoryError),
    /// The VM can't be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Two devices at one place: a defect of the layout.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The host refused an event file descriptor: each device and queue has one.
    #[error(
        "making an event file descriptor: {0}; is the limit on open files (ulimit -n) reached?"
    )]
    Event(io::Error),
}

/// Whose part it is to mend an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The user's: an option, or a file that it names.
    Configuration,
    /// The host's: KVM, or a limit.
    Host,
    /// mote's own.
    Mote,
}

impl BuildError {
    /// Whose part it is to mend this.
    pub fn fault(&self) -> Fault {
        match self {
            BuildError::Net(error) if error.is_of_host() => Fault::Host,
            BuildError::Vsock(error) if error.is_hosts() => Fault::Host,
            BuildError::Placement(error) if error.is_of_host() => Fault::Host,
            BuildError::Irqchip(error) if error.is_of_host() => Fault::Host,
            BuildError::Cpu(error) if error.is_of_host() => Fault::Host,
            BuildError::Tables(error) if error.is_of_user() => Fault::Configuration,
            BuildError::Config(_)
            | BuildError::CpuMask(_)
            | BuildError::Kernel(_)
            | BuildError::Initrd(_)
            | BuildError::Cmdline(_)
            | BuildError::Disk(_)
            | BuildError::Net(_)
            | BuildError::VhostUser(_)
            | BuildError::Passt(_)
            | BuildError::Vsock(_)
            | BuildError::Dax(_)
            | BuildError::Console(_)
            | BuildError::Placement(_)
            | BuildError::Irqchip(_)
            | BuildError::Cpu(_)
            | BuildError::Metrics(_) => Fault::Configuration,
            BuildError::Memory(_)
            | BuildError::Idle(_)
            | BuildError::Kvm(_)
            | BuildError::Sandbox(_)
            | BuildError::Event(_) => Fault::Host,
            BuildError::Tables(_) | BuildError::GuestMemory(_) | BuildError::Bus(_) => Fault::Mote,
        }
    }
}
