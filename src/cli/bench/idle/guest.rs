//! One VM that halts and answers: interrupts go in by an irqfd, answers come out by an ioeventfd.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use motevm::arch::irqchip::{self, IrqchipError};
use motevm::arch::vcpus::{self, CpuError, Cpus};
use motevm::arch::{CpuOptions, idle::OwnWaits, layout, responder};
use motevm::bus::Bus;
use motevm::config::HaltPoll;
use motevm::kvm::{Host, KvmError, Statistics, StatisticsError, Vm};
use motevm::machine::{Halts, IdleError, set_window};
use motevm::memory::{Backing, GuestRam, MemoryError};
use motevm::vcpu::{ExitCounters, Stop, Surroundings, VcpuThread};
use vm_memory::GuestMemoryError;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

/// How long an answer may take at most, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It has no interrupt controller.
    #[error(transparent)]
    Irqchip(#[from] IrqchipError),
    /// It has no vCPU.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// Its code can't be written.
    #[error("writing the guest's code: {0}")]
    Code(#[from] GuestMemoryError),
    /// The window could not be set.
    #[error(transparent)]
    Window(#[from] IdleError),
    /// KVM counts nothing.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// A system call failed.
    #[error("{0}: {1}")]
    Host(&'static str, io::Error),
    /// The guest crashed.
    #[error("the guest stopped: {0:?}")]
    Stopped(Stop),
    /// The guest hangs.
    #[error("the guest didn't answer within {PATIENCE:?}")]
    Silent,
}

/// A guest that waits for requests. The order of the fields is that in which they are dropped: the
/// vCPU before the memory.
pub struct Guest {
    _thread: VcpuThread,
    seen: Arc<Seen>,
    statistics: Option<Statistics>,
    request: EventFd,
    answer: Arc<EventFd>,
    _fd: Vm,
    _ram: GuestRam,
}

/// What is seen on the vCPU's thread.
#[derive(Default)]
struct Seen {
    clock: OnceLock<libc::clockid_t>,
    pinned: OnceLock<io::Error>,
    stopped: OnceLock<Stop>,
}

impl Guest {
    /// Starts one, and waits until it is ready; `cpu` is the host's CPU for it.
    pub fn start(host: &Host, window: HaltPoll, cpu: Option<usize>) -> Result<Self, GuestError> {
        let event = || EventFd::new(EFD_CLOEXEC).map_err(|e| GuestError::Host("eventfd", e));
        let fd = host.create_vm()?;
        let ranges = layout::ram_ranges(responder::MEMORY);
        let ram = GuestRam::new(&ranges, Backing::Anonymous)?;
        let memory = ram.memory().clone();
        // SAFETY: `ram` is dropped after `fd` and the vCPU, in `Guest` and in this function.
        unsafe { fd.set_memory(&memory)? };
        irqchip::prepare(&fd)?;
        let irqchip = irqchip::create(host, &fd, 1)?;
        if let HaltPoll::Window(window) = window {
            set_window(host, &fd, window)?;
        }
        let options = CpuOptions {
            cpus: 1,
            mask: &[],
            own_waits: OwnWaits::default(),
            pmu: false,
        };
        let cpus = vcpus::create(host, &fd, &irqchip, &options)?;
        cpus.enter(responder::write(&memory)?, &memory)?;
        let (request, answer) = (event()?, Arc::new(event()?));
        fd.register_irqfd(&request, responder::GSI)?;
        fd.register_ioeventfd(&answer, responder::ANSWER, responder::ANSWER_VALUE)?;
        let Cpus { vcpus, prepare, .. } = cpus;
        let vcpu = vcpus.into_iter().next().ok_or(GuestError::Silent)?;
        let statistics = match vcpu.statistics() {
            Ok(statistics) => Some(statistics),
            Err(StatisticsError::Kvm(_)) => None, // Linux before 5.14
            Err(e) => return Err(e.into()),
        };
        let seen = Arc::new(Seen::default());
        let (starting, stopping, woken) = (seen.clone(), seen.clone(), answer.clone());
        let surroundings = Surroundings {
            vm: None,
            parking: Arc::default(),
            mmio: Arc::new(Bus::new()),
            ports: Arc::new(Bus::new()),
            memory,
            read_only_memory: Vec::new(),
            prepare,
            on_start: Arc::new(move || starting.begin(cpu)),
            on_stop: Arc::new(move |stop| {
                let _ = stopping.stopped.set(stop);
                let _ = woken.write(1); // whoever waits for an answer
            }),
        };
        let thread = VcpuThread::start(vcpu, surroundings, Arc::new(ExitCounters::default()));
        let guest = Guest {
            _thread: thread.map_err(|e| GuestError::Host("starting a thread", e))?,
            seen,
            statistics,
            request,
            answer,
            _fd: fd,
            _ram: ram,
        };
        guest.wait()?;
        if let Some(e) = guest.seen.pinned.get() {
            let e = io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EINVAL));
            return Err(GuestError::Host("--pin: the guest's CPU", e));
        }
        Ok(guest)
    }

    /// Raises the interrupt.
    pub fn request(&self) -> Result<(), GuestError> {
        let written = self.request.write(1);
        written.map_err(|e| GuestError::Host("writing to the irqfd", e))
    }

    /// Waits for the answer, as an event loop does: by poll and read.
    pub fn wait(&self) -> Result<(), GuestError> {
        let mut polled = libc::pollfd {
            fd: self.answer.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        loop {
            // SAFETY: one pollfd.
            match unsafe { libc::poll(&raw mut polled, 1, PATIENCE.as_millis() as i32) } {
                0 => return Err(GuestError::Silent),
                1 => break,
                _ => {
                    let e = io::Error::last_os_error();
                    if e.kind() != io::ErrorKind::Interrupted {
                        return Err(GuestError::Host("poll", e));
                    }
                }
            }
        }
        let read = self.answer.read();
        read.map_err(|e| GuestError::Host("reading the ioeventfd", e))?;
        match self.seen.stopped.get() {
            Some(stop) => Err(GuestError::Stopped(stop.clone())),
            None => Ok(()),
        }
    }

    /// CPU time that the vCPU's thread has used: in the guest, in KVM, and polling.
    pub fn cpu_time(&self) -> Duration {
        let mut used = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if let Some(clock) = self.seen.clock.get() {
            // SAFETY: a valid timespec; the clock is that of a thread which lives as long as
            // `self`. Where the call fails the time stays zero.
            unsafe { libc::clock_gettime(*clock, &raw mut used) };
        }
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    }

    /// What KVM has counted of its halts, where it does.
    pub fn halts(&self) -> Result<Option<Halts>, GuestError> {
        let Some(statistics) = &self.statistics else {
            return Ok(None);
        };
        Ok(Some(Halts::of(&statistics.read()?)))
    }
}

impl Seen {
    /// On the vCPU's thread, before it first runs the guest.
    fn begin(&self, cpu: Option<usize>) {
        let mut clock = 0;
        // SAFETY: the calling thread, and a valid place for the number.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        if failed == 0 {
            let _ = self.clock.set(clock);
        }
        if let Some(Err(e)) = cpu.map(pin) {
            let _ = self.pinned.set(e);
        }
    }
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero set is an empty one, and `cpu` is in its range.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: a valid set and its size; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
