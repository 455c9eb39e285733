//! What the driver asks for (virtio 1.3 §5.2.6).
//!
//! A request is a stream: a header of 16 bytes and the data to write are readable; the data to
//! read and one byte of status are writable. How the driver cuts it into buffers is its own
//! business.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::disk::{Disk, SECTOR};
use super::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZEROES_SECTORS};
use crate::devices::virtio::buffers::{Buffers, ChainError, GuestBytes};
use crate::devices::virtio::worker::RequestHandler;

const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// Serves the requests to one disk.
pub struct Requests {
    disk: Arc<Disk>,
    id: [u8; ID_BYTES],
    /// The driver does no flushes: each write is to be durable.
    write_through: bool,
}

impl Requests {
    pub(super) fn new(disk: Arc<Disk>, id: &str, write_through: bool) -> Self {
        let mut bytes = [0; ID_BYTES];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self {
            disk,
            id: bytes,
            write_through,
        }
    }
}

/// What a request that didn't go well ends with.
enum Failure {
    /// The driver asked for what can't be: VIRTIO_BLK_S_IOERR, and it's not the host's concern.
    Invalid,
    /// Not one of the requests that the device knows.
    Unsupported,
    /// The host couldn't; at which byte.
    Host(&'static str, u64, io::Error),
}

impl RequestHandler for Requests {
    type Scratch = Vec<u8>;

    fn handle(&self, buffers: &mut Buffers, bounce: &mut Vec<u8>) -> Result<u32, ChainError> {
        if !buffers.split_tail(1) {
            return Err(ChainError::NoStatus);
        }
        let room = buffers.writable.len();
        let result = self.execute(buffers, bounce);
        let status = match &result {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Failure::Invalid) => VIRTIO_BLK_S_IOERR,
            Err(Failure::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Failure::Host(what, offset, error)) => {
                self.disk.report(what, *offset, error);
                VIRTIO_BLK_S_IOERR
            }
        };
        buffers.tail.write(&[status as u8]);
        // What was written from the start without a gap (§2.7.8.2); a read that failed, or an
        // id in a larger buffer, leaves one before the status.
        let written = room - buffers.writable.len();
        let all = written + usize::from(written == room);
        Ok(u32::try_from(all).unwrap_or(u32::MAX))
    }
}

impl Requests {
    fn execute(&self, buffers: &mut Buffers, bounce: &mut Vec<u8>) -> Result<(), Failure> {
        let mut header = [0; 16];
        if buffers.readable.read(&mut header) < header.len() {
            return Err(Failure::Invalid);
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => {
                let data = &mut buffers.writable;
                let offset = self.range(sector, data.len() as u64)?;
                let result = self.disk.read(data, offset, bounce);
                result.map_err(|e| Failure::Host("reading", offset, e))
            }
            VIRTIO_BLK_T_OUT => {
                let data = &mut buffers.readable;
                let offset = self.range(sector, data.len() as u64)?;
                self.check_writable()?;
                let result = self.disk.write(data, offset, self.write_through, bounce);
                result.map_err(|e| Failure::Host("writing", offset, e))
            }
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => {
                buffers.writable.write(&self.id);
                Ok(())
            }
            VIRTIO_BLK_T_DISCARD => self.ranges(&mut buffers.readable, true),
            VIRTIO_BLK_T_WRITE_ZEROES => self.ranges(&mut buffers.readable, false),
            _ => Err(Failure::Unsupported),
        }
    }

    /// Discards or zeroes ranges, each a `struct virtio_blk_discard_write_zeroes` (§5.2.6).
    fn ranges(&self, data: &mut GuestBytes, discard: bool) -> Result<(), Failure> {
        self.check_writable()?;
        let count = data.len() / 16;
        if !data.len().is_multiple_of(16) || count == 0 || count > MAX_RANGES as usize {
            return Err(Failure::Invalid);
        }
        let (what, max) = match discard {
            true => ("discarding", MAX_DISCARD_SECTORS),
            false => ("writing zeros", MAX_ZEROES_SECTORS),
        };
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
            let offset = self.range(u64::from_le_bytes(sector), len)?;
            if len == 0 {
                continue;
            }
            let result = match discard {
                true => self.disk.discard(offset, len),
                false => self.disk.write_zeroes(offset, len, unmap),
            };
            result.map_err(|e| Failure::Host(what, offset, e))?;
        }
        match self.write_through {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&self) -> Result<(), Failure> {
        self.disk
            .flush()
            .map_err(|e| Failure::Host("flushing", 0, e))
    }

    /// The first byte of a range of whole sectors that lies within the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let offset = sector.checked_mul(SECTOR);
        let end = offset.and_then(|offset| offset.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.disk.size() && len.is_multiple_of(SECTOR) => {
                Ok(offset)
            }
            _ => Err(Failure::Invalid),
        }
    }

    fn check_writable(&self) -> Result<(), Failure> {
        match self.disk.read_only() {
            true => Err(Failure::Invalid),
            false => Ok(()),
        }
    }
}
