//! virtio-vsock (virtio 1.3 §5.10): streams between programs in the guest and on the host.
//!
//! [`VsockDevice`] serves them through Unix sockets, with no privileges; [`KernelVsock`] leaves all
//! to the host's kernel (vhost-vsock), where programs on the host then use AF_VSOCK.
//!
//! - `host`: the Unix sockets, and the line that a program begins with
//! - `packet`: headers
//! - `credit`: who may send how much
//! - `ring`: what a slow program hasn't taken yet
//! - `connection`: one connection, from its first packet to its last
//! - `table`: all of them, by ports and by token
//! - `muxer`: the thread
//! - `kernel`: vhost-vsock
//!
//! Packets are parsed here and not by the virtio-vsock crate, since that wants all of a packet's data in
//! one descriptor; a driver may cut its buffers as it likes (§2.7.4.1), and Linux does.
//!
//! SEQPACKET is not offered: Unix sockets of that type are another convention, which no tool has.

mod connection;
mod counts;
mod credit;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod host;
pub mod kernel;
mod muxer;
mod packet;
mod ring;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use crate::metrics::Source;
use crate::sandbox::ThreadKind;
use crate::threads;
use counts::Counts;
pub use host::OwnPort;
use host::SocketFile;
pub use kernel::KernelVsock;
use muxer::{Given, Muxer};

/// The most connections at once, where the limit on open files allows it. Each has a descriptor, and up to 64 KiB of memory while its
/// program doesn't take what the guest sends.
pub const MAX_CONNECTIONS: usize = 4096;

/// Descriptors that connections leave to the rest of the process.
const OTHER_DESCRIPTORS: u64 = 256;

/// How long a program on the host has from its connection until the guest has accepted it.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Receive, transmit and event queue. Linux fills the first with buffers of 4 KiB.
const QUEUE_SIZES: [u16; 3] = [128, 128, 16];

/// VIRTIO_VSOCK_F_STREAM (§5.10.3). Linux doesn't know the bit, and takes it for granted.
const F_STREAM: u64 = 1 << 0;

/// The thread's name, and its stack.
const THREAD: &str = "mote-vsock";
/// What a device allows.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once.
    connections: usize,
    /// From a program's connection until the guest has accepted it.
    handshake: Duration,
}

/// Why there can be no vsock device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The Unix socket can't be made.
    #[error("--vsock socket={}: {source}", path.display())]
    Bind {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Someone listens there.
    #[error("--vsock socket={}: in use; is another VM running with it?", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("--vsock socket={}: is there already, and is not a socket; give another path", .0.display())]
    NotASocket(PathBuf),
    /// The host has no vhost-vsock, or not for this user.
    #[error(
        "--vsock vhost: /dev/vhost-vsock: {0}; load the module (modprobe vhost_vsock) and see to it that \
         you may open the file, or use socket=PATH"
    )]
    NoVhost(io::Error),
    /// Another VM has the CID.
    #[error("--vsock cid={0}: in use by another VM on this host; give another cid")]
    CidInUse(u32),
    /// The host's kernel refused something.
    #[error("--vsock vhost: {what}: {source}")]
    Vhost {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The host refused an event file descriptor.
    #[error("--vsock: making an event file descriptor: {0}")]
    Event(io::Error),
}

impl VsockError {
    /// Whether it's the host that lacks something, rather than the user who asked for what can't be.
    pub fn is_hosts(&self) -> bool {
        matches!(self, Self::NoVhost(_) | Self::Vhost { .. } | Self::Event(_))
    }
}

/// A vsock device whose connections lead to Unix sockets.
pub struct VsockDevice {
    cid: u32,
    limits: Limits,
    socket: Arc<SocketFile>,
    counts: Arc<Counts>,
    transport_reset: Arc<EventFd>,
    erred: Arc<AtomicBool>,
    thread: Option<(JoinHandle<()>, Arc<EventFd>)>,
}

impl VsockDevice {
    /// Makes the socket `path`, if one is given, and a device for the guest with this CID. Programs may connect from
    /// now on; they are served once the guest's driver is ready. Connections of the guest's to the port `own`
    /// come to this process itself.
    ///
    /// # Errors
    ///
    /// The socket can't be made.
    pub fn new(cid: u32, path: Option<&Path>, own: Option<OwnPort>) -> Result<Self, VsockError> {
        let limits = Limits {
            connections: connection_limit(),
            handshake: HANDSHAKE,
        };
        let mut socket = match path {
            Some(path) => SocketFile::bind(path)?,
            None => SocketFile::default(),
        };
        socket.own = own;
        Self::with_limits(cid, socket, limits)
    }

    fn with_limits(cid: u32, socket: SocketFile, limits: Limits) -> Result<Self, VsockError> {
        Ok(Self {
            cid,
            limits,
            socket: Arc::new(socket),
            counts: Arc::default(),
            transport_reset: Arc::new(EventFd::new(EFD_CLOEXEC).map_err(VsockError::Event)?),
            erred: Arc::default(),
            thread: None,
        })
    }

    /// A write to this ends all connections, and has the guest told (§5.10.6.7): for whoever has
    /// moved the guest, or brought it back from a copy.
    pub fn transport_reset(&self) -> Arc<EventFd> {
        self.transport_reset.clone()
    }
}

/// [`MAX_CONNECTIONS`], or as many as this process may have descriptors for.
fn connection_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a struct that lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return MAX_CONNECTIONS;
    }
    let spare = limit.rlim_cur.saturating_sub(OTHER_DESCRIPTORS);
    usize::try_from(spare).map_or(MAX_CONNECTIONS, |spare| spare.clamp(16, MAX_CONNECTIONS))
}

impl VirtioDevice for VsockDevice {
    fn name(&self) -> &str {
        "vsock"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |source| ActivateError::Host {
            what: "making an event file descriptor".to_owned(),
            source,
        };
        let stop = Arc::new(EventFd::new(EFD_CLOEXEC).map_err(failed)?);
        let given = Given {
            cid: self.cid.into(),
            limits: self.limits,
            socket: self.socket.clone(),
            counts: self.counts.clone(),
            stop: stop.clone(),
            transport_reset: self.transport_reset.clone(),
            erred: self.erred.clone(),
        };
        let serve = move || Muxer::run(given, activation);
        let thread = threads::spawn(ThreadKind::Vsock, THREAD, serve);
        let thread = thread.map_err(|source| ActivateError::Thread {
            name: THREAD.to_owned(),
            source,
        })?;
        self.thread = Some((thread, stop));
        Ok(())
    }

    /// All connections end with the thread.
    fn reset(&mut self) {
        let Some((thread, stop)) = self.thread.take() else {
            return;
        };
        if let Err(error) = stop.write(1) {
            log::error!("stopping thread {THREAD}: {error}");
        }
        if thread.join().is_err() {
            log::error!("thread {THREAD} has panicked");
            assert!(!cfg!(test) || std::thread::panicking(), "it has panicked");
        }
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.counts.clone())
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.reset();
    }
}
