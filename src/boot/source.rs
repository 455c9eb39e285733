//! Where a kernel's bytes come from: a file, read at offsets straight into guest memory, or
//! an unpacked kernel in host memory.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Bytes that can be read at any offset.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A file and its length in bytes, as `fstat` gave it.
    File(&'a File, u64),
    /// Bytes in host memory.
    Bytes(&'a [u8]),
}

impl Source<'_> {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Source::File(_, length) => *length,
            Source::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `buffer` from `offset` on; fewer bytes are an `UnexpectedEof` error.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Source::File(file, _) => file.read_exact_at(buffer, offset),
            Source::Bytes(bytes) => {
                buffer.copy_from_slice(part(bytes, offset, buffer.len())?);
                Ok(())
            }
        }
    }

    /// Reads up to `N` bytes from the start, fewer only where the source is shorter.
    pub fn head<const N: usize>(&self) -> io::Result<([u8; N], usize)> {
        let mut head = [0; N];
        let wanted = self.len().min(N as u64) as usize;
        self.read_exact_at(&mut head[..wanted], 0)?;
        Ok((head, wanted))
    }

    /// Copies `length` bytes from `offset` to the guest address `to`. From a file this is one
    /// `pread` into guest memory, with no buffer between.
    pub fn copy_to_guest(
        &self,
        offset: u64,
        length: usize,
        memory: &GuestMemoryMmap<()>,
        to: GuestAddress,
    ) -> io::Result<()> {
        match self {
            Source::File(file, _) => pread_to_guest(file, offset, length, memory, to),
            Source::Bytes(bytes) => memory
                .write_slice(part(bytes, offset, length)?, to)
                .map_err(io::Error::other),
        }
    }
}

/// `length` bytes of `bytes` from `offset` on.
fn part(bytes: &[u8], offset: u64, length: usize) -> io::Result<&[u8]> {
    usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(length)?))
        .ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// Reads `length` bytes of `file` from `offset` on into guest memory at `to`. Interrupted and
/// short reads (Linux reads at most 0x7fff_f000 bytes at once) are continued; the end of the
/// file before that is an `UnexpectedEof` error.
pub(super) fn pread_to_guest(
    file: &File,
    mut offset: u64,
    length: usize,
    memory: &GuestMemoryMmap<()>,
    to: GuestAddress,
) -> io::Result<()> {
    for slice in memory.get_slices(to, length) {
        let slice = slice.map_err(io::Error::other)?;
        let mut done = 0;
        while done < slice.len() {
            let rest = slice.offset(done).map_err(io::Error::other)?;
            let position = libc::off_t::try_from(offset)
                .map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
            let target = rest.ptr_guard_mut();
            // SAFETY: `rest` is `rest.len()` bytes of mapped guest memory that stays mapped
            // while `target` lives; guest memory is raw bytes, so that any value the kernel
            // writes is valid, and nothing in Rust holds a reference to it.
            let count = unsafe {
                libc::pread(
                    file.as_raw_fd(),
                    target.as_ptr().cast(),
                    rest.len(),
                    position,
                )
            };
            match count {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                1.. => {
                    done += count as usize;
                    offset += count as u64;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
    Ok(())
}
