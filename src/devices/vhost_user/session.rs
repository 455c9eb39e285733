//! A connection to a back-end, from its first request to its rings at work.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::vhost::VhostBackend;
use ::vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use ::vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::eventfd::EventFd;

use super::limit::limited;
use super::rings;
use super::{MAX_QUEUES, VhostUserError};
use crate::devices::vhost::{self, Addresses, Ring, VhostError};
use crate::devices::virtio::Activation;

type Protocol = VhostUserProtocolFeatures;

/// How long a back-end may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For what belongs together: to introduce itself, to start its rings.
    pub answer: Duration,
    /// To stop its rings: the guest's processor that reset the device waits.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            answer: Duration::from_secs(10),
            stop: Duration::from_secs(5),
        }
    }
}

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What mote makes use of where the back-end has it.
fn wanted() -> Protocol {
    Protocol::MQ
        | Protocol::CONFIG
        | Protocol::REPLY_ACK
        | Protocol::INFLIGHT_SHMFD
        | Protocol::BACKEND_REQ
}

/// A back-end that has introduced itself.
pub struct Session {
    frontend: Frontend,
    socket: UnixStream,
    limits: Limits,
    /// The features that it offers for the device.
    pub features: u64,
    protocol: Protocol,
    /// How many queues it can serve; `None` if it didn't say.
    pub queues: Option<u64>,
    /// What it asks of mote.
    requests: Option<FrontendReqHandler<ConfigChange>>,
    changed: Arc<ConfigChange>,
}

/// The back-end's record of the requests in flight: the memory is its own, mote only keeps it for
/// its successor, and never looks inside.
pub struct Inflight {
    layout: VhostUserInflight,
    file: File,
}

#[derive(Default)]
struct ConfigChange(AtomicBool);

impl VhostUserFrontendReqHandler for ConfigChange {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.0.store(true, Ordering::SeqCst);
        Ok(0)
    }
}

fn asked(what: &'static str) -> impl FnOnce(::vhost::Error) -> VhostUserError {
    move |source| VhostUserError::Backend(VhostError { what, source })
}

impl Session {
    /// Lets the back-end introduce itself.
    pub fn open(
        socket: UnixStream,
        stop: Option<&EventFd>,
        limits: Limits,
    ) -> Result<Self, VhostUserError> {
        let ours = socket.try_clone().map_err(VhostUserError::Host)?;
        let frontend = Frontend::from_stream(socket, MAX_QUEUES.into());
        let mut session = Session {
            frontend,
            socket: ours.try_clone().map_err(VhostUserError::Host)?,
            limits,
            features: 0,
            protocol: Protocol::empty(),
            queues: None,
            requests: None,
            changed: Arc::default(),
        };
        limited(&ours, stop, limits.answer, || session.introduce())?;
        Ok(session)
    }

    fn introduce(&mut self) -> Result<(), VhostUserError> {
        let frontend = &mut self.frontend;
        self.features = frontend.get_features().map_err(asked("GET_FEATURES"))?;
        if self.features & (1 << VIRTIO_F_VERSION_1) == 0 {
            return Err(VhostUserError::Legacy);
        }
        if self.features & PROTOCOL_FEATURES != 0 {
            let offered = frontend.get_protocol_features();
            let offered = offered.map_err(asked("GET_PROTOCOL_FEATURES"))?;
            self.protocol = offered & wanted();
            // The back-end's requests may need a reply, which is sent by the same rules.
            frontend
                .set_protocol_features(self.protocol)
                .map_err(asked("SET_PROTOCOL_FEATURES"))?;
            if self.protocol.contains(Protocol::REPLY_ACK) {
                frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
            if self.protocol.contains(Protocol::MQ) {
                let queues = frontend.get_queue_num();
                self.queues = Some(queues.map_err(asked("GET_QUEUE_NUM"))?);
            }
        }
        frontend.set_owner().map_err(asked("SET_OWNER"))?;
        if self.protocol.contains(Protocol::BACKEND_REQ) {
            let requests = FrontendReqHandler::new(self.changed.clone());
            let mut requests = requests
                .map_err(::vhost::Error::from)
                .map_err(asked("a socket for its requests"))?;
            requests.set_reply_ack_flag(self.protocol.contains(Protocol::REPLY_ACK));
            frontend
                .set_backend_request_fd(&Descriptor(requests.get_tx_raw_fd()))
                .map_err(asked("SET_BACKEND_REQ_FD"))?;
            self.requests = Some(requests);
        }
        Ok(())
    }

    /// Whether it keeps a record of the requests in flight.
    pub fn has_inflight(&self) -> bool {
        self.protocol.contains(Protocol::INFLIGHT_SHMFD)
    }

    /// Whether it has a configuration space.
    pub fn has_config(&self) -> bool {
        self.protocol.contains(Protocol::CONFIG)
    }

    /// The first `len` bytes of the device's configuration space.
    pub fn read_config(
        &mut self,
        stop: Option<&EventFd>,
        len: usize,
    ) -> Result<Vec<u8>, VhostUserError> {
        let frontend = &mut self.frontend;
        let (buf, flags) = (vec![0; len], VhostUserConfigFlags::empty());
        limited(&self.socket, stop, self.limits.answer, || {
            let config = frontend.get_config(0, len as u32, flags, &buf);
            config.map(|(_, bytes)| bytes).map_err(asked("GET_CONFIG"))
        })
    }

    /// What the driver has written to the configuration space.
    pub fn write_config(
        &mut self,
        stop: &EventFd,
        offset: usize,
        data: &[u8],
    ) -> Result<(), VhostUserError> {
        let frontend = &mut self.frontend;
        limited(&self.socket, Some(stop), self.limits.answer, || {
            frontend
                .set_config(offset as u32, VhostUserConfigFlags::WRITABLE, data)
                .map_err(asked("SET_CONFIG"))
        })
    }

    /// Starts the rings, each at its place in `bases`. `inflight` is the record that an earlier
    /// back-end has left, or becomes this one's.
    pub fn start(
        &mut self,
        stop: &EventFd,
        activation: &Activation,
        bases: &[u16],
        inflight: &mut Option<Inflight>,
    ) -> Result<(), VhostUserError> {
        let socket = self.socket.try_clone().map_err(VhostUserError::Host)?;
        limited(&socket, Some(stop), self.limits.answer, || {
            self.start_rings(activation, bases, inflight)
        })
    }

    fn start_rings(
        &mut self,
        activation: &Activation,
        bases: &[u16],
        inflight: &mut Option<Inflight>,
    ) -> Result<(), VhostUserError> {
        let features = activation.features & self.features | self.features & PROTOCOL_FEATURES;
        vhost::set_up(&self.frontend, features, &activation.memory)?;
        if self.has_inflight() && !activation.queues.is_empty() {
            self.share_inflight(activation, inflight)?;
        }
        for (queue, base) in activation.queues.iter().zip(bases) {
            let ring = Ring {
                index: queue.index.into(),
                queue,
                base: *base,
                call: activation.interrupt.irqfd(),
            };
            vhost::set_ring(&self.frontend, &ring, &activation.memory, Addresses::Host)?;
        }
        // With protocol features a ring is disabled until it is said to be enabled; without, it
        // is enabled by its kick eventfd.
        if self.features & PROTOCOL_FEATURES != 0 {
            for queue in &activation.queues {
                self.frontend
                    .set_vring_enable(queue.index.into(), true)
                    .map_err(asked("SET_VRING_ENABLE"))?;
            }
        }
        Ok(())
    }

    fn share_inflight(
        &mut self,
        activation: &Activation,
        inflight: &mut Option<Inflight>,
    ) -> Result<(), VhostUserError> {
        let frontend = &mut self.frontend;
        if inflight.is_none() {
            let (queues, size) = rings::extent(&activation.queues);
            let (layout, file) = frontend
                .get_inflight_fd(&VhostUserInflight::new(0, 0, queues, size))
                .map_err(asked("GET_INFLIGHT_FD"))?;
            *inflight = Some(Inflight { layout, file });
        }
        if let Some(Inflight { layout, file }) = inflight {
            frontend
                .set_inflight_fd(layout, file.as_raw_fd())
                .map_err(asked("SET_INFLIGHT_FD"))?;
        }
        Ok(())
    }

    /// Stops the rings: after this the back-end does nothing more with guest memory. How far it has come in each.
    pub fn stop(&mut self, activation: &Activation) -> Result<Vec<u16>, VhostUserError> {
        let frontend = &self.frontend;
        limited(&self.socket, None, self.limits.stop, || {
            let ends = (activation.queues.iter())
                .map(|queue| vhost::stop_ring(frontend, queue.index.into()));
            Ok(ends.collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// What there is to read at [`Session::socket`], where there should be nothing.
    pub fn what_is_wrong(&self) -> VhostUserError {
        let (mut byte, flags) = (0u8, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        // SAFETY: a buffer of one byte.
        let read = unsafe { libc::recv(self.socket(), (&raw mut byte).cast(), 1, flags) };
        match read {
            1 => VhostUserError::Unasked,
            _ => VhostUserError::HungUp,
        }
    }

    /// Readable when the back-end has hung up, or says what it wasn't asked.
    pub fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Readable when the back-end asks something of mote; negative if it can't.
    pub fn requests(&self) -> RawFd {
        self.requests.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Has the back-end ask this, and then nothing more.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn hear(&self, bytes: &[u8]) {
        let Some(requests) = &self.requests else {
            return;
        };
        let socket = requests.get_tx_raw_fd();
        // SAFETY: the handler keeps its descriptor open; and bytes with their length.
        unsafe {
            libc::send(
                socket,
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
            );
            libc::shutdown(socket, libc::SHUT_WR);
        }
    }

    /// Answers one request of the back-end's. True if its configuration has changed.
    pub fn answer(&mut self, stop: &EventFd) -> Result<bool, VhostUserError> {
        let Some(requests) = &mut self.requests else {
            return Ok(false);
        };
        // SAFETY: the handler keeps its descriptor open, and lives longer than this.
        let socket = unsafe { BorrowedFd::borrow_raw(requests.as_raw_fd()) };
        let socket = socket.try_clone_to_owned().map_err(VhostUserError::Host)?;
        limited(&socket.into(), Some(stop), self.limits.answer, || {
            requests
                .handle_request()
                .map(|_| ())
                .map_err(::vhost::Error::from)
                .map_err(asked("a request of its own"))
        })?;
        Ok(self.changed.0.swap(false, Ordering::SeqCst))
    }
}

/// For [`VhostUserFrontend::set_backend_request_fd`].
struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
