//! containerd's shim for mote: `containerd-shim-mote-v1` (docs/containerd.md).
//!
//! One process for each pod, or container that is in none, with one microVM as its child:
//!
//! - [`spec`]: the OCI runtime specification, as what the agent is asked for
//! - [`rootfs`]: snapshots as drives or a shared folder
//! - [`network`]: the pod's network namespace, and the guest in it

mod network;
mod rootfs;
mod spec;

fn main() {}
