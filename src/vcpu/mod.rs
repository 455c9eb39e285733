//! The vCPU threads: running the guest, and answering its exits.

mod counters;
mod crash;
mod parking;
mod seat;

use std::io;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};

use kvm_bindings::{KVM_EXIT_ARM_NISV, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::signal::{self, Killable};

use crate::arch::{Announced, reboot, stores};
use crate::bus::Bus;
use crate::kvm::{KvmError, Vcpu};
use crate::memory::places;
use crate::sandbox::ThreadKind;
use crate::threads::Member;
use parking::{Place, Wish};

pub use counters::{ExitCounters, ExitCounts};
pub use crash::{CrashKind, CrashReport};
pub use parking::Parking;
pub use seat::{Gate, Seat};

/// Why a vCPU stopped running the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A fault that no handler was left for: a crash, or how Linux reboots with `reboot=t`.
    TripleFault(Box<CrashReport>),
    /// KVM can't run the guest any further.
    Crash(Box<CrashReport>),
    /// The guest had its firmware, which KVM plays, switch the machine off.
    PowerOff,
    /// The same for a reset.
    Reset(Announced),
    /// The monitor's own code panicked, or KVM refused the vCPU's set-up.
    Failed,
}

/// Gives a vCPU the state that it needs before it runs.
pub type Prepare = Arc<dyn Fn(&Vcpu) -> Result<(), KvmError> + Send + Sync>;

/// What a vCPU needs to answer exits; the same for all vCPUs of a VM.
#[derive(Clone)]
pub struct Surroundings {
    /// Devices by memory address.
    pub mmio: Arc<Bus>,
    /// Devices by port number.
    pub ports: Arc<Bus>,
    /// Where a crash report finds the instruction.
    pub memory: GuestMemoryMmap<()>,
    /// What memory the guest may only read, apart from devices' registers: guest addresses. A write
    /// to it by an instruction that KVM can't emulate is passed over, or the guest's to handle: see `run`.
    pub read_only_memory: Vec<Range<u64>>,
    /// What the vCPUs' threads are members of, and confined as.
    pub vm: Option<Member>,
    /// Where the vCPUs are while the VM is paused.
    pub parking: Arc<Parking>,
    /// Gives a vCPU what it still lacks, on its own thread and so beside the others.
    pub prepare: Prepare,
    /// Called on the vCPU's thread just before it first runs the guest.
    pub on_start: Arc<dyn Fn() + Send + Sync>,
    /// Called on the vCPU's thread when it can't go on.
    pub on_stop: Arc<dyn Fn(Stop) + Send + Sync>,
}

/// A vCPU at work on its own thread. Dropping it stops the vCPU and waits for the thread.
pub struct VcpuThread {
    /// `None` once it was waited for.
    handle: Option<JoinHandle<Vcpu>>,
    wish: Arc<Wish>,
    parking: Arc<Parking>,
    immediate_exit: ImmediateExit,
}

/// The byte by which KVM_RUN is told to return at once, in memory that KVM shares.
struct ImmediateExit(*const AtomicU8);

// SAFETY: the byte is only accessed atomically, and lives as long as the vCPU (see
// VcpuThread::request_stop).
unsafe impl Send for ImmediateExit {}

impl VcpuThread {
    /// Starts running the guest on a thread named after the vCPU.
    ///
    /// # Errors
    ///
    /// The thread could not be made.
    pub fn start(
        vcpu: Vcpu,
        surroundings: Surroundings,
        counters: Arc<ExitCounters>,
    ) -> io::Result<Self> {
        Self::start_in(None, vcpu, surroundings, counters)
    }

    /// The same, in a place of its own on the host, and once all have theirs ([`Gate::open`]).
    ///
    /// # Errors
    ///
    /// The thread could not be made.
    pub fn start_in(
        seat: Option<Seat>,
        vcpu: Vcpu,
        surroundings: Surroundings,
        counters: Arc<ExitCounters>,
    ) -> io::Result<Self> {
        Self::start_as(Wish::RUN, seat, vcpu, surroundings, counters)
    }

    /// The same, and it parks before it runs the guest.
    ///
    /// # Errors
    ///
    /// The thread could not be made.
    pub fn start_parked(
        seat: Option<Seat>,
        vcpu: Vcpu,
        surroundings: Surroundings,
        counters: Arc<ExitCounters>,
    ) -> io::Result<Self> {
        Self::start_as(Wish::PARK, seat, vcpu, surroundings, counters)
    }

    fn start_as(
        wish_at_first: u8,
        seat: Option<Seat>,
        mut vcpu: Vcpu,
        surroundings: Surroundings,
        counters: Arc<ExitCounters>,
    ) -> io::Result<Self> {
        install_kick_handler()?;
        let wish = Arc::new(Wish::default());
        wish.set(wish_at_first);
        let parking = surroundings.parking.clone();
        let immediate_exit = ImmediateExit(vcpu.immediate_exit());
        let thread = thread::Builder::new().name(format!("mote-vcpu{}", vcpu.id()));
        let thread_wish = wish.clone();
        let index = vcpu.id();
        let handle = thread.spawn(move || {
            let _stack = places::stack_of_vcpu(index);
            let work = AssertUnwindSafe(|| {
                // The starter may have blocked it, as programs do that wait for signals by
                // sigwait or signalfd; then it would end no KVM_RUN.
                if let Err(e) = signal::unblock_signal(kick_signal()) {
                    log::error!("unblocking the signal that stops a vCPU: {e:?}");
                }
                if let Err(e) = (surroundings.prepare)(&vcpu) {
                    log::error!("setting up vCPU {}: {e}", vcpu.id());
                    return (surroundings.on_stop)(Stop::Failed);
                }
                // After that: KVM takes no other CPUID once a vCPU has been in KVM_RUN.
                if seat.is_some_and(|seat| !seat.take(&mut vcpu)) {
                    return;
                }
                if let Some(vm) = &surroundings.vm {
                    vm.join(ThreadKind::Vcpu);
                }
                let mut place = Place::new(&surroundings.parking, &thread_wish);
                place.park(&vcpu);
                if thread_wish.get() == Wish::STOP {
                    return;
                }
                (surroundings.on_start)();
                run(&mut vcpu, &surroundings, &counters, &thread_wish, place);
            });
            // A defect of the monitor ends the VM: no guest may hang by it. And the vCPU must
            // live until the thread is joined, which an unwinding thread would not let it.
            if panic::catch_unwind(work).is_err() {
                (surroundings.on_stop)(Stop::Failed);
            }
            vcpu
        })?;
        Ok(VcpuThread {
            handle: Some(handle),
            wish,
            parking,
            immediate_exit,
        })
    }

    /// Makes the vCPU leave the guest, wherever it is, without waiting for it.
    pub fn request_stop(&self) {
        self.wish.set(Wish::STOP);
        self.kick();
        self.parking.wake();
    }

    /// Makes the vCPU leave the guest and park, without waiting for it.
    pub fn request_pause(&self) {
        self.wish.change(Wish::PARK);
        self.kick();
    }

    /// Lets a vCPU go on that parks, or is about to.
    pub fn resume(&self) {
        // Before the wish is changed: whoever asks for the next pause asks after that.
        self.set_immediate_exit(0);
        self.wish.change(Wish::RUN);
        if self.wish.get() == Wish::STOP {
            self.kick(); // it may have been asked for in between
        }
        self.parking.wake();
    }

    /// Has KVM_RUN return, the one that is under way or the next.
    fn kick(&self) {
        let Some(handle) = &self.handle else { return };
        // If it is about to enter the guest, KVM_RUN sees this byte and returns; if it is in
        // the guest already, the signal ends KVM_RUN. So there is no moment to be missed.
        self.set_immediate_exit(1);
        if let Err(e) = handle.kill(kick_signal()) {
            log::debug!("signalling a vCPU thread that has ended: {e}");
        }
    }

    fn set_immediate_exit(&self, value: u8) {
        if self.handle.is_some() {
            // SAFETY: the vCPU, and with it the memory that KVM shares, lives until the thread is
            // joined (its closure returns the vCPU, whatever happens), which takes `handle`.
            unsafe { (*self.immediate_exit.0).store(value, Ordering::Release) };
        }
    }

    /// Waits for the thread to end; the vCPU as it was left.
    pub fn join(mut self) -> Option<Vcpu> {
        self.wait()
    }

    fn wait(&mut self) -> Option<Vcpu> {
        // A thread that panicked has reported it already.
        self.handle.take()?.join().ok()
    }
}

impl Drop for VcpuThread {
    /// Nothing may run the guest, and so use its memory, once its owner is gone.
    fn drop(&mut self) {
        self.request_stop();
        drop(self.wait());
    }
}

/// The signal that interrupts KVM_RUN.
fn kick_signal() -> i32 {
    signal::SIGRTMIN()
}

/// A handler that does nothing: without one, the signal would end the process.
fn install_kick_handler() -> io::Result<()> {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static ONCE: std::sync::OnceLock<Result<(), i32>> = std::sync::OnceLock::new();
    // A signal's handler belongs to the whole process, so this is done once for all VMs in it.
    ONCE.get_or_init(|| {
        signal::register_signal_handler(kick_signal(), nothing).map_err(|e| e.errno())
    })
    .map_err(io::Error::from_raw_os_error)
}

/// The exit loop: runs the guest until it stops or is to stop.
///
/// It parks where KVM_RUN says that it was interrupted, and nowhere else: then what the last exit was about has been
/// handed over to the guest, which KVM_RUN does first of all, and it comes to that as `immediate_exit` is set.
fn run(
    vcpu: &mut Vcpu,
    around: &Surroundings,
    counters: &ExitCounters,
    wish: &Wish,
    mut place: Place,
) {
    let io = vcpu.io_width();
    let mut failed_before: Option<CrashReport> = None;
    while wish.get() != Wish::STOP {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                counters.mmio_read();
                around.mmio.read(address, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                counters.mmio_write();
                around.mmio.write(address, data);
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                counters.pio_in();
                // A string instruction (rep insb) is several accesses in one exit.
                // SAFETY: `vcpu` is borrowed here, and runs on this thread only.
                let width = unsafe { io.get() };
                for access in data.chunks_mut(width) {
                    around.ports.read(port.into(), access);
                }
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                counters.pio_out();
                // SAFETY: as above.
                let width = unsafe { io.get() };
                for access in data.chunks(width) {
                    around.ports.write(port.into(), access);
                }
            }
            Ok(VcpuExit::Shutdown) => {
                counters.other();
                let report = CrashReport::of(vcpu, &around.memory, CrashKind::TripleFault);
                return (around.on_stop)(Stop::TripleFault(Box::new(report)));
            }
            Ok(VcpuExit::SystemEvent(event, data)) => {
                counters.other();
                let stop = match event {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Stop::PowerOff,
                    KVM_SYSTEM_EVENT_RESET => Stop::Reset(reboot::of_event(data)),
                    _ => {
                        let kind = CrashKind::KvmExit;
                        Stop::Crash(Box::new(CrashReport::of(vcpu, &around.memory, kind)))
                    }
                };
                return (around.on_stop)(stop);
            }
            Ok(VcpuExit::Intr) => {
                counters.interrupted();
                place.park(vcpu);
            }
            // KVM emulates a write to read-only memory, but not by each instruction: on x86_64 it
            // doesn't know SSE and AVX, on AArch64 the processor tells it of single registers only.
            // Most of those that are left are passed over. Of the others the guest's kernel gets an
            // exception, and goes on with that; on x86_64 KVM does so without telling where a program
            // of the guest's was at fault.
            Ok(VcpuExit::InternalError | VcpuExit::Unsupported(KVM_EXIT_ARM_NISV)) => {
                if passed_over(vcpu, around) {
                    counters.mmio_write();
                    continue;
                }
                counters.other();
                let report = CrashReport::of(vcpu, &around.memory, CrashKind::KvmExit);
                // The same again is a KVM that queues no exception.
                let again = failed_before.as_ref() == Some(&report);
                if again || around.read_only_memory.is_empty() || !report.is_emulation_failure() {
                    return (around.on_stop)(Stop::Crash(Box::new(report)));
                }
                if let Err(e) = vcpu.refuse_access() {
                    log::error!("giving the guest an exception: {e}");
                    return (around.on_stop)(Stop::Crash(Box::new(report)));
                }
                if failed_before.is_none() {
                    log::warn!("the guest gets an exception: {report}");
                }
                failed_before = Some(report);
            }
            Ok(_) => {
                counters.other();
                let report = CrashReport::of(vcpu, &around.memory, CrashKind::KvmExit);
                return (around.on_stop)(Stop::Crash(Box::new(report)));
            }
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                counters.interrupted();
                place.park(vcpu);
            }
            Err(e) => {
                let kind = CrashKind::RunFailed(e.errno());
                let report = CrashReport::of(vcpu, &around.memory, kind);
                return (around.on_stop)(Stop::Crash(Box::new(report)));
            }
        }
    }
}

/// Whether the guest goes on behind a store to memory that it may only read, of which KVM knows the address only.
fn passed_over(vcpu: &mut Vcpu, around: &Surroundings) -> bool {
    let ignored = |address: &u64| {
        let mut places = around.read_only_memory.iter();
        places.any(|place| place.contains(address))
    };
    let Some(address) = stores::handed_over(vcpu).filter(ignored) else {
        return false;
    };
    let passed = stores::pass_over(vcpu, &around.memory).unwrap_or(false);
    if passed {
        // What is there counts it, and knows of it at the next flush.
        around.mmio.write(address, &[0]);
    }
    passed
}
