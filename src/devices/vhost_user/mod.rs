//! Devices that another process serves (vhost-user): blk, fs, net.
//!
//! The back-end gets guest memory as file descriptors, and two eventfds per queue: the one that the
//! guest's driver kicks and the one that interrupts the guest. After that nothing of the data path
//! passes through mote. The protocol is that of QEMU's docs/interop/vhost-user.rst, spoken by the
//! `vhost` crate.
//!
//! - `peer`: how the back-end is reached, again and again
//! - [`passt`]: a back-end that mote starts itself
//! - `session`: one connection: introduction, rings, configuration
//! - `limit`: no request waits for ever
//! - `rings`: where a new back-end goes on
//! - `thread`: the thread that sets up, watches and reconnects
//! - [`kind`]: what blk, fs and net make of it
//!
//! The back-end introduces itself while the VM is built, since the features that the guest sees
//! are its own. Everything after that is on the device's thread:
//!
//! ```text
//!                DRIVER_OK                   rings started
//!   introduced -------------> starting ---------------------> at work
//!       ^                        |                               |
//!       |                        | stalls, hangs up, nonsense    | hangs up, nonsense
//!       |    reset: rings        v                               |
//!       |    stopped          away <------------------------------+
//!       |                        | there again, same features: introduced, and starting
//!       +------------------------+
//! ```

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod kind;
mod limit;
pub mod passt;
mod peer;
mod rings;
mod session;
mod thread;
mod wait;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::kind::Kind;
use self::passt::{Passt, PasstError};
use self::peer::Peer;
use self::session::{Limits, Session};
use self::thread::{Shared, Worker};
use super::vhost::VhostError;
use super::virtio::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use crate::metrics::Source;
use crate::sandbox::ThreadKind;
use crate::threads;

/// A size that every back-end seen so far takes.
const QUEUE_SIZE: u16 = 256;

const RING_FEATURES: u64 =
    (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_INDIRECT_DESC) | (1 << VIRTIO_RING_F_EVENT_IDX);

/// The most queues of a device.
pub const MAX_QUEUES: u16 = 64;

/// What a back-end did wrong, or the host refused.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// It refused something, hung up, or said something that makes no sense.
    #[error(transparent)]
    Backend(#[from] VhostError),
    /// It did not answer in time.
    #[error("it did not answer within {} s", .0.as_secs())]
    Stalled(Duration),
    /// It hung up.
    #[error("it hung up")]
    HungUp,
    /// It said something on its own account.
    #[error("it answers what it was not asked")]
    Unasked,
    /// It doesn't offer VIRTIO_F_VERSION_1.
    #[error("it offers no virtio 1 (VIRTIO_F_VERSION_1), only legacy virtio")]
    Legacy,
    /// A successor that can't do what the driver relies on.
    #[error("it lacks features that the guest's driver uses: {0:#x}")]
    Features(u64),
    /// It has too few queues.
    #[error("it has {0} queues, and {1} are needed")]
    Queues(u64, u64),
    /// It has no configuration space, which this device needs.
    #[error("it can't tell the device's configuration (VHOST_USER_PROTOCOL_F_CONFIG)")]
    NoConfig,
    /// Requests were in flight that nobody has a record of.
    #[error(
        "requests were in flight that the last back-end kept no record of \
         (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD), and its rings don't tell which are done"
    )]
    Unrecorded,
    /// The host refused something to mote.
    #[error("{0}")]
    Host(#[source] io::Error),
}

/// Why a vhost-user device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody is at the socket.
    #[error("{option}={path}: {source}; start the back-end first, or add `,server` to wait for it")]
    Connect {
        /// What the user wrote.
        option: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// mote can't listen there.
    #[error("{option}={path},server: can't listen there: {source}")]
    Listen {
        /// What the user wrote.
        option: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Who answered isn't a back-end for this device.
    #[error("{option}={path}: the back-end can't be used: {source}")]
    Backend {
        /// What the user wrote.
        option: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: VhostUserError,
    },
}

/// Where a device's back-end is, and how the user has said so.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// For messages: "--disk vhost-user".
    pub option: &'static str,
    /// The socket.
    pub path: &'a Path,
    /// mote listens.
    pub server: bool,
}

/// A virtio device that a back-end serves.
pub struct VhostUserDevice<K: Kind> {
    name: String,
    kind: Arc<K>,
    features: u64,
    ring_features: u64,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    /// The thread keeps it locked while it runs.
    link: Arc<Mutex<Link>>,
    on_lost: Option<OnLost>,
    thread: Option<(JoinHandle<()>, Arc<EventFd>)>,
}

/// The way to the back-end, and the connection if there is one.
struct Link {
    /// Before the peer, which may be a program that ends when its client hangs up.
    session: Option<Session>,
    peer: Peer,
    limits: Limits,
    /// How long to wait before the next attempt. Resets don't shorten it: a guest that has each
    /// back-end hang up at once must not have them come, or be started, as fast as it likes.
    delay: Duration,
}

/// Called on the device's thread when a back-end at work is lost. Must not block.
pub type OnLost = Arc<dyn Fn() + Send + Sync>;

impl Link {
    /// The peer, for messages.
    fn path(&self) -> std::path::Display<'_> {
        self.peer.path().display()
    }
}

impl<K: Kind> VhostUserDevice<K> {
    /// Connects to the back-end, or waits for it if mote is the server, and has it introduce
    /// itself. That can take for ever with a server, and 10 s with a back-end that says nothing.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(name: &str, kind: K, place: Place) -> Result<Self, ConnectError> {
        Self::connect_within(name, kind, place, Limits::default())
    }

    fn connect_within(
        name: &str,
        kind: K,
        place: Place,
        limits: Limits,
    ) -> Result<Self, ConnectError> {
        let Place {
            option,
            path,
            server,
        } = place;
        let mut peer = Peer::new(path, server).map_err(|source| {
            let path = path.to_owned();
            match server {
                true => ConnectError::Listen {
                    option,
                    path,
                    source,
                },
                false => ConnectError::Connect {
                    option,
                    path,
                    source,
                },
            }
        })?;
        if server {
            log::info!("{name}: waiting for a back-end at {}", path.display());
        }
        let socket = peer.connect().map_err(|source| ConnectError::Connect {
            option,
            path: path.to_owned(),
            source,
        })?;
        match Introduced::new(name, kind, socket, limits) {
            Ok(introduced) => Ok(introduced.device(peer, limits)),
            Err(source) => Err(ConnectError::Backend {
                option,
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Says who else wants to know when a back-end is lost.
    pub fn on_lost(mut self, on_lost: Option<OnLost>) -> Self {
        self.on_lost = on_lost;
        self
    }

    /// Starts a passt for it.
    ///
    /// # Errors
    ///
    /// See [`PasstError`].
    pub fn start(name: &str, kind: K, mut passt: Passt) -> Result<Self, PasstError> {
        let path = passt.path().to_owned();
        let limits = Limits::default();
        let socket = match passt.connect() {
            Ok(socket) => socket,
            Err(source) => return Err(PasstError::Start { path, source }),
        };
        match Introduced::new(name, kind, socket, limits) {
            Ok(introduced) => Ok(introduced.device(Peer::Passt(passt), limits)),
            Err(source) => Err(PasstError::Useless {
                path,
                source,
                said: passt.complaint(),
            }),
        }
    }
}

/// A device whose back-end has introduced itself.
struct Introduced<K> {
    name: String,
    kind: K,
    session: Session,
    queues: u16,
    config: Vec<u8>,
    wake: EventFd,
}

impl<K: Kind> Introduced<K> {
    fn new(
        name: &str,
        mut kind: K,
        socket: UnixStream,
        limits: Limits,
    ) -> Result<Self, VhostUserError> {
        let mut session = Session::open(socket, None, limits)?;
        let config = thread::read_config(&mut session, &kind, None)?;
        let queues = kind.settle(session.features, session.queues, &config)?;
        Ok(Introduced {
            name: name.to_owned(),
            queues,
            config: kind.config(&config),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(VhostUserError::Host)?,
            kind,
            session,
        })
    }

    fn device(self, peer: Peer, limits: Limits) -> VhostUserDevice<K> {
        let Introduced { kind, session, .. } = self;
        let offered = session.features;
        VhostUserDevice {
            features: offered & kind.backend_features() | kind.own_features(),
            ring_features: offered & RING_FEATURES,
            queue_sizes: vec![QUEUE_SIZE; self.queues.into()],
            shared: Arc::new(Shared::new(&self.name, self.config, self.wake)),
            kind: Arc::new(kind),
            link: Arc::new(Mutex::new(Link {
                peer,
                limits,
                session: Some(session),
                delay: Duration::ZERO,
            })),
            on_lost: None,
            thread: None,
            name: self.name,
        }
    }
}

impl<K: Kind> VirtioDevice for VhostUserDevice<K> {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u32 {
        K::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn ring_features(&self) -> u64 {
        self.ring_features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.shared.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.kind.may_write(offset, data.len()) {
            self.shared.write_config(offset, data);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |source| ActivateError::Host {
            what: format!("starting {}", self.name),
            source,
        };
        let stop = Arc::new(EventFd::new(EFD_CLOEXEC).map_err(failed)?);
        let worker = Worker {
            kind: self.kind.clone(),
            shared: self.shared.clone(),
            stop: stop.clone(),
            activation,
            on_lost: self.on_lost.clone(),
        };
        let link = self.link.clone();
        let name = format!("mote-{}", self.name);
        let serve = move || worker.run(&mut link.lock().unwrap_or_else(PoisonError::into_inner));
        let handle = threads::spawn(ThreadKind::VhostUser, &name, serve);
        let handle = handle.map_err(|source| ActivateError::Thread { name, source })?;
        self.thread = Some((handle, stop));
        Ok(())
    }

    fn reset(&mut self) {
        let Some((handle, stop)) = self.thread.take() else {
            return;
        };
        let _ = stop.write(1); // of a counter that nobody else writes
        if handle.join().is_err() {
            log::error!("thread mote-{} has panicked", self.name);
            assert!(
                !cfg!(test) || std::thread::panicking(),
                "a device's thread has panicked"
            );
        }
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.shared.clone())
    }
}

impl<K: Kind> Drop for VhostUserDevice<K> {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests;
