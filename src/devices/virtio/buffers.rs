//! Descriptor chains as byte streams over guest memory.
//!
//! The driver may cut its buffers wherever it likes (virtio 1.3 §2.7.4), so a device reads and
//! writes streams and never sees a descriptor. The pieces are kept as `iovec`s: a file or a
//! socket reads and writes guest memory directly, without a copy.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::queue::Chain;

/// The longest chain that is served, in descriptors. A driver must not make one longer than
/// the queue (§2.7.5.2); Linux does, by indirect tables, when it chose a small queue.
pub const MAX_CHAIN: usize = 1024;

/// The most pieces that one system call takes (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// How a driver got a descriptor chain wrong.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The chain stops in the middle: a loop, an index beyond the table, a table that isn't in
    /// guest memory, an indirect descriptor in an indirect table, more than 4 GiB.
    #[error("descriptor chain {head} is broken after {count} descriptors")]
    Broken {
        /// The chain's first descriptor.
        head: u16,
        /// How many were good.
        count: usize,
    },
    /// More than [`MAX_CHAIN`] descriptors.
    #[error("descriptor chain {head} is longer than {MAX_CHAIN}")]
    TooLong {
        /// The chain's first descriptor.
        head: u16,
    },
    /// A buffer for the device to read follows one to write (§2.7.4.2).
    #[error("descriptor chain {head} has a readable buffer after a writable one")]
    Order {
        /// The chain's first descriptor.
        head: u16,
    },
    /// A buffer isn't in guest memory, or not all of it.
    #[error("descriptor chain {head}: {len:#x} bytes at {address:#x} are not in guest memory")]
    Memory {
        /// The chain's first descriptor.
        head: u16,
        /// The buffer's guest address.
        address: u64,
        /// The buffer's length.
        len: u32,
    },
    /// There's no room to say how the request went.
    #[error("a request has no writable byte for its status")]
    NoStatus,
    /// Nothing is wrong with it; it just won't be answered any more.
    #[error("the queue was stopped before the request was served")]
    Stopped,
}

/// The buffers of one chain. Made once per thread and loaded again for each chain, so that
/// nothing is allocated while a queue is served.
pub struct Buffers {
    /// What the device may read.
    pub readable: GuestBytes,
    /// What the device may write.
    pub writable: GuestBytes,
    /// What [`split_tail`](Self::split_tail) took from the end of `writable`.
    pub tail: GuestBytes,
}

impl Buffers {
    /// No buffers yet.
    pub fn new(memory: &GuestMemoryMmap<()>) -> Self {
        Self {
            readable: GuestBytes::new(memory),
            writable: GuestBytes::new(memory),
            tail: GuestBytes::new(memory),
        }
    }

    /// Takes the buffers of `chain`. Each descriptor is read from guest memory once.
    ///
    /// # Errors
    ///
    /// See [`ChainError`]; the buffers are then of no use.
    pub fn load(&mut self, chain: Chain) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        self.tail.clear();
        let head = chain.head_index();
        let mut count = 0;
        let mut ended = false;
        let mut writable = false;
        for descriptor in chain {
            if count == MAX_CHAIN {
                return Err(ChainError::TooLong { head });
            }
            count += 1;
            ended = !descriptor.has_next();
            let bytes = match (descriptor.is_write_only(), writable) {
                (true, _) => &mut self.writable,
                (false, false) => &mut self.readable,
                (false, true) => return Err(ChainError::Order { head }),
            };
            writable = descriptor.is_write_only();
            let (address, len) = (descriptor.addr(), descriptor.len());
            if !bytes.push(address, len as usize) {
                let address = address.0;
                return Err(ChainError::Memory { head, address, len });
            }
        }
        // The iterator ends in silence at anything that it doesn't like.
        match ended {
            true => Ok(()),
            false => Err(ChainError::Broken { head, count }),
        }
    }

    /// Moves the last `count` bytes of `writable` to `tail`; false if there are fewer.
    pub fn split_tail(&mut self, count: usize) -> bool {
        self.writable.split_tail(count, &mut self.tail)
    }
}

/// A stream of bytes in guest memory, consumed from the front.
pub struct GuestBytes {
    /// Keeps what the pieces point to mapped.
    memory: GuestMemoryMmap<()>,
    pieces: Vec<libc::iovec>,
    /// The first piece that isn't consumed.
    first: usize,
    len: usize,
}

// SAFETY: the pieces point to guest memory, which `memory` keeps mapped on whichever thread.
unsafe impl Send for GuestBytes {}

impl GuestBytes {
    fn new(memory: &GuestMemoryMmap<()>) -> Self {
        Self {
            memory: memory.clone(),
            pieces: Vec::new(),
            first: 0,
            len: 0,
        }
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.first = 0;
        self.len = 0;
    }

    /// Adds a piece of guest memory (several, where it crosses from one region into the next).
    fn push(&mut self, address: GuestAddress, len: usize) -> bool {
        for slice in self.memory.get_slices(address, len) {
            let Ok(slice) = slice else {
                return false;
            };
            self.pieces.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.len += len;
        true
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left, for a system call; at most as many pieces as it takes.
    ///
    /// The pointers are good for as long as this is borrowed. The guest may change the bytes
    /// at any time: they are for the kernel, not for references.
    pub fn iovecs(&self) -> &[libc::iovec] {
        let rest = &self.pieces[self.first..];
        &rest[..rest.len().min(IOV_MAX)]
    }

    /// Lends the first `limit` bytes of what is left (or fewer: see [`iovecs`](Self::iovecs)) to a
    /// system call. Nothing is consumed.
    pub fn lend<T>(&mut self, limit: usize, call: impl FnOnce(&[libc::iovec]) -> T) -> T {
        let (mut end, mut cut) = (self.first, 0);
        let mut rest = limit;
        while let Some(piece) = self.pieces.get(end)
            && rest > 0
        {
            end += 1;
            cut = piece.iov_len.saturating_sub(rest);
            rest -= piece.iov_len.min(rest);
        }
        let last = end.wrapping_sub(1);
        if cut > 0 {
            self.pieces[last].iov_len -= cut;
        }
        let lent = &self.pieces[self.first..end];
        let result = call(&lent[..lent.len().min(IOV_MAX)]);
        if cut > 0 {
            self.pieces[last].iov_len += cut;
        }
        result
    }

    /// Whether every piece that's left starts at a multiple of `address` bytes and is a
    /// multiple of `length` bytes long.
    pub fn is_aligned(&self, address: usize, length: usize) -> bool {
        let mut pieces = self.pieces[self.first..].iter();
        pieces.all(|p| p.iov_base.addr() % address == 0 && p.iov_len % length == 0)
    }

    /// Consumes `count` bytes (all, if there are fewer).
    pub fn advance(&mut self, count: usize) {
        let mut count = count.min(self.len);
        self.len -= count;
        while let Some(piece) = self.pieces.get_mut(self.first) {
            if count < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(count);
                piece.iov_len -= count;
                return;
            }
            count -= piece.iov_len;
            self.first += 1;
        }
    }

    /// Copies bytes out and consumes them; how many there were.
    pub fn read(&mut self, data: &mut [u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(piece) = self.front() else { break };
            let count = piece.copy_to(&mut data[done..]);
            self.advance(count);
            done += count;
        }
        done
    }

    /// Copies bytes in and consumes their place; how many there was room for.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(piece) = self.front() else { break };
            let count = piece.len().min(data.len() - done);
            piece.copy_from(&data[done..]);
            self.advance(count);
            done += count;
        }
        done
    }

    /// The first piece with something in it.
    fn front(&mut self) -> Option<VolatileSlice<'_>> {
        if self.len == 0 {
            return None;
        }
        // Skips pieces of zero bytes.
        self.advance(0);
        let piece = self.pieces.get(self.first)?;
        // SAFETY: each piece came from `memory` (`push`) or from a `GuestBytes` with the same
        // memory (`split_tail`), which stays mapped while `self` lives; `advance` and
        // `split_tail` only ever make pieces shorter. Other threads and the guest may access it
        // at the same time, which is what a `VolatileSlice` is for.
        Some(unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) })
    }

    /// Moves the last `count` bytes to `tail`, which has none left. Private, as both must be of one
    /// guest's memory.
    fn split_tail(&mut self, count: usize, tail: &mut Self) -> bool {
        if count > self.len {
            return false;
        }
        tail.clear(); // of the pieces that were consumed
        let mut rest = count;
        while rest > 0 && self.pieces.len() > self.first {
            let at = self.pieces.len() - 1;
            let piece = &mut self.pieces[at];
            if piece.iov_len <= rest {
                rest -= piece.iov_len;
                tail.pieces.extend(self.pieces.pop());
            } else {
                piece.iov_len -= rest;
                tail.pieces.push(libc::iovec {
                    iov_base: piece.iov_base.wrapping_byte_add(piece.iov_len),
                    iov_len: rest,
                });
                rest = 0;
            }
        }
        tail.pieces.reverse();
        tail.len = count;
        self.len -= count;
        true
    }
}

#[cfg(test)]
mod tests;
