//! An io_uring that can't be dropped before the kernel is done with everything it was given, and that does
//! nothing but what a drive needs: what it is asked to do is no system call, so no filter would see it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, Probe, opcode};
use vmm_sys_util::eventfd::EventFd;

use crate::config::CpuList;

/// Entries that can wait to be submitted; with more, there's one system call more.
const SUBMISSIONS: u32 = 64;
/// Completions that can wait to be taken: as many as there are requests in a queue, and a few.
const COMPLETIONS: u32 = 512;

/// What the kernel calls the entries that are not a request.
const NOTIFIED: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const CANCELLED: u64 = u64::MAX - 2;
const SIGNALLED: u64 = u64::MAX - 3;

/// All that is done by one. Transfers are to and from descriptors that are open, as those of a thread without one
/// are; there is nothing that opens, connects or starts.
const OPERATIONS: [u8; 8] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::Timeout::CODE,
    opcode::AsyncCancel::CODE,
];
/// The flags that an entry can have.
const FLAGS: Flags = Flags::SKIP_SUCCESS;

/// What is written to an eventfd.
static ONE: u64 = 1;

/// An io_uring of one thread, which made it.
pub struct Uring {
    ring: IoUring,
    /// Entries pushed, whose completions haven't been taken.
    in_flight: usize,
    listening: bool,
    timing: bool,
    /// Where the kernel writes what it reads from the eventfd.
    count: Box<u64>,
    /// Where the kernel reads the timer's time.
    time: Box<Timespec>,
}

/// What the kernel has done.
pub enum Done {
    /// The eventfd was written.
    Notified(io::Result<()>),
    /// The time is over.
    Timer,
    /// An entry of the caller's, by its number, with the system call's result.
    Request(u64, io::Result<u32>),
}

impl Uring {
    /// Sets it up: this takes a host up to 100 ms. The kernel's own threads for it, which block
    /// where a request must, are limited to `max_workers`, and to `cpus` if that is given: before
    /// Linux 6.2 they don't inherit the CPUs of the thread that they work for.
    ///
    /// # Errors
    ///
    /// The host has none, or none that can do all that's needed and be held to it, or forbids it.
    pub fn new(max_workers: usize, cpus: Option<&CpuList>) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(COMPLETIONS);
        builder.setup_r_disabled(); // Linux 5.10
        // Linux 6.1: completions are handled when this thread asks for them, without interrupting
        // it. Before, the kernel refuses flags that it doesn't know.
        let mut quiet = builder.clone();
        quiet.setup_single_issuer().setup_defer_taskrun();
        let ring = match quiet.build(SUBMISSIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                builder.build(SUBMISSIONS)?
            }
            result => result?,
        };
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let params = ring.params();
        if !OPERATIONS.iter().all(|code| probe.is_supported(*code))
            || !params.is_feature_submit_stable()
            || !params.is_feature_nodrop()
        {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Linux 5.15; it's only a limit.
        let mut workers = [max_workers as u32, 1];
        let _ = ring.submitter().register_iowq_max_workers(&mut workers);
        // Linux 5.14.
        if let Some(cpus) = cpus
            && let Err(error) = ring.submitter().register_iowq_aff(&cpu_set(cpus))
        {
            log::warn!("the kernel's threads for an io_uring can't be placed: {error}");
        }
        // For good. Nothing may be registered any more, as nothing of that is among them.
        let mut restrictions = Vec::from(OPERATIONS.map(Restriction::sqe_op));
        restrictions.push(Restriction::sqe_flags_allowed(FLAGS.bits()));
        ring.submitter().register_restrictions(&mut restrictions)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self {
            ring,
            in_flight: 0,
            listening: false,
            timing: false,
            count: Box::new(0),
            time: Box::default(),
        })
    }

    /// Hands `entry` to the kernel with the next submission; its completion will bear `number`.
    ///
    /// # Safety
    ///
    /// The memory that the kernel reads or writes for it is mapped until its completion was taken,
    /// or `self` dropped. What only describes that memory (iovecs) may change once submitted.
    pub unsafe fn push(&mut self, number: u64, entry: Entry) -> io::Result<()> {
        let entry = entry.user_data(number);
        loop {
            // SAFETY: the caller's promise; dropping waits for all that is in flight.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.in_flight += 1;
                return Ok(());
            }
            self.submit(0)?;
        }
    }

    /// Asks for [`Done::Notified`], once, if that isn't under way.
    pub fn listen(&mut self, event: &EventFd) -> io::Result<()> {
        if self.listening {
            return Ok(());
        }
        let fd: RawFd = event.as_raw_fd();
        let count: *mut u64 = &mut *self.count;
        let entry = opcode::Read::new(Fd(fd), count.cast(), 8).build();
        // SAFETY: `count` is 8 bytes on the heap, and dropped after the drop of `self` has waited.
        unsafe { self.push(NOTIFIED, entry)? };
        self.listening = true;
        Ok(())
    }

    /// Asks for [`Done::Timer`] after `time`. There is one timer.
    pub fn set_timer(&mut self, time: Duration) -> io::Result<()> {
        debug_assert!(!self.timing);
        *self.time = time.into();
        let entry = opcode::Timeout::new(&*self.time).build();
        // SAFETY: as for `count` above.
        unsafe { self.push(TIMER, entry)? };
        self.timing = true;
        Ok(())
    }

    /// Writes `event`, which doesn't block, with the next submission.
    ///
    /// Its completion must not be one that [`submit`](Self::submit) takes for what it waits for;
    /// before Linux 5.17 that can't be had, and there's a system call more.
    pub fn signal(&mut self, event: &EventFd) -> io::Result<()> {
        if !self.ring.params().is_feature_skip_cqe_on_success() {
            return event.write(1);
        }
        let one: *const u64 = &raw const ONE;
        let entry = opcode::Write::new(Fd(event.as_raw_fd()), one.cast(), 8).build();
        let entry = entry.flags(FLAGS);
        // SAFETY: `ONE` is 8 bytes, for ever.
        unsafe { self.push(SIGNALLED, entry)? };
        self.in_flight -= 1;
        Ok(())
    }

    /// Submits what was pushed, and waits until there are `want` completions.
    ///
    /// # Errors
    ///
    /// None that the kernel documents for good use.
    pub fn submit(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Ok(()),
                // The kernel is short of memory, or wants completions taken first.
                Some(libc::EAGAIN | libc::EBUSY) => {
                    std::thread::yield_now();
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// The next completion, if there is one.
    pub fn next(&mut self) -> Option<Done> {
        loop {
            let completion = self.ring.completion().next()?;
            let result = match completion.result() {
                error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
                count => Ok(count as u32),
            };
            if completion.user_data() != SIGNALLED {
                self.in_flight -= 1;
            }
            return Some(match completion.user_data() {
                CANCELLED => continue,
                SIGNALLED => {
                    if let Err(error) = result {
                        log::debug!("io_uring: raising the interrupt: {error}");
                    }
                    continue;
                }
                NOTIFIED => {
                    self.listening = false;
                    Done::Notified(result.map(drop))
                }
                TIMER => {
                    self.timing = false;
                    Done::Timer
                }
                number => Done::Request(number, result),
            });
        }
    }

    /// Waits until nothing is in flight; what could take for ever is cancelled.
    fn drain(&mut self) -> io::Result<()> {
        for (number, active) in [(NOTIFIED, self.listening), (TIMER, self.timing)] {
            if active {
                let entry = opcode::AsyncCancel::new(number).build();
                // SAFETY: refers to no memory.
                unsafe { self.push(CANCELLED, entry)? };
            }
        }
        while self.in_flight > 0 {
            // Looking may take the last one, and there's nothing to wait for.
            if self.next().is_none() && self.in_flight > 0 {
                self.submit(1)?;
            }
        }
        Ok(())
    }
}

/// For the system call, which takes the first 1024 CPUs.
fn cpu_set(cpus: &CpuList) -> libc::cpu_set_t {
    // SAFETY: plain integers.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.iter().map(usize::from) {
        // SAFETY: the set's own; it ignores what is beyond its end.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set
}

impl Drop for Uring {
    fn drop(&mut self) {
        if let Err(error) = self.drain() {
            // The kernel may go on writing to memory that would be given away.
            log::error!("io_uring: waiting for requests in flight: {error}: giving up");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests;
