//! mote: a microVM monitor for KVM.
//!
//! ```no_run
//! use motevm::{Host, VmConfig, build};
//!
//! let host = Host::open()?; // once per process, for all its VMs
//! let mut config = VmConfig::default();
//! config.boot.kernel = Some("vmlinux".into());
//! let mut vm = build(&host, &config, Default::default())?;
//! println!("{:?}", vm.run()?); // returns when the guest has ended
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Vm::control`] gives a handle by which any thread pauses, changes and ends a running VM: see [`Control`], with an
//! example for each operation, and `docs/embedding.md`, which also says what stays from one version to the next.
//!
//! Each layer knows only the ones above it in this list:
//!
//! - [`config`]: what a VM is, as plain serde structs with validation
//! - [`handed`]: files that whoever starts mote has opened already, `fd=N`
//! - [`image`]: container images as root file systems
//! - [`memory`]: guest RAM: backing and placement
//! - [`metrics`]: counters, and their text form
//! - [`placement`]: which CPUs and NUMA nodes of the host threads and memory are on
//! - [`sandbox`]: what a VM's threads may still do once the guest runs
//! - [`threads`]: who starts a VM's threads
//! - [`kvm`]: the only place that calls KVM ioctls
//! - [`boot`]: kernel images and their entry, initrd, command line
//! - [`arch`]: what differs between processors: layout, registers, tables
//! - [`bus`]: finds the device behind an MMIO or port address
//! - [`devices`]: serial, i8042, boot timer and the virtio devices
//! - [`vcpu`]: the vCPU threads and their exit loop
//! - [`footprint`]: what a process's memory is used for, this one's or another's
//! - [`machine`]: builds a VM out of the above and runs it
//! - [`api`]: HTTP, by which other programs make and control a VM
//! - [`jail`]: what a process gives up before it builds a VM, for production
//! - [`check`]: whether this host can run VMs and how well

// The tests of a part of the binary, which fuzzing drives, speak of the library by its name.
#[cfg(test)]
extern crate self as motevm;

pub mod api;
pub mod arch;
pub mod boot;
pub mod bus;
pub mod check;
pub mod config;
pub mod devices;
pub mod footprint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handed;
pub mod image;
pub mod jail;
mod kept;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod placement;
mod polling;
pub mod sandbox;
mod sockets;
pub mod threads;
pub mod vcpu;

pub use config::VmConfig;
pub use kvm::Host;
pub use machine::{BuildError, BuildOptions, Control, Exit, State, Stopper, Vm, build};
