//! What the driver asks for (virtio 1.3 §5.2.6).
//!
//! A request is a stream: a header of 16 bytes and the data to write are readable; the data to
//! read and one byte of status are writable. How the driver cuts it into buffers is its own
//! business.
//!
//! [`Requests::begin`] checks a request, [`Requests::perform`] does it by system calls that block,
//! [`Requests::finish`] writes the answer. An engine with other means does the middle part itself.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::disk::{Disk, SECTOR};
use super::medium::Space;
use super::metrics::{BlkMetrics, Op};
use super::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZEROES_SECTORS};
use crate::devices::rate_limit::{Pause, RateLimiter};
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::buffers::{Buffers, ChainError, GuestBytes};
use crate::devices::virtio::worker::RequestHandler;
use crate::sandbox::ThreadKind;

const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// What all queues of a drive share.
pub struct Shared {
    /// What is in the drive now.
    pub disk: RwLock<Arc<Disk>>,
    pub read_only: bool,
    pub space: Mutex<Space>,
    pub id: [u8; ID_BYTES],
    /// The driver does no flushes: each write is to be durable.
    pub write_through: AtomicBool,
    pub limiter: RateLimiter,
    pub metrics: Arc<BlkMetrics>,
}

impl Shared {
    /// What is in the drive now.
    pub fn disk(&self) -> Arc<Disk> {
        let disk = self.disk.read().unwrap_or_else(PoisonError::into_inner);
        disk.clone()
    }

    /// The driver is there. It has read the capacity before, which may be another since.
    pub fn go_live(&self, interrupt: &Arc<Interrupt>) {
        let mut space = self.space();
        interrupt.changed_before(0, &space.bytes[..8]);
        space.interrupt = Some(interrupt.clone());
    }

    pub fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the requests of one queue.
pub struct Requests {
    shared: Arc<Shared>,
    interrupt: Arc<Interrupt>,
    pause: Pause,
}

/// A request that was taken and is to be answered.
pub struct Job {
    /// What was in the drive when it was taken.
    pub disk: Arc<Disk>,
    op: Op,
    started: Instant,
    /// Bytes of data: to read, write, discard or zero.
    bytes: u64,
    /// Bytes that were writable, without the status.
    room: usize,
}

/// What is to be done with the disk. All offsets and lengths are within it.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Fill the writable bytes from this offset on.
    Read(u64),
    /// Write the readable bytes from this offset on, durably if so said.
    Write(u64, bool),
    Flush,
    GetId,
    /// Discard the job's ranges.
    Discard,
    /// Zero the job's ranges.
    Zeroes,
}

/// A range of bytes to discard or zero; never empty.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub offset: u64,
    pub len: u64,
    /// Zeros need no blocks.
    pub unmap: bool,
}

/// What a thread keeps between requests.
#[derive(Default)]
pub struct Scratch {
    pub bounce: Vec<u8>,
    ranges: Vec<Range>,
}

/// What a request that didn't go well ends with.
pub enum Failure {
    /// The driver asked for what can't be: VIRTIO_BLK_S_IOERR, and it's not the host's concern.
    Invalid,
    /// Not one of the requests that the device knows.
    Unsupported,
    /// The host couldn't; at which byte.
    Host(&'static str, u64, io::Error),
}

impl RequestHandler for Requests {
    const KIND: ThreadKind = ThreadKind::Drive;

    type Scratch = Scratch;

    fn handle(&self, buffers: &mut Buffers, scratch: &mut Scratch) -> Result<u32, ChainError> {
        let (job, command) = self.begin(buffers, &mut scratch.ranges)?;
        if let Some(time) = self.throttle(&job)
            && command.is_ok()
            && !self.interrupt.gate().outside(|| self.pause.wait(time))
        {
            return Err(ChainError::Stopped);
        }
        let result = command.and_then(|command| {
            let bounce = &mut scratch.bounce;
            self.perform(&job.disk, command, buffers, &scratch.ranges, bounce)
        });
        Ok(self.finish(&job, result, buffers))
    }

    fn stop(&self) {
        self.pause.end();
    }
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, interrupt: Arc<Interrupt>) -> Self {
        Self {
            shared,
            interrupt,
            pause: Pause::default(),
        }
    }

    /// Reads and checks a request: what to do, or with which failure to answer. Its ranges, if
    /// it has any, replace what is in `ranges`.
    pub fn begin(
        &self,
        buffers: &mut Buffers,
        ranges: &mut Vec<Range>,
    ) -> Result<(Job, Result<Command, Failure>), ChainError> {
        if !buffers.split_tail(1) {
            return Err(ChainError::NoStatus);
        }
        let started = Instant::now();
        let room = buffers.writable.len();
        let disk = self.shared.disk();
        let (op, parsed) = parse(&disk, self.write_through(), buffers, ranges);
        let (command, bytes) = match parsed {
            Ok((command, bytes)) => (Ok(command), bytes),
            Err(failure) => (Err(failure), 0),
        };
        let job = Job {
            disk,
            op,
            started,
            bytes,
            room,
        };
        Ok((job, command))
    }

    /// How long the request has to wait before it may be done, if it has to.
    pub fn throttle(&self, job: &Job) -> Option<Duration> {
        // A discard moves no data.
        let bytes = match job.op {
            Op::Discard => 0,
            _ => job.bytes,
        };
        let time = self.shared.limiter.reserve(1, bytes);
        if time.is_zero() {
            return None;
        }
        self.shared.metrics.throttled();
        Some(time)
    }

    /// Does what the request asks for. Returns when it's done.
    pub fn perform(
        &self,
        disk: &Disk,
        command: Command,
        buffers: &mut Buffers,
        ranges: &[Range],
        bounce: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match command {
            Command::Read(offset) => disk
                .read(&mut buffers.writable, offset, bounce)
                .map_err(|e| Failure::Host("reading", offset, e)),
            Command::Write(offset, sync) => disk
                .write(&mut buffers.readable, offset, sync, bounce)
                .map_err(|e| Failure::Host("writing", offset, e)),
            Command::Flush => flush(disk),
            Command::GetId => {
                buffers.writable.write(&self.shared.id);
                Ok(())
            }
            Command::Discard | Command::Zeroes => {
                let discard = matches!(command, Command::Discard);
                for range in ranges {
                    perform_range(disk, range, discard)?;
                }
                match self.write_through() {
                    true => flush(disk),
                    false => Ok(()),
                }
            }
        }
    }

    /// Writes the status; how many bytes were written from the start of the writable ones.
    pub fn finish(&self, job: &Job, result: Result<(), Failure>, buffers: &mut Buffers) -> u32 {
        let status = match &result {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Failure::Invalid) => VIRTIO_BLK_S_IOERR,
            Err(Failure::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Failure::Host(what, offset, error)) => {
                job.disk.report(what, *offset, error);
                VIRTIO_BLK_S_IOERR
            }
        };
        buffers.tail.write(&[status as u8]);
        let time = job.started.elapsed();
        self.shared
            .metrics
            .answered(job.op, job.bytes, time, result.is_ok());
        // What was written from the start without a gap (§2.7.8.2); a read that failed, or an
        // id in a larger buffer, leaves one before the status.
        let written = job.room - buffers.writable.len();
        let all = written + usize::from(written == job.room);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// What is in the drive now.
    pub fn disk(&self) -> Arc<Disk> {
        self.shared.disk()
    }

    /// Whether discards and zeros, too, are to be durable when the driver hears of them.
    pub fn write_through(&self) -> bool {
        self.shared.write_through.load(Ordering::Relaxed)
    }
}

/// Discards or zeroes one range.
pub fn perform_range(disk: &Disk, range: &Range, discard: bool) -> Result<(), Failure> {
    let &Range { offset, len, unmap } = range;
    match discard {
        true => disk
            .discard(offset, len)
            .map_err(|e| Failure::Host("discarding", offset, e)),
        false => disk
            .write_zeroes(offset, len, unmap)
            .map_err(|e| Failure::Host("writing zeros", offset, e)),
    }
}

fn flush(disk: &Disk) -> Result<(), Failure> {
    disk.flush().map_err(|e| Failure::Host("flushing", 0, e))
}

/// What the request is, and what it comes to with how many bytes of data.
fn parse(
    disk: &Disk,
    sync: bool,
    buffers: &mut Buffers,
    ranges: &mut Vec<Range>,
) -> (Op, Result<(Command, u64), Failure>) {
    let mut header = [0; 16];
    if buffers.readable.read(&mut header) < header.len() {
        return (Op::Other, Err(Failure::Invalid));
    }
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let data = &mut buffers.readable;
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => {
            let len = buffers.writable.len() as u64;
            let offset = range(disk, sector, len);
            (Op::Read, offset.map(|at| (Command::Read(at), len)))
        }
        VIRTIO_BLK_T_OUT => {
            let len = data.len() as u64;
            let offset = check_writable(disk).and_then(|()| range(disk, sector, len));
            (Op::Write, offset.map(|at| (Command::Write(at, sync), len)))
        }
        VIRTIO_BLK_T_FLUSH => (Op::Flush, Ok((Command::Flush, 0))),
        VIRTIO_BLK_T_GET_ID => (Op::Other, Ok((Command::GetId, 0))),
        VIRTIO_BLK_T_DISCARD => {
            let bytes = read_ranges(disk, data, true, ranges);
            (Op::Discard, bytes.map(|bytes| (Command::Discard, bytes)))
        }
        VIRTIO_BLK_T_WRITE_ZEROES => {
            let bytes = read_ranges(disk, data, false, ranges);
            (Op::Zeroes, bytes.map(|bytes| (Command::Zeroes, bytes)))
        }
        _ => (Op::Other, Err(Failure::Unsupported)),
    }
}

/// Reads the ranges of a discard or a write of zeros, each a `struct
/// virtio_blk_discard_write_zeroes` (§5.2.6); how many bytes they are together.
fn read_ranges(
    disk: &Disk,
    data: &mut GuestBytes,
    discard: bool,
    ranges: &mut Vec<Range>,
) -> Result<u64, Failure> {
    check_writable(disk)?;
    let count = data.len() / 16;
    if !data.len().is_multiple_of(16) || count == 0 || count > MAX_RANGES as usize {
        return Err(Failure::Invalid);
    }
    let max = match discard {
        true => MAX_DISCARD_SECTORS,
        false => MAX_ZEROES_SECTORS,
    };
    ranges.clear();
    let mut bytes = 0;
    for _ in 0..count {
        let (mut sector, mut sectors, mut flags) = ([0; 8], [0; 4], [0; 4]);
        data.read(&mut sector);
        data.read(&mut sectors);
        data.read(&mut flags);
        let (sectors, flags) = (u32::from_le_bytes(sectors), u32::from_le_bytes(flags));
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        // §5.2.6.2: no unknown flags, and none at all in a discard.
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (discard && unmap) {
            return Err(Failure::Unsupported);
        }
        if sectors > max {
            return Err(Failure::Invalid);
        }
        let len = u64::from(sectors) * SECTOR;
        let offset = range(disk, u64::from_le_bytes(sector), len)?;
        if len > 0 {
            ranges.push(Range { offset, len, unmap });
            bytes += len;
        }
    }
    Ok(bytes)
}

/// The first byte of a range of whole sectors that lies within the disk.
fn range(disk: &Disk, sector: u64, len: u64) -> Result<u64, Failure> {
    let offset = sector.checked_mul(SECTOR);
    let end = offset.and_then(|offset| offset.checked_add(len));
    match (offset, end) {
        (Some(offset), Some(end)) if end <= disk.size() && len.is_multiple_of(SECTOR) => Ok(offset),
        _ => Err(Failure::Invalid),
    }
}

fn check_writable(disk: &Disk) -> Result<(), Failure> {
    match disk.read_only() {
        true => Err(Failure::Invalid),
        false => Ok(()),
    }
}
