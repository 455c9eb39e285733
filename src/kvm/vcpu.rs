//! A virtual processor: its state, and running it.

use std::sync::atomic::{AtomicU8, Ordering};

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{Statistics, StatisticsError};

/// A KVM virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    id: u8,
    pub(super) fd: VcpuFd,
}

impl Vcpu {
    pub(super) fn new(id: u8, fd: VcpuFd) -> Self {
        Vcpu { id, fd }
    }

    /// Its number, from 0.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Runs the guest until it needs the monitor, or a signal comes.
    ///
    /// # Errors
    ///
    /// EINTR and EAGAIN are ordinary: a signal came. Others end the VM.
    #[inline]
    pub fn run(&mut self) -> Result<VcpuExit<'_>, vmm_sys_util::errno::Error> {
        self.fd.run()
    }

    /// Lets KVM do what it does at a first KVM_RUN, without running the guest. A wish to stop that comes
    /// meanwhile ([`Vcpu::immediate_exit`]) may be forgotten here: whoever wishes must have said so
    /// elsewhere before.
    pub fn enter_and_leave(&mut self) {
        // SAFETY: the byte lies in the vCPU's kvm_run, which lives as long as `self`, and is only
        // accessed atomically.
        let leave = unsafe { &*self.immediate_exit() };
        leave.store(1, Ordering::Release);
        // It says EINTR; what else it may say, the next one says again.
        let _ = self.fd.run().map(drop);
        // Acquire: what was said elsewhere before is seen from here on.
        leave.swap(0, Ordering::AcqRel);
    }

    /// The byte that makes KVM_RUN return EINTR at once when it isn't zero. It lies in memory
    /// shared with KVM and is valid as long as this vCPU lives.
    pub fn immediate_exit(&mut self) -> *const AtomicU8 {
        (&raw const self.fd.get_kvm_run().immediate_exit).cast()
    }

    /// What KVM counts of this vCPU. To be asked for while it doesn't run; what is given can then
    /// be read at any time.
    ///
    /// # Errors
    ///
    /// See [`StatisticsError`].
    pub fn statistics(&self) -> Result<Statistics, StatisticsError> {
        Statistics::of(&self.fd, "KVM_GET_STATS_FD of a vCPU")
    }

    /// Where to find the width of a port access, once [`Vcpu::run`] has returned one.
    pub fn io_width(&mut self) -> IoWidth {
        // SAFETY: every variant of the union is plain integers.
        IoWidth(unsafe { &raw const self.fd.get_kvm_run().__bindgen_anon_1.io.size })
    }

    /// The raw `exit_reason` and, for an internal error, its suberror and data.
    pub fn exit_details(&mut self) -> (u32, u32, Vec<u64>) {
        let run = self.fd.get_kvm_run();
        // SAFETY: every variant of the union is plain integers, and KVM filled this one for the
        // exit reason KVM_EXIT_INTERNAL_ERROR; for others the numbers are merely of no use.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = (internal.ndata as usize).min(internal.data.len());
        (
            run.exit_reason,
            internal.suberror,
            internal.data[..count].to_vec(),
        )
    }
}

/// The width in bytes of one access of a port exit: the data of an exit may be several.
pub struct IoWidth(*const u8);

impl IoWidth {
    /// The width of the last exit's accesses, at least 1.
    ///
    /// # Safety
    ///
    /// The vCPU must still live, and must not be running on another thread.
    #[inline]
    pub unsafe fn get(&self) -> usize {
        // SAFETY: the byte lies in the vCPU's kvm_run, which is mapped as long as the vCPU lives;
        // KVM writes it only within KVM_RUN.
        let width = unsafe { self.0.read_volatile() };
        usize::from(width).max(1)
    }
}
