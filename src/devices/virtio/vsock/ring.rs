//! The bytes that a slow program on the host hasn't taken yet.

use std::io;
use std::os::fd::AsFd;

use super::credit::BUF_ALLOC;
use super::host::send;
use crate::devices::virtio::buffers::GuestBytes;

const SIZE: usize = BUF_ALLOC as usize;

/// A ring of [`BUF_ALLOC`] bytes, with no memory of its own before the first byte and after the last.
#[derive(Default)]
pub struct Ring {
    bytes: Option<Box<[u8]>>,
    start: usize,
    len: usize,
}

impl Ring {
    /// How many bytes are waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes `count` bytes of a guest's packet; the connection's credit has seen to it that there's
    /// room. What there's no room for would be left out.
    pub fn push(&mut self, from: &mut GuestBytes, count: usize) {
        let mut count = count.min(from.len()).min(SIZE - self.len);
        if count == 0 {
            return;
        }
        let bytes = self
            .bytes
            .get_or_insert_with(|| vec![0; SIZE].into_boxed_slice());
        while count > 0 {
            let end = (self.start + self.len) % SIZE;
            let part = count.min(SIZE - end);
            let taken = from.read(&mut bytes[end..end + part]);
            if taken == 0 {
                return;
            }
            self.len += taken;
            count -= taken;
        }
    }

    /// Writes what the socket takes; how many bytes, which may be fewer than it would take.
    pub fn flush(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let Some(bytes) = &self.bytes else {
            return Ok(0);
        };
        let first = self.len.min(SIZE - self.start);
        let piece = |at: usize, len: usize| libc::iovec {
            iov_base: bytes[at..at + len].as_ptr().cast_mut().cast(),
            iov_len: len,
        };
        let pieces = [piece(self.start, first), piece(0, self.len - first)];
        // SAFETY: both are in `bytes`, which outlives the call, and are only read.
        let done = unsafe { send(socket, &pieces)? };
        self.start = (self.start + done) % SIZE;
        self.len -= done.min(self.len);
        if self.len == 0 {
            self.clear();
        }
        Ok(done)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
