//! A VM at work: its threads, its event loop, its end.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::beside::{AtWork, Beside, BootTimes, End, Work};
use super::console::{ConsoleEnd, ConsoleResizer};
use super::control::Control;
use super::dax::DaxDrives;
use super::ending::{Endings, Exit};
use super::hint::Outcome;
use super::kvm_stats::KvmReport;
use super::lifecycle::{LastBreath, State};
use super::mapped_kernel::MappedKernel;
use super::notify::Notify;
use super::pause::{Pauser, Step};
use super::placement;
use super::report::Report;
use super::timings::{BootClock, Counts, Timeline};
use super::usage::{Smaps, Usage};
use crate::arch::reboot;
use crate::devices::console::Request;
use crate::devices::virtio::MmioTransport;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::net::Link;
use crate::footprint::Footprint;
use crate::kvm;
use crate::memory::GuestRam;
use crate::memory::pages::Pages;
use crate::memory::places::Told;
use crate::metrics::Registry;
use crate::metrics::export::{ExportError, Exporter, Exporting};
use crate::placement::{PlacementError, Plan};
use crate::sandbox::{Confine, Confinement, ThreadKind};
use crate::threads::{Member, Threads};
use crate::vcpu::{CrashKind, Surroundings, VcpuThread};

/// Why a VM could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A thread could not be started.
    #[error("starting the VM's threads: {0}; is the limit on processes (ulimit -u) reached?")]
    Thread(io::Error),
    /// A thread could not be put in its place.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// Metrics could not be shown.
    #[error(transparent)]
    Metrics(ExportError),
    /// Waiting for events failed.
    #[error("waiting for events: {0}")]
    Poll(io::Error),
    /// It has been run already; a VM has one life.
    #[error("this VM has ended; build another")]
    Ended,
}

/// A VM, built and not yet run, running, or ended.
///
/// The order of the fields is the order in which they are dropped: whatever uses guest memory
/// goes before it.
pub struct Vm {
    pub(super) vcpus: Vec<kvm::Vcpu>,
    pub(super) plan: Option<Plan>,
    pub(super) confine: Confine,
    pub(super) confinement: Option<Arc<Confinement>>,
    pub(super) surroundings: Surroundings,
    pub(super) transports: Vec<Arc<Mutex<MmioTransport>>>,
    pub(super) console: Option<ConsoleEnd>,
    pub(super) fd: Arc<kvm::Vm>,
    pub(super) endings: Arc<Endings>,
    pub(super) clock: Arc<BootClock>,
    /// Wakes the event loop: the guest's init has signalled, or something was asked of the VM.
    pub(super) wake: Arc<EventFd>,
    pub(super) usage_at_init: Option<Usage>,
    pub(super) tell_memory: bool,
    pub(super) smaps: Arc<Smaps>,
    pub(super) footprint_at_init: Option<Footprint>,
    pub(super) notify: Option<Notify>,
    pub(super) timeline: Timeline,
    pub(super) bytes_loaded: u64,
    pub(super) bytes_mapped: u64,
    pub(super) supported_cpuid_calls: u32,
    pub(super) acpi: bool,
    pub(super) drives: usize,
    pub(super) control: Control,
    pub(super) _last_breath: LastBreath,
    pub(super) ended: Option<Exit>,
    pub(super) exporter: Option<Exporter>,
    pub(super) beside: Option<Work>,
    /// Before what it tells of is unmapped.
    pub(super) _told: Told,
    pub(super) _registers: Arc<Pages>,
    pub(super) dax: DaxDrives,
    pub(super) mapped_kernel: Option<MappedKernel>,
    pub(super) ram: GuestRam,
}

/// Ends a VM from any thread, or from a signal handler.
#[derive(Clone, Debug)]
pub struct Stopper {
    endings: Arc<Endings>,
}

impl Stopper {
    pub(super) fn new(endings: &Arc<Endings>) -> Self {
        Stopper {
            endings: endings.clone(),
        }
    }

    /// Makes [`Vm::run`] return [`Exit::Stopped`], now or as soon as it is called.
    pub fn stop(&self) {
        if let Err(e) = self.endings.event().write(1) {
            log::error!("stopping the VM: {e}");
        }
    }

    /// The descriptor to which a signal handler may write an 8-byte 1 to the same effect.
    pub fn event(&self) -> RawFd {
        self.endings.event().as_raw_fd()
    }
}

impl Vm {
    /// What asks things of the VM from outside, by any thread.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What ends the VM from outside: a part of [`Vm::control`], for signal handlers.
    pub fn stopper(&self) -> Stopper {
        self.control.shared.stopper.clone()
    }

    /// The name of the pseudo-terminal of `--console pty`.
    pub fn pty(&self) -> Option<&Path> {
        Some(self.console.as_ref()?.pty.as_ref()?.0.as_path())
    }

    /// What tells the guest of its terminal's size, where its console can tell it (`--console hvc`).
    pub fn console_resizer(&self) -> Option<ConsoleResizer> {
        let (resizer, _) = self.console.as_ref()?.resizer.as_ref()?;
        Some(resizer.clone())
    }

    /// The host's end of the balloon, for any thread, where the configuration has one.
    pub fn balloon(&self) -> Option<Balloon> {
        self.control.balloon().cloned()
    }

    /// Has `work` done on a thread of the VM's own while it runs: it gets what it needs of the VM, and is to
    /// return when the VM has ended. Where the VM is confined, so is that thread, and
    /// [`BuildOptions::reach`](super::BuildOptions::reach) has to say that there will be one.
    pub fn accompany(&mut self, work: impl FnOnce(Beside) + Send + 'static) {
        self.beside = Some(Box::new(work));
    }

    /// Runs the guest until it ends, and tells how it ended. The calling thread serves the
    /// console meanwhile. All threads started for the VM are gone when this returns, but for the
    /// console's if a terminal holds it in a write.
    ///
    /// # Errors
    ///
    /// See [`RunError`]; the guest is stopped then, too.
    pub fn run(&mut self) -> Result<Exit, RunError> {
        if self.ended.is_some() {
            return Err(RunError::Ended);
        }
        // Before any thread is there, and until all have gone.
        let moved = placement::move_aside(self.plan.as_ref())?;
        let seats = |plan| placement::seats(plan, moved.as_ref());
        let (gate, seats) = self.plan.as_ref().map(seats).transpose()?.unzip();
        let mut seats = seats.into_iter().flatten();
        let helpers = Threads::start(self.confinement.clone()).map_err(RunError::Thread)?;
        self.surroundings.vm = Some(helpers.member().clone());
        let mut threads = Vec::with_capacity(self.vcpus.len());
        let mut result = Ok(());
        let mut exporting = None;
        let lifecycle = self.control.shared.lifecycle.clone();
        lifecycle.set(State::Running);
        let paused = lifecycle.is_pause_wished();
        for (index, vcpu) in self.vcpus.drain(..).enumerate() {
            let counters = self.clock.vcpu(index);
            let around = self.surroundings.clone();
            let start = match paused {
                true => VcpuThread::start_parked,
                false => VcpuThread::start_in,
            };
            match start(seats.next(), vcpu, around, counters) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    result = Err(RunError::Thread(e));
                    break;
                }
            }
        }
        if let Some(gate) = gate {
            match &result {
                Ok(()) => result = gate.open().map_err(RunError::Placement),
                Err(_) => drop(gate), // those that were started don't wait for ever
            }
        }
        if let Some(exporter) = self.exporter.take() {
            let started = exporter.start(self.metrics().clone(), helpers.member());
            exporting = started.map_err(|e| result = Err(RunError::Metrics(e))).ok();
        }
        let flush = exporting.as_ref().and_then(Exporting::flusher);
        let at_work = self.beside.take().map(|work| {
            let beside = Beside {
                control: self.control(),
                boot: BootTimes::new(&self.clock, &self.timeline),
                flush,
                end: End::new()?,
            };
            AtWork::start(work, beside, helpers.member())
        });
        let at_work = at_work.transpose().unwrap_or_else(|e| {
            result = Err(RunError::Thread(e));
            None
        });
        if result.is_ok() {
            if let (Confine::Process, Some(confinement)) = (self.confine, &self.confinement) {
                confinement.confine(ThreadKind::Main);
            }
            result = self.serve(&threads, helpers.member());
            self.pauser(&threads, helpers.member()).open();
        }
        threads.iter().for_each(VcpuThread::request_stop);
        self.vcpus = threads.into_iter().filter_map(VcpuThread::join).collect();
        helpers.member().for_now(|| {
            for transport in &self.transports {
                let transport = transport.lock();
                transport.unwrap_or_else(PoisonError::into_inner).reset();
            }
        });
        if let Some(console) = &self.console {
            let lost = console.drain.finish();
            if lost > 0 {
                log::warn!("{lost} bytes of console output were lost: nobody read them in time");
            }
        }
        let exit = self.endings.exit(reboot::announced(self.ram.memory()));
        // Before anybody is waited for who may be waiting for a pause.
        lifecycle.set(State::Ended);
        if let Some(at_work) = at_work {
            at_work.end(&exit);
        }
        // A last time, with all that was counted.
        drop(exporting);
        drop(helpers);
        self.ended = Some(exit.clone());
        result.map(|()| exit)
    }

    /// Where the boot time went. Exact once the guest's init has signalled or the VM has ended.
    pub fn report(&self) -> Report {
        let usage = self.usage_at_init.unwrap_or_else(|| self.usage());
        let mut report = Report::new(
            &self.timeline,
            &self.clock,
            (self.bytes_loaded, self.bytes_mapped),
            self.supported_cpuid_calls,
            usage,
            self.footprint_at_init.clone().or_else(|| self.footprint()),
        );
        // The vCPUs are here before the run and after it.
        let kvm = KvmReport::now(&self.fd, &self.vcpus);
        let missing = |e| log::debug!("the report has none of KVM's statistics: {e}");
        report.kvm = kvm.map_err(missing).ok();
        report
    }

    /// Exits to user space so far, of all vCPUs.
    pub fn exits(&self) -> Counts {
        self.clock.counts()
    }

    /// What the devices count. A clone of it can be asked from any thread, at any time.
    pub fn metrics(&self) -> &Registry {
        self.control.metrics()
    }

    /// The cable of the network device `index`, in the configuration's order. A clone of it can be
    /// plugged in and out from any thread while the VM runs.
    pub fn link(&self, index: usize) -> Option<&Link> {
        Some(&self.control.shared.nets.get(index)?.1.as_ref()?.0)
    }

    /// Advice for the user, where the way in which the guest ended calls for it.
    pub fn hint(&self) -> Option<String> {
        // What KVM_RUN says where the host has no page for the guest.
        if let Some(Exit::Crash(report)) = &self.ended
            && report.kind == CrashKind::RunFailed(libc::EFAULT)
            && let Some(trouble) = self.dax.trouble().or_else(|| self.kernel_trouble())
        {
            return Some(trouble);
        }
        // The drives come first; the entropy device's driver says nothing of theirs.
        let ready = self.transports[..self.drives].iter().filter(|transport| {
            transport
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .driver_ok()
        });
        Outcome {
            exit: self.ended.as_ref()?,
            init_reached: self.clock.init.get().is_some(),
            drives: self.drives,
            drivers_ready: ready.count(),
            acpi: self.acpi,
        }
        .hint()
    }

    fn kernel_trouble(&self) -> Option<String> {
        self.mapped_kernel.as_ref().map(MappedKernel::trouble)
    }

    fn footprint(&self) -> Option<Footprint> {
        self.tell_memory.then(Footprint::of_this_process)
    }

    fn usage(&self) -> Usage {
        let mut guest = self.ram.host_ranges();
        guest.extend(self.dax.host_ranges());
        Usage::now(&self.smaps, &guest)
    }

    /// The event loop: what is asked of the VM, console input and the boot timer, until something ends the VM.
    fn serve(&mut self, vcpus: &[VcpuThread], member: &Member) -> Result<(), RunError> {
        let mut init_seen = false;
        let mut step = Step::Running;
        loop {
            // While the VM is paused, nobody takes anything for the guest but what is typed to leave it.
            let runs = matches!(step, Step::Running);
            let (mut space, mut input, mut resized, mut timer) = (-1, -1, -1, -1);
            if let Some(console) = &self.console {
                input = console.wants_input().unwrap_or(-1);
                if runs {
                    space = console.input_space.as_raw_fd();
                    resized = console.resized().unwrap_or(-1);
                    timer = console.port.timer().unwrap_or(-1);
                }
            }
            // poll(2) passes over negative descriptors.
            let (end, wake) = (self.endings.event().as_raw_fd(), self.wake.as_raw_fd());
            let ready = poll([end, wake, space, input, resized, timer]).map_err(RunError::Poll)?;
            if ready[1] {
                let _ = self.wake.read();
                // Before the end, which may be meant to follow from it (Until::Init).
                if !init_seen && self.clock.has_signalled() {
                    init_seen = true;
                    self.note_init();
                }
            }
            if ready[0] {
                return Ok(());
            }
            if ready[1] {
                self.control.shared.buttons.deliver();
                self.pauser(vcpus, member).go_on(&mut step);
            }
            let Some(console) = &mut self.console else {
                continue;
            };
            if ready[2] {
                let _ = console.input_space.read();
            }
            if ready[5] {
                console.port.tick();
            }
            if ready[4] {
                console.resize();
            }
            if ready[3] && console.read_input() == Request::Quit {
                self.endings.quit();
            }
            if matches!(step, Step::Running) {
                console.feed();
            }
        }
    }

    /// The guest's init has signalled, or its console has printed what was waited for.
    fn note_init(&mut self) {
        let at = self.clock.init.get().map(|(at, _)| *at);
        if let (Some(notify), Some(at), Some(vm)) = (self.notify.clone(), at, &self.surroundings.vm)
        {
            // Behind the line that says `running`.
            let timeline = self.timeline.clone();
            vm.soon(move || notify.say("init", &timeline, at));
        }
        self.usage_at_init = Some(self.usage());
        self.footprint_at_init = self.footprint();
    }

    fn pauser<'a>(&'a self, vcpus: &'a [VcpuThread], member: &'a Member) -> Pauser<'a> {
        Pauser {
            lifecycle: &self.control.shared.lifecycle,
            vcpus,
            parking: &self.surroundings.parking,
            transports: &self.transports,
            member,
            fd: &self.fd,
            wake: &self.wake,
        }
    }
}

/// Waits until one of the descriptors is readable or at its end; negative ones never are.
fn poll<const N: usize>(fds: [RawFd; N]) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: the array and its length.
        if unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) } >= 0 {
            return Ok(polled.map(|p| p.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
