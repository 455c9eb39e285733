//! vhost: someone else serves a device's queues, the host's kernel or another process.
//!
//! What both have in common: the back-end is told where guest memory is, which features the driver
//! has accepted, and for each queue its rings, the eventfd by which the driver kicks it and the one
//! that interrupts the guest. Then it works on its own, and nothing of the data path passes
//! through mote. The order is that of the kernel's Documentation and of QEMU's
//! docs/interop/vhost-user.rst.
//!
//! Who uses this: vhost-net and vhost-vsock (the kernel's), and vhost-user. The kernel's
//! want addresses of rings as the guest has them, since the `vhost` crate translates those itself;
//! vhost-user wants those of this process, by which the back-end looks them up in the memory table.

use std::io;

use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{ActivateError, ActiveQueue};

/// What a back-end refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct VhostError {
    /// What was asked of it.
    pub what: &'static str,
    /// What came back.
    pub source: vhost::Error,
}

impl VhostError {
    /// Wraps the error of the step `what`, for `map_err`.
    pub fn at(what: &'static str) -> impl FnOnce(vhost::Error) -> VhostError {
        move |source| VhostError { what, source }
    }
}

impl From<VhostError> for ActivateError {
    fn from(error: VhostError) -> Self {
        ActivateError::Host {
            what: "setting up vhost".to_owned(),
            source: io::Error::other(error),
        }
    }
}

/// In whose terms a back-end is told where rings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The guest's: for the `vhost` crate's kernel back-ends, which translate them.
    Guest,
    /// This process's: for vhost-user.
    Host,
}

/// A queue of the device, as a ring of a back-end.
pub struct Ring<'a> {
    /// The back-end's number for it. That is not always the device's: a second pair of queues of
    /// a network device is a vhost-net of its own, with rings 0 and 1.
    pub index: usize,
    /// The queue, with its kick eventfd.
    pub queue: &'a ActiveQueue,
    /// Where the back-end goes on in the available ring: 0 for a ring that nobody has served.
    pub base: u16,
    /// What the back-end writes to interrupt the guest: [`super::virtio::Interrupt::irqfd`].
    pub call: &'a EventFd,
}

/// Guest memory as back-ends are told of it. Regions that have a file (shared memory) come with
/// its descriptor, which vhost-user needs and the kernel doesn't. Where RAM has one, what has none
/// (drives that the guest maps) is left out: another process couldn't map it.
pub fn memory_table(memory: &GuestMemoryMmap<()>) -> Vec<VhostUserMemoryRegionInfo> {
    let region = |region: &GuestRegionMmap<()>| {
        use std::os::fd::AsRawFd;
        let file = region.file_offset();
        VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            mmap_offset: file.map_or(0, |file| file.start()),
            mmap_handle: file.map_or(-1, |file| file.file().as_raw_fd()),
        }
    };
    let shared = memory.iter().any(|region| region.file_offset().is_some());
    let known = memory
        .iter()
        .filter(|region| region.file_offset().is_some() == shared);
    known.map(region).collect()
}

/// The first part of set-up: the features that the driver has accepted, and guest memory.
/// VHOST_SET_OWNER has to come before it, once in the life of a descriptor or connection.
///
/// # Errors
///
/// The back-end refused.
pub fn set_up<B: VhostBackend>(
    backend: &B,
    features: u64,
    memory: &GuestMemoryMmap<()>,
) -> Result<(), VhostError> {
    backend
        .set_features(features)
        .map_err(VhostError::at("SET_FEATURES"))?;
    backend
        .set_mem_table(&memory_table(memory))
        .map_err(VhostError::at("SET_MEM_TABLE"))?;
    Ok(())
}

/// The second part, for each ring. A kernel back-end still has to be started after it; a
/// vhost-user one starts a ring when it gets the kick eventfd, so that comes last.
///
/// # Errors
///
/// The back-end refused.
pub fn set_ring<B: VhostBackend>(
    backend: &B,
    ring: &Ring,
    memory: &GuestMemoryMmap<()>,
    addresses: Addresses,
) -> Result<(), VhostError> {
    let Ring { index, base, .. } = *ring;
    let queue = &ring.queue.queue;
    let place = |guest: u64| match addresses {
        Addresses::Guest => Ok(guest),
        Addresses::Host => memory
            .get_host_address(GuestAddress(guest))
            .map(|host| host as u64)
            .map_err(|_| VhostError::at("ring address")(vhost::Error::InvalidQueue)),
    };
    let config = VringConfigData {
        queue_max_size: queue.max_size(),
        queue_size: queue.size(),
        flags: 0,
        desc_table_addr: place(queue.desc_table())?,
        used_ring_addr: place(queue.used_ring())?,
        avail_ring_addr: place(queue.avail_ring())?,
        log_addr: None,
    };
    backend
        .set_vring_num(index, queue.size())
        .map_err(VhostError::at("SET_VRING_NUM"))?;
    backend
        .set_vring_base(index, base)
        .map_err(VhostError::at("SET_VRING_BASE"))?;
    backend
        .set_vring_addr(index, &config)
        .map_err(VhostError::at("SET_VRING_ADDR"))?;
    backend
        .set_vring_call(index, ring.call)
        .map_err(VhostError::at("SET_VRING_CALL"))?;
    backend
        .set_vring_kick(index, &ring.queue.notify)
        .map_err(VhostError::at("SET_VRING_KICK"))
}

/// Where a ring stands. A vhost-user back-end stops it: once it has answered, it does nothing more with
/// the ring. A kernel one has to be stopped before (no tap, not running).
///
/// # Errors
///
/// The back-end refused.
pub fn stop_ring<B: VhostBackend>(backend: &B, index: usize) -> Result<u16, VhostError> {
    backend
        .get_vring_base(index)
        .map(|base| base as u16)
        .map_err(VhostError::at("GET_VRING_BASE"))
}

#[cfg(test)]
mod tests;
