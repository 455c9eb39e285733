//! A tap at work: one open queue of it (Linux Documentation/networking/tuntap.rst).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The header before each packet (virtio 1.3 §5.1.6.1), which the tap reads and writes itself.
pub const HEADER: usize = 12;

/// The offloads that the kernel may ask a receiver to do (TUNSETOFFLOAD).
pub mod offload {
    /// Packets whose checksum isn't filled in. All others need it.
    pub const CSUM: u32 = libc::TUN_F_CSUM;
    /// TCP over IPv4 in large pieces.
    pub const TSO4: u32 = libc::TUN_F_TSO4;
    /// TCP over IPv6 in large pieces.
    pub const TSO6: u32 = libc::TUN_F_TSO6;
    /// The same with ECN.
    pub const ECN: u32 = libc::TUN_F_TSO_ECN;
    /// Fragments of UDP in one.
    pub const UFO: u32 = libc::TUN_F_UFO;
    /// Many datagrams of UDP in one. The kernel takes both bits or none.
    pub const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
}

/// One open queue of a tap, or of a macvtap. Reads and writes don't block.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// Whether packets come and go with a header in front.
    header: bool,
    /// Whether the kernel hands packets to this queue.
    attached: AtomicBool,
    /// False for what tests use instead of a tap: it takes packets but no ioctls.
    real: bool,
}

impl Tap {
    pub(super) fn new(file: File, header: bool) -> Self {
        Self {
            file,
            header,
            attached: AtomicBool::new(true),
            real: true,
        }
    }

    /// Its descriptor.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    /// A socket that keeps packets apart, as a tap does.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn fake(socket: std::os::unix::net::UnixDatagram, header: bool) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self {
            file: File::from(std::os::fd::OwnedFd::from(socket)),
            header,
            attached: AtomicBool::new(true),
            real: false,
        }
    }

    /// Whether packets come and go with a header of [`HEADER`] bytes.
    pub fn has_header(&self) -> bool {
        self.header
    }

    /// The descriptor, for the kernel's vhost-net.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Sets how long the header is.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn set_header_length(&self) -> io::Result<()> {
        let length = HEADER as libc::c_int;
        self.ioctl(
            libc::TUNSETVNETHDRSZ,
            (&raw const length).addr() as libc::c_ulong,
        )
    }

    /// What the guest's side can receive; holds for all queues of the tap.
    ///
    /// # Errors
    ///
    /// The kernel doesn't know one of the bits.
    pub fn set_offload(&self, bits: u32) -> io::Result<()> {
        self.ioctl(libc::TUNSETOFFLOAD, bits.into())
    }

    /// Has the kernel hand packets to this queue of a multi-queue tap, or not any more.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn attach(&self, attached: bool) -> io::Result<()> {
        if self.attached.load(Ordering::Acquire) == attached {
            return Ok(());
        }
        let flag = match attached {
            true => libc::IFF_ATTACH_QUEUE,
            false => libc::IFF_DETACH_QUEUE,
        };
        // SAFETY: all zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = flag as libc::c_short;
        self.ioctl(
            libc::TUNSETQUEUE,
            (&raw const request).addr() as libc::c_ulong,
        )?;
        self.attached.store(attached, Ordering::Release);
        Ok(())
    }

    /// Whether the host sees the cable plugged in; it hands over no packets where it isn't.
    ///
    /// # Errors
    ///
    /// The kernel is older than 5.0, or it's a macvtap.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        let on = libc::c_int::from(on);
        self.ioctl(libc::TUNSETCARRIER, (&raw const on).addr() as libc::c_ulong)
    }

    /// Receives one packet into the pieces; how many bytes, at most as many as they hold.
    ///
    /// # Errors
    ///
    /// There is none at the moment (`WouldBlock`), or the tap is gone.
    ///
    /// # Safety
    ///
    /// The pieces are memory that may be written, for as long as the call takes.
    pub unsafe fn receive(&self, pieces: &[libc::iovec]) -> io::Result<usize> {
        let count = pieces.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        // SAFETY: the caller's promise; the count is that of the pieces, or less.
        let result = unsafe { libc::readv(self.file.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the pieces as one packet.
    ///
    /// # Errors
    ///
    /// The tap is full (`WouldBlock`), down (`EIO`) or gone, or doesn't understand the packet.
    ///
    /// # Safety
    ///
    /// The pieces are memory that may be read, for as long as the call takes.
    pub unsafe fn send(&self, pieces: &[libc::iovec]) -> io::Result<usize> {
        let count = pieces.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        // SAFETY: the caller's promise; the count is that of the pieces, or less.
        let result = unsafe { libc::writev(self.file.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    fn ioctl(&self, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<()> {
        if !self.real {
            return Ok(());
        }
        // SAFETY: private: every caller above passes a number, or the address of a value of the
        // type that the request asks for, which outlives the call.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
