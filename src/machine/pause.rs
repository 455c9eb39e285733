//! Pausing a VM and letting it go on: the part of the thread that runs it.
//!
//! ```text
//!             a pause is wished for               all vCPUs park         all gates are quiet
//!   Running ------------------------> Vcpus -----------------> Devices -----------------> Paused
//!      ^                                                                                    |
//!      +------------------------------------------------------------------------------------+
//!                                     it is to go on
//! ```
//!
//! vCPUs come first: one that waits for a device's reset, or has a device set up, does so before it parks, and so
//! needs the device's threads. Once all vCPUs park, nothing but devices touches guest memory; once the gates are
//! quiet ([`crate::devices::virtio::gate`]) and the host's kernel has been stopped where it serves a device, nothing
//! does. A pause that was begun is always brought to its end, also if it isn't wished for any more.
//!
//! No step waits: each thing that is waited for writes the event by which the event loop is woken, and the VM can be
//! ended in between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::lifecycle::{Lifecycle, State};
use crate::arch::clock;
use crate::devices::virtio::{ActivateError, Interrupt, MmioTransport};
use crate::kvm;
use crate::threads::Member;
use crate::vcpu::{Parking, VcpuThread};

/// What is paused.
pub(super) struct Pauser<'a> {
    pub lifecycle: &'a Lifecycle,
    pub vcpus: &'a [VcpuThread],
    pub parking: &'a Parking,
    pub transports: &'a [Arc<Mutex<MmioTransport>>],
    pub member: &'a Member,
    pub fd: &'a kvm::Vm,
    pub wake: &'a Arc<EventFd>,
}

/// How far a pause has come.
#[derive(Debug)]
pub(super) enum Step {
    Running,
    /// vCPUs are on their way.
    Vcpus,
    /// So are devices' threads. The clocks at the time when the guest stopped.
    Devices(Clocks),
    Paused(Clocks),
}

#[derive(Debug)]
pub(super) struct Clocks {
    ticks: u64,
    vm: Option<clock::Stopped>,
}

impl Clocks {
    fn take(&mut self) -> Self {
        Clocks {
            ticks: self.ticks,
            vm: self.vm.take(),
        }
    }
}

impl Pauser<'_> {
    /// Goes as far as it can without waiting.
    pub fn go_on(&self, step: &mut Step) {
        while let Some(next) = self.next(step) {
            *step = next;
        }
    }

    fn next(&self, step: &mut Step) -> Option<Step> {
        let wished = self.lifecycle.is_pause_wished();
        match step {
            Step::Running if wished => {
                self.vcpus.iter().for_each(VcpuThread::request_pause);
                Some(Step::Vcpus)
            }
            Step::Vcpus if self.parking.count() == self.vcpus.len() => {
                let vm = clock::stop(self.fd);
                let clocks = Clocks {
                    ticks: clock::ticks(),
                    vm: vm.map_err(|e| log::warn!("the guest's clock: {e}")).ok(),
                };
                self.interrupts()
                    .for_each(|one| one.gate().close(self.wake));
                Some(Step::Devices(clocks))
            }
            Step::Devices(clocks) if self.interrupts().all(|one| one.gate().is_quiet()) => {
                match self.serve_elsewhere(false) {
                    // Also where it isn't wished for any more.
                    Ok(()) => self.lifecycle.set(State::Paused),
                    // What was stopped goes on, and so does the guest.
                    Err(error) => self.lifecycle.refuse(error.to_string()),
                }
                Some(Step::Paused(clocks.take()))
            }
            Step::Paused(clocks) if !wished => {
                self.end(clocks.take());
                self.lifecycle.set(State::Running);
                Some(Step::Running)
            }
            _ => None,
        }
    }

    fn end(&self, clocks: Clocks) {
        if let Err(error) = self.serve_elsewhere(true) {
            log::error!("a device doesn't go on after a pause: {error}");
        }
        self.open();
        let set = |vm: clock::Stopped| vm.go_on(self.fd);
        if let Some(Err(error)) = clocks.vm.map(set) {
            log::warn!("the guest's clock: {error}");
        }
        let ticks = clock::ticks().wrapping_sub(clocks.ticks);
        self.parking.end_pause(ticks);
        self.vcpus.iter().for_each(VcpuThread::resume);
    }

    /// Lets devices' threads go on, and so end: before the VM's end.
    pub fn open(&self) {
        self.interrupts().for_each(|one| one.gate().open());
    }

    fn serve_elsewhere(&self, on: bool) -> Result<(), ActivateError> {
        self.member.for_now(|| {
            let mut transports = self.transports.iter().map(lock);
            transports.try_for_each(|mut transport| transport.serve_elsewhere(on))
        })
    }

    /// No vCPU has a transport locked while all park.
    fn interrupts(&self) -> impl Iterator<Item = Arc<Interrupt>> {
        (self.transports.iter()).map(|transport| lock(transport).interrupt().clone())
    }
}

fn lock(transport: &Arc<Mutex<MmioTransport>>) -> MutexGuard<'_, MmioTransport> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}
