//! The loop between a virtqueue and an io_uring.
//!
//! Each round takes what the kernel has done, answers, interrupts once, takes what the driver has
//! made available, and enters the kernel once, to submit all of it and to wait. The queue's eventfd
//! is read by the io_uring too, so that one wait is for everything.
//!
//! What an io_uring can't do blocks this queue's thread for as long as it takes: transfers with
//! O_DIRECT whose buffers aren't aligned, discards on block devices, and zeros where the host
//! must write them.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::super::disk::{self, Disk};
use super::super::request::{Command, Failure, Job, Range, Requests, perform_range};
use super::uring::{Done, Uring};
use super::{Control, Start};
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::buffers::{Buffers, ChainError, GuestBytes};
use crate::devices::virtio::queue::{pop, push_used};

/// A queue and its io_uring, at work.
pub struct RingQueue {
    /// First, so that it's dropped first: it waits for what uses the slots' memory.
    uring: Uring,
    queue: Queue,
    notify: Arc<EventFd>,
    requests: Requests,
    slots: Vec<Slot>,
    /// Slots without a request.
    free: Vec<usize>,
    /// A request that waits for a rate limit; until then no other is taken.
    held: Option<usize>,
    /// The driver wants an interrupt.
    interrupt_wanted: bool,
    bounce: Vec<u8>,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    control: Arc<Control>,
}

/// The place of a request in flight, used again for others.
struct Slot {
    buffers: Buffers,
    ranges: Vec<Range>,
    work: Option<Work>,
}

struct Work {
    head: u16,
    job: Job,
    /// What is left to do.
    command: Command,
    /// How many of the ranges are done.
    ranges_done: usize,
}

/// Why a queue stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Queue(virtio_queue::Error),
    #[error("io_uring: {0}")]
    Ring(#[from] io::Error),
}

impl From<virtio_queue::Error> for RingError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Queue(error)
    }
}

/// What to do next with a request.
enum Step {
    Submit(Entry),
    Finish(Result<(), Failure>),
}

impl RingQueue {
    pub fn new(uring: Uring, start: Start) -> Self {
        Self {
            uring,
            queue: start.queue.queue,
            notify: start.queue.notify,
            requests: start.requests,
            slots: Vec::new(),
            free: Vec::new(),
            held: None,
            interrupt_wanted: false,
            bounce: Vec::new(),
            memory: start.memory,
            interrupt: start.interrupt,
            control: start.control,
        }
    }

    /// Serves requests until the driver errs, or the queue is stopped and nothing is in flight.
    pub fn serve(mut self) -> Result<(), RingError> {
        let interrupt = self.interrupt.clone();
        let gate = interrupt.gate();
        let inside = gate.enter();
        loop {
            while let Some(done) = self.uring.next() {
                match done {
                    Done::Notified(result) => result?,
                    Done::Timer => {
                        if let Some(slot) = self.held.take() {
                            self.advance(slot)?;
                        }
                    }
                    Done::Request(slot, result) => self.completed(slot as usize, result)?,
                }
            }
            self.interrupt_if_wanted()?;
            let mut wait = 1;
            if self.control.stopping.load(Ordering::SeqCst) {
                // One that waits for its time isn't answered any more.
                if self.is_idle() {
                    return Ok(());
                }
                self.uring.submit(wait)?;
                continue;
            }
            if gate.is_closed() {
                // Until then the kernel has guest memory.
                let idle = self.is_idle();
                self.uring.submit(if idle { 0 } else { 1 })?;
                if idle {
                    inside.make_way();
                }
                continue;
            }
            self.take_requests()?;
            self.interrupt_if_wanted()?;
            // True if something came before the driver could see that it's to notify.
            if self.has_room() && self.queue.enable_notification(&self.memory)? {
                wait = 0;
            }
            self.uring.listen(&self.notify)?;
            match self.is_idle() {
                true => gate.outside(|| self.uring.submit(wait))?,
                false => self.uring.submit(wait)?,
            }
            self.queue.disable_notification(&self.memory)?;
        }
    }

    /// Whether nothing is in flight but what waits for its time.
    fn is_idle(&self) -> bool {
        self.slots.len() - self.free.len() == usize::from(self.held.is_some())
    }

    /// Whether another request can be taken.
    fn has_room(&self) -> bool {
        let all = usize::from(self.queue.size());
        self.held.is_none() && (!self.free.is_empty() || self.slots.len() < all)
    }

    /// Takes what the driver has made available, at most a queue's length of it at a time.
    fn take_requests(&mut self) -> Result<(), RingError> {
        for _ in 0..self.queue.size() {
            if !self.has_room() {
                break;
            }
            let Some((chain, _)) = pop(&mut self.queue, &self.memory)? else {
                break;
            };
            let index = self.free.pop().unwrap_or(self.slots.len());
            if index == self.slots.len() {
                self.slots.push(Slot {
                    buffers: Buffers::new(&self.memory),
                    ranges: Vec::new(),
                    work: None,
                });
            }
            let head = chain.head_index();
            let slot = &mut self.slots[index];
            slot.buffers.load(chain)?;
            let (job, command) = self.requests.begin(&mut slot.buffers, &mut slot.ranges)?;
            let wait = self.requests.throttle(&job);
            let (command, failure) = match command {
                Ok(command) => (command, None),
                Err(failure) => (Command::GetId, Some(failure)),
            };
            slot.work = Some(Work {
                head,
                job,
                command,
                ranges_done: 0,
            });
            match (failure, wait) {
                (Some(failure), _) => self.finish(index, Err(failure))?,
                (None, Some(time)) => {
                    self.uring.set_timer(time)?;
                    self.held = Some(index);
                }
                (None, None) => self.advance(index)?,
            }
        }
        Ok(())
    }

    /// Goes on with a request.
    fn advance(&mut self, index: usize) -> Result<(), RingError> {
        match self.step(index) {
            Step::Submit(entry) => {
                // SAFETY: the entry's memory is the guest's, which is mapped until the device is
                // reset, and a reset waits for this queue to be dropped, which waits for the
                // kernel. The iovecs are in the slot, which isn't touched until then.
                unsafe { self.uring.push(index as u64, entry)? };
                Ok(())
            }
            Step::Finish(result) => self.finish(index, result),
        }
    }

    fn step(&mut self, index: usize) -> Step {
        let Self {
            uring,
            slots,
            requests,
            bounce,
            ..
        } = self;
        let Slot {
            buffers,
            ranges,
            work: Some(work),
        } = &mut slots[index]
        else {
            return Step::Finish(Ok(()));
        };
        let disk = &*work.job.disk;
        match work.command {
            Command::Read(offset) if disk.is_plain(&buffers.writable, offset) => {
                transfer(disk, &buffers.writable, offset, None)
            }
            Command::Write(offset, sync) if disk.is_plain(&buffers.readable, offset) => {
                let sync = sync && disk.flushes();
                transfer(disk, &buffers.readable, offset, Some(sync))
            }
            Command::Flush if disk.flushes() => {
                let entry = opcode::Fsync::new(fd(disk)).flags(FsyncFlags::DATASYNC);
                Step::Submit(entry.build())
            }
            Command::Discard | Command::Zeroes if !disk.is_block_device() => {
                match ranges.get(work.ranges_done) {
                    Some(range) => {
                        let punch = matches!(work.command, Command::Discard) || range.unmap;
                        let entry = opcode::Fallocate::new(fd(disk), range.len)
                            .offset(range.offset)
                            .mode(disk::fallocate_mode(punch));
                        Step::Submit(entry.build())
                    }
                    None if requests.write_through() && disk.flushes() => {
                        work.command = Command::Flush;
                        let entry = opcode::Fsync::new(fd(disk)).flags(FsyncFlags::DATASYNC);
                        Step::Submit(entry.build())
                    }
                    None => Step::Finish(Ok(())),
                }
            }
            Command::GetId => {
                Step::Finish(requests.perform(disk, work.command, buffers, ranges, bounce))
            }
            command => {
                // What others wait for goes first. An error comes again with the next submission.
                let _ = uring.submit(0);
                Step::Finish(requests.perform(disk, command, buffers, ranges, bounce))
            }
        }
    }

    /// The kernel has done what [`step`](Self::step) asked for.
    fn completed(&mut self, index: usize, result: io::Result<u32>) -> Result<(), RingError> {
        let Self {
            uring,
            slots,
            requests,
            bounce,
            ..
        } = self;
        let Some(Slot {
            buffers,
            ranges,
            work: Some(work),
        }) = slots.get_mut(index)
        else {
            return Ok(());
        };
        let again = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
            )
        };
        let result = match (work.command, result) {
            // The rest of it by a system call that blocks.
            (command, Err(error)) if again(&error) => {
                let rest = &ranges[work.ranges_done.min(ranges.len())..];
                let _ = uring.submit(0);
                requests.perform(&work.job.disk, command, buffers, rest, bounce)
            }
            (Command::Read(offset), result) => {
                match moved(&mut buffers.writable, "reading", offset, result) {
                    Ok(Some(offset)) => {
                        work.command = Command::Read(offset);
                        return self.advance(index);
                    }
                    result => result.map(drop),
                }
            }
            (Command::Write(offset, sync), result) => {
                match moved(&mut buffers.readable, "writing", offset, result) {
                    Ok(Some(offset)) => {
                        work.command = Command::Write(offset, sync);
                        return self.advance(index);
                    }
                    result => result.map(drop),
                }
            }
            (command @ (Command::Discard | Command::Zeroes), result) => {
                let range = ranges[work.ranges_done];
                let discard = matches!(command, Command::Discard);
                // Where this way isn't to be had there may be others.
                let result = result.map(drop);
                match result.or_else(|_| perform_range(&work.job.disk, &range, discard)) {
                    Ok(()) => {
                        work.ranges_done += 1;
                        return self.advance(index);
                    }
                    failed => failed,
                }
            }
            (Command::Flush | Command::GetId, result) => result
                .map(drop)
                .map_err(|e| Failure::Host("flushing", 0, e)),
        };
        self.finish(index, result)
    }

    fn finish(&mut self, index: usize, result: Result<(), Failure>) -> Result<(), RingError> {
        let slot = &mut self.slots[index];
        self.free.push(index);
        if let Some(work) = slot.work.take() {
            let len = self.requests.finish(&work.job, result, &mut slot.buffers);
            self.interrupt_wanted |= push_used(&mut self.queue, &self.memory, work.head, len)?;
        }
        Ok(())
    }

    /// The interrupt goes with the next submission: it needs no system call of its own. Until this
    /// queue is dropped the device is live, and may interrupt.
    fn interrupt_if_wanted(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.interrupt_wanted) {
            true => self.uring.signal(self.interrupt.irqfd()),
            false => Ok(()),
        }
    }
}

fn fd(disk: &Disk) -> Fd {
    Fd(disk.as_raw_fd())
}

/// An entry that moves as much of `data` as one can: reads, or writes, durably if so said.
fn transfer(disk: &Disk, data: &GuestBytes, offset: u64, write: Option<bool>) -> Step {
    if data.is_empty() {
        return Step::Finish(Ok(()));
    }
    let flags = match write {
        Some(true) => libc::RWF_DSYNC,
        _ => 0,
    };
    Step::Submit(match (data.iovecs(), write.is_some()) {
        // Without an array of iovecs there's less for the kernel to copy.
        ([piece], false) => {
            let len = u32::try_from(piece.iov_len).unwrap_or(u32::MAX);
            opcode::Read::new(fd(disk), piece.iov_base.cast(), len)
                .offset(offset)
                .build()
        }
        ([piece], true) => {
            let len = u32::try_from(piece.iov_len).unwrap_or(u32::MAX);
            opcode::Write::new(fd(disk), piece.iov_base.cast(), len)
                .offset(offset)
                .rw_flags(flags)
                .build()
        }
        (pieces, false) => opcode::Readv::new(fd(disk), pieces.as_ptr(), pieces.len() as u32)
            .offset(offset)
            .build(),
        (pieces, true) => opcode::Writev::new(fd(disk), pieces.as_ptr(), pieces.len() as u32)
            .offset(offset)
            .rw_flags(flags)
            .build(),
    })
}

/// Takes note of what a transfer has moved: where to go on, if there is more.
fn moved(
    data: &mut GuestBytes,
    what: &'static str,
    offset: u64,
    result: io::Result<u32>,
) -> Result<Option<u64>, Failure> {
    match result {
        Err(error) => Err(Failure::Host(what, offset, error)),
        Ok(0) => Err(Failure::Host(
            what,
            offset,
            io::ErrorKind::UnexpectedEof.into(),
        )),
        Ok(count) => {
            data.advance(count as usize);
            let next = offset + u64::from(count);
            Ok((!data.is_empty()).then_some(next))
        }
    }
}
