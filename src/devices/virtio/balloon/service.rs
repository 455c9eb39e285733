//! The balloon's thread: it sleeps until the driver has something to say, or until it's time to
//! ask for statistics.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::super::buffers::{Buffers, ChainError, MAX_CHAIN};
use super::super::queue::{Chain, pop, push_used};
use super::super::{Activation, ActiveQueue, Interrupt};
use super::PAGE;
use super::handle::{GuestStats, Shared};
use crate::memory::release::release;
use crate::sandbox::ThreadKind;
use crate::threads;

pub(super) const THREAD: &str = "mote-balloon";

/// The most pages that one request can give up; the rest of it is passed over, which only means
/// that the host doesn't get those back. Linux sends 256 at a time.
const MAX_PAGES: usize = 16 * 1024;

/// The most statistics that are read of one request; there are 16.
const MAX_STATS: usize = 64;

/// What a queue is for (§5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Stats,
    Reporting,
}

/// The wish that the thread ends.
pub(super) struct Stop {
    event: EventFd,
    wanted: AtomicBool,
}

impl Stop {
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC)?;
        let wanted = AtomicBool::new(false);
        Ok(Stop { event, wanted })
    }

    pub fn ask(&self) -> io::Result<()> {
        self.wanted.store(true, Ordering::Release);
        self.event.write(1)
    }
}

pub(super) struct Service {
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    shared: Arc<Shared>,
    queues: Vec<(Role, ActiveQueue)>,
    stop: Arc<Stop>,
    timer: Option<TimerFd>,
    /// Page numbers of the request being served.
    pages: Vec<u32>,
    /// The buffer in which the driver has told its statistics last. Giving it back asks for the
    /// next (§5.5.6.3).
    stats_head: Option<u16>,
}

/// Why the thread ends before it is asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Queue(#[from] virtio_queue::Error),
    #[error("waiting for the driver: {0}")]
    Host(#[from] io::Error),
}

impl Service {
    pub fn new(
        activation: Activation,
        roles: &[Role],
        stop: Arc<Stop>,
        interval: Option<Duration>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let timer = match interval {
            Some(interval) => {
                let mut timer = TimerFd::new()?;
                timer.reset(interval, Some(interval))?;
                Some(timer)
            }
            None => None,
        };
        let role = |queue: ActiveQueue| Some((*roles.get(usize::from(queue.index))?, queue));
        Ok(Service {
            memory: activation.memory,
            interrupt: activation.interrupt,
            shared,
            queues: activation.queues.into_iter().filter_map(role).collect(),
            stop,
            timer,
            pages: Vec::new(),
            stats_head: None,
        })
    }

    pub fn spawn(mut self) -> io::Result<JoinHandle<()>> {
        threads::spawn(ThreadKind::Balloon, THREAD, move || {
            let mut buffers = Buffers::new(&self.memory);
            if let Err(error) = self.run(&mut buffers) {
                self.interrupt.fail(&error);
            }
        })
    }

    fn run(&mut self, buffers: &mut Buffers) -> Result<(), ServeError> {
        let mut fds: Vec<libc::pollfd> = std::iter::once(self.stop.event.as_raw_fd())
            .chain([self.timer.as_ref().map_or(-1, AsRawFd::as_raw_fd)])
            .chain(
                self.queues
                    .iter()
                    .map(|(_, queue)| queue.notify.as_raw_fd()),
            )
            .map(readable)
            .collect();
        let interrupt = self.interrupt.clone();
        let _inside = interrupt.gate().enter();
        loop {
            if self.turn(buffers)? {
                return Ok(());
            }
            interrupt.gate().outside(|| wait(&mut fds))?;
            if fds[0].revents != 0 {
                return Ok(());
            }
            if fds[1].revents != 0
                && let Some(timer) = &mut self.timer
            {
                timer.wait().map_err(io::Error::from)?;
                self.ask_for_stats()?;
            }
            for (fd, (_, queue)) in fds[2..].iter().zip(&self.queues) {
                if fd.revents != 0 {
                    queue.notify.read()?;
                }
            }
        }
    }

    /// Serves all queues, one after the other.
    pub(super) fn turn(&mut self, buffers: &mut Buffers) -> Result<bool, ServeError> {
        for index in 0..self.queues.len() {
            if self.serve(index, buffers)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Serves all requests of a queue, and asks to be told of further ones. True if the device is
    /// to stop meanwhile: a driver may go on for ever.
    fn serve(&mut self, index: usize, buffers: &mut Buffers) -> Result<bool, ServeError> {
        // A clone is a reference: the chains borrow it while `self` changes.
        let memory = self.memory.clone();
        loop {
            let (role, queue) = &mut self.queues[index];
            let role = *role;
            let Some((chain, _)) = pop(&mut queue.queue, &memory)? else {
                if queue.queue.enable_notification(&memory)? {
                    continue; // one came before the driver could see that it's to notify
                }
                return Ok(false);
            };
            let head = chain.head_index();
            let start = Instant::now();
            match role {
                Role::Inflate => self.inflate(chain, buffers)?,
                Role::Deflate => self.deflate(chain, buffers)?,
                Role::Reporting => self.take_free_pages(chain)?,
                Role::Stats => {
                    self.read_stats(chain, buffers)?;
                    // Kept until the next are wanted. A second one isn't what the driver should
                    // have sent, and goes back at once.
                    if self.stats_head.is_none() {
                        self.stats_head = Some(head);
                        continue;
                    }
                }
            }
            if role != Role::Stats {
                self.shared.counts.latency.record(start.elapsed());
            }
            self.give_back(index, head)?;
            if self.stop.wanted.load(Ordering::Acquire) {
                return Ok(true);
            }
        }
    }

    fn give_back(&mut self, index: usize, head: u16) -> Result<(), ServeError> {
        let queue = &mut self.queues[index].1.queue;
        if push_used(queue, &self.memory, head, 0)? {
            self.interrupt.used_buffers();
        }
        Ok(())
    }

    /// Reads the page numbers of a request, in order, each once.
    fn load_pages(&mut self, chain: Chain, buffers: &mut Buffers) -> Result<(), ServeError> {
        buffers.load(chain)?;
        self.pages.clear();
        let mut bytes = [0; 1024];
        while self.pages.len() < MAX_PAGES {
            let count = buffers.readable.read(&mut bytes);
            let numbers = bytes[..count].chunks_exact(4);
            self.pages
                .extend(numbers.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            if count < bytes.len() {
                break;
            }
        }
        self.pages.sort_unstable();
        self.pages.dedup();
        Ok(())
    }

    /// The guest gives pages up: the host takes them, neighbours by one system call.
    fn inflate(&mut self, chain: Chain, buffers: &mut Buffers) -> Result<(), ServeError> {
        self.load_pages(chain, buffers)?;
        let mut bytes = 0;
        let mut refused = None;
        for run in self.pages.chunk_by(|a, b| b - a == 1) {
            let start = GuestAddress(u64::from(run[0]) * PAGE);
            match release(&self.memory, start, run.len() as u64 * PAGE) {
                Ok(count) => bytes += count,
                Err(error) => refused = Some(error),
            }
        }
        self.shared.counts.inflate_requests.inc();
        self.shared.counts.inflated.add(bytes);
        self.note(refused);
        Ok(())
    }

    /// The guest takes pages out of the balloon: it may use them at once, and needs no answer
    /// before (no MUST_TELL_HOST). They cost memory when it touches them.
    fn deflate(&mut self, chain: Chain, buffers: &mut Buffers) -> Result<(), ServeError> {
        self.load_pages(chain, buffers)?;
        let counts = &self.shared.counts;
        counts.deflate_requests.inc();
        counts.deflated.add(self.pages.len() as u64 * PAGE);
        Ok(())
    }

    /// Free page reporting (§5.5.6.7): each buffer is a range of free memory. The guest won't use
    /// it before this request is answered, and finds zeros there afterwards, which is what it
    /// expects unless it fills free pages with something else.
    fn take_free_pages(&mut self, chain: Chain) -> Result<(), ServeError> {
        let head = chain.head_index();
        let keep = self.shared.poison() != 0;
        let (mut bytes, mut refused) = (0, None);
        for (count, descriptor) in chain.enumerate() {
            if count == MAX_CHAIN {
                return Err(ChainError::TooLong { head }.into());
            }
            if keep || !descriptor.is_write_only() {
                continue;
            }
            match release(&self.memory, descriptor.addr(), descriptor.len().into()) {
                Ok(count) => bytes += count,
                Err(error) => refused = Some(error),
            }
        }
        self.shared.counts.report_requests.inc();
        self.shared.counts.reported.add(bytes);
        self.note(refused);
        Ok(())
    }

    /// Says once that the host keeps memory that the guest would give.
    fn note(&self, refused: Option<io::Error>) {
        let Some(error) = refused else { return };
        self.shared.counts.errors.inc();
        let level = match self.shared.refused_before.swap(true, Ordering::Relaxed) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        };
        log::log!(level, "balloon: the host doesn't take memory back: {error}");
    }

    /// Statistics are pairs of a tag (16 bits) and a value (64 bits), without gaps (§5.5.6.3).
    fn read_stats(&mut self, chain: Chain, buffers: &mut Buffers) -> Result<(), ServeError> {
        buffers.load(chain)?;
        let mut stats = GuestStats::default();
        let mut pair = [0; 10];
        for _ in 0..MAX_STATS {
            if buffers.readable.read(&mut pair) < pair.len() {
                break;
            }
            let (tag, value) = pair.split_at(2);
            if let (Ok(tag), Ok(value)) = (tag.try_into(), value.try_into()) {
                stats.set(u16::from_le_bytes(tag), u64::from_le_bytes(value));
            }
        }
        self.shared.set_stats(stats);
        Ok(())
    }

    pub(super) fn ask_for_stats(&mut self) -> Result<(), ServeError> {
        let Some(index) = self
            .queues
            .iter()
            .position(|(role, _)| *role == Role::Stats)
        else {
            return Ok(());
        };
        match self.stats_head.take() {
            Some(head) => self.give_back(index, head),
            None => Ok(()),
        }
    }
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

fn wait(fds: &mut [libc::pollfd]) -> io::Result<()> {
    loop {
        // SAFETY: the slice and its length.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
