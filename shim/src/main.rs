//! containerd's shim for mote: `containerd-shim-mote-v1` (docs/containerd.md).
//!
//! One process for each pod, or container that is in none, with one microVM as its child. From containerd inwards:
//!
//! - [`service`]: the program as containerd runs it
//! - [`task`]: the task service's requests and answers
//! - [`pod`]: what they come to
//! - [`create`]: a container, and the VM for it ([`machine`])
//! - [`ends`]: how processes and the VM end
//! - [`vm`]: the VM, and the conversation with the agent in its guest
//! - [`monitor`], [`child`]: the processes beside the shim
//! - [`process`], [`streams`], [`logger`]: processes, and their standard streams
//! - [`spec`]: the OCI runtime specification, as what the agent is asked for
//! - [`rootfs`], [`drives`], [`share`], [`source`]: snapshots and volumes, as drives or a shared folder
//! - [`shm`]: the memory that a pod's containers share
//! - [`network`], [`cgroup`]: the pod's network namespace, and the guest in it; the pod's cgroup
//! - [`hooks`]: programs of the host around a container's life
//! - [`events`], [`stats`]: what containerd is told
//! - [`config`], [`options`]: what whoever runs the machine says
//! - [`leftovers`]: what remains of a VM

mod cgroup;
mod child;
mod config;
mod create;
mod drives;
mod ends;
mod events;
mod hooks;
mod leftovers;
mod logger;
mod machine;
mod monitor;
mod network;
mod options;
mod pod;
mod process;
mod rootfs;
mod service;
mod share;
mod shm;
mod source;
mod spec;
mod stats;
mod streams;
mod task;
mod vm;
mod wake;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use sha2::{Digest, Sha256};

fn main() {
    let config = containerd_shim::Config {
        // Each child has a thread that waits for it.
        no_reaper: true,
        ..containerd_shim::Config::default()
    };
    containerd_shim::run::<service::Service>("io.containerd.mote.v1", Some(config));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
        ..Timestamp::default()
    };
    MessageField::some(time)
}

/// The folder of a VM: a short name, since sockets in it must have short paths.
fn folder(config: &config::Config, namespace: &str, name: &str) -> PathBuf {
    let hash = Sha256::digest(format!("{namespace}/{name}"));
    let name: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    config.state.join(name)
}
