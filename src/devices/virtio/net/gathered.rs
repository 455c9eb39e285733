//! Chains that the driver has made available to receive packets, taken from the queue before it is
//! known how many of them a packet fills.

use std::collections::VecDeque;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::tap::HEADER;
use crate::devices::virtio::buffers::ChainError;
use crate::devices::virtio::queue::Chain;

/// Pieces of guest memory in one chain. A page each makes 17 for the largest packet.
pub const MAX_PIECES: usize = 256;
/// Pieces in one system call (IOV_MAX).
const MOST_PIECES: usize = 1024;

/// The gathered chains, in order, and their memory as one row of pieces.
pub struct Gathered {
    /// Keeps what the pieces point to mapped.
    memory: GuestMemoryMmap<()>,
    chains: VecDeque<Waiting>,
    pieces: Vec<libc::iovec>,
    /// The first piece of the first chain.
    first: usize,
    room: usize,
}

// SAFETY: the pieces point to guest memory, which `memory` keeps mapped on whichever thread.
unsafe impl Send for Gathered {}

struct Waiting {
    head: u16,
    pieces: u16,
    bytes: u32,
}

impl Gathered {
    /// None yet; there will be at most `most` chains.
    pub fn new(memory: &GuestMemoryMmap<()>, most: u16) -> Self {
        Self {
            memory: memory.clone(),
            chains: VecDeque::with_capacity(most.into()),
            // The row moves to the front again when it has come half way.
            pieces: Vec::with_capacity(2 * MOST_PIECES),
            first: 0,
            room: 0,
        }
    }

    /// How many chains there are.
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Bytes that all chains hold.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Bytes that the first chain holds, if there is one.
    pub fn first_room(&self) -> Option<usize> {
        self.chains.front().map(|chain| chain.bytes as usize)
    }

    /// Whether any chain will still fit.
    pub fn can_take(&self) -> bool {
        self.pieces.len() - self.first <= MOST_PIECES - MAX_PIECES
    }

    /// Adds a chain, for which [`can_take`](Self::can_take) has said that it fits.
    ///
    /// # Errors
    ///
    /// It's broken, not in guest memory, in too many pieces, has something to read, or has no
    /// room for the header (virtio 1.3 §5.1.6.3.1).
    pub fn take(&mut self, chain: Chain) -> Result<(), ReceiveError> {
        if self.first >= MOST_PIECES || self.first == self.pieces.len() {
            self.pieces.drain(..self.first);
            self.first = 0;
        }
        let head = chain.head_index();
        let start = self.pieces.len();
        let (mut bytes, mut count, mut ended) = (0u64, 0, false);
        for descriptor in chain {
            if !descriptor.is_write_only() {
                return Err(ReceiveError::Readable { head });
            }
            count += 1;
            // Empty buffers have no pieces, so those don't bound their number.
            if count > MAX_PIECES {
                return Err(ReceiveError::Pieces { head });
            }
            ended = !descriptor.has_next();
            let (address, len) = (descriptor.addr(), descriptor.len());
            for slice in self.memory.get_slices(address, len as usize) {
                let Ok(slice) = slice else {
                    let address = address.0;
                    return Err(ChainError::Memory { head, address, len }.into());
                };
                if self.pieces.len() - start == MAX_PIECES {
                    return Err(ReceiveError::Pieces { head });
                }
                self.pieces.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
            bytes += u64::from(len);
        }
        // The iterator ends in silence at anything that it doesn't like.
        if !ended {
            return Err(ChainError::Broken { head, count }.into());
        }
        if bytes < HEADER as u64 {
            return Err(ReceiveError::Short { head, bytes });
        }
        // The crate's iterator ends a chain of more than 4 GiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.room += bytes as usize;
        self.chains.push_back(Waiting {
            head,
            pieces: (self.pieces.len() - start) as u16,
            bytes,
        });
        Ok(())
    }

    /// The pieces of all chains.
    pub fn pieces(&self) -> &[libc::iovec] {
        &self.pieces[self.first..]
    }

    /// The pieces of the first chain.
    pub fn first_pieces(&self) -> &[libc::iovec] {
        let count = self.chains.front().map_or(0, |chain| chain.pieces.into());
        &self.pieces[self.first..self.first + count]
    }

    /// How many chains `bytes` bytes fill.
    pub fn count_for(&self, bytes: usize) -> u16 {
        let (mut count, mut rest) = (0, bytes);
        for chain in &self.chains {
            if rest == 0 {
                break;
            }
            count += 1;
            rest = rest.saturating_sub(chain.bytes as usize);
        }
        count
    }

    /// Takes away the chains that `bytes` bytes fill; each chain's head and part of the bytes go to
    /// `used`.
    pub fn consume(&mut self, bytes: usize, used: &mut Vec<(u16, u32)>) {
        used.clear();
        let mut rest = bytes;
        while rest > 0
            && let Some(chain) = self.chains.pop_front()
        {
            let part = rest.min(chain.bytes as usize);
            used.push((chain.head, part as u32));
            self.first += usize::from(chain.pieces);
            self.room -= chain.bytes as usize;
            rest -= part;
        }
    }

    /// Copies from the chains' memory, `at` bytes after its start.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        let mut done = 0;
        self.each(at, data.len(), |piece| {
            done += piece.copy_to(&mut data[done..]);
        });
    }

    /// Copies into the chains' memory, `at` bytes after its start.
    pub fn write(&self, at: usize, data: &[u8]) {
        let mut done = 0;
        self.each(at, data.len(), |piece| {
            piece.copy_from(&data[done..]);
            done += piece.len();
        });
    }

    /// The pieces that hold `len` bytes from `at` on, as far as there are that many.
    fn each(&self, at: usize, len: usize, mut visit: impl FnMut(VolatileSlice)) {
        let (mut skip, mut rest) = (at, len);
        for piece in self.pieces() {
            if rest == 0 {
                break;
            }
            let offset = skip.min(piece.iov_len);
            skip -= offset;
            let len = (piece.iov_len - offset).min(rest);
            if len == 0 {
                continue;
            }
            rest -= len;
            let start = piece.iov_base.cast::<u8>().wrapping_add(offset);
            // SAFETY: the piece came from `memory`, which stays mapped while `self` lives, and
            // `offset + len` is at most its length. Others may access it at the same time, which
            // is what a `VolatileSlice` is for.
            visit(unsafe { VolatileSlice::new(start, len) });
        }
    }
}

/// How a driver got a buffer for packets wrong.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// As any chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The device is to read from it.
    #[error("descriptor chain {head} of a receive queue has a readable buffer")]
    Readable {
        /// The chain's first descriptor.
        head: u16,
    },
    /// Too many pieces.
    #[error("descriptor chain {head} of a receive queue has more than {MAX_PIECES} pieces")]
    Pieces {
        /// The chain's first descriptor.
        head: u16,
    },
    /// No room for the header.
    #[error("descriptor chain {head} of a receive queue has {bytes} bytes: no room for a header")]
    Short {
        /// The chain's first descriptor.
        head: u16,
        /// How many.
        bytes: u64,
    },
}
