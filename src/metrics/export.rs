//! Shows a VM's metrics to other programs while it runs: in a file, and on a Unix socket.
//!
//! One thread does both. It sleeps until it's time for the file or somebody connects; it asks the
//! sources only then, so that a VM whose metrics nobody reads does nothing for them.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::Registry;
use super::client::Client;
use super::target::Target;
use crate::config;
use crate::polling::{poll, polled, raw};
use crate::sandbox::ThreadKind;
pub use crate::sockets::ListenError;
use crate::sockets::{Made, listen};
use crate::threads::Member;

/// The most peers that are served at once; further ones wait to be accepted.
const MAX_CLIENTS: usize = 16;

/// How long peers wait where the host has no descriptor for one.
const PAUSE: Duration = Duration::from_millis(500);

/// Why metrics can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file can't be written.
    #[error("--metrics file={path}: {source}", path = path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// What the system call said.
        source: io::Error,
    },
    /// The socket can't be made.
    #[error("--metrics unix={path}: {source}", path = path.display())]
    Socket {
        /// As given.
        path: PathBuf,
        /// Why.
        source: ListenError,
    },
    /// The host refused an event, a timer, or the thread.
    #[error("--metrics: {0}")]
    Host(#[from] io::Error),
}

/// Where metrics are shown, before the VM runs. What can be wrong with a path is found here.
pub struct Exporter {
    file: Option<(Target, Duration)>,
    listener: Option<UnixListener>,
    made: Option<Made>,
}

impl Exporter {
    /// Makes the socket, and the file, with nothing in it yet.
    ///
    /// # Errors
    ///
    /// See [`ExportError`].
    pub fn open(config: &config::Metrics) -> Result<Self, ExportError> {
        let seconds = config.interval.unwrap_or(config::METRICS_INTERVAL);
        let interval = Duration::from_secs(seconds.into());
        let file = match &config.file {
            Some(path) => Some((Target::open(path)?, interval)),
            None => None,
        };
        let listen = |path| {
            listen(path, None).map_err(|source| ExportError::Socket {
                path: path.to_owned(),
                source,
            })
        };
        let (listener, made) = config.unix.as_deref().map(listen).transpose()?.unzip();
        Ok(Exporter {
            file,
            listener,
            made: made.flatten(),
        })
    }

    /// Starts to show `registry`.
    ///
    /// # Errors
    ///
    /// [`ExportError::Host`]
    pub fn start(self, registry: Registry, vm: &Member) -> Result<Exporting, ExportError> {
        let stop = Arc::new(EventFd::new(EFD_CLOEXEC)?);
        let timer = match &self.file {
            Some((_, interval)) => {
                let mut timer = TimerFd::new().map_err(io::Error::from)?;
                timer
                    .reset(*interval, Some(*interval))
                    .map_err(io::Error::from)?;
                Some(timer)
            }
            None => None,
        };
        let flush = match &self.file {
            Some(_) => Some(Arc::new(EventFd::new(EFD_CLOEXEC)?)),
            None => None,
        };
        let mut server = Server {
            registry,
            stop: stop.clone(),
            flush: flush.clone(),
            timer,
            target: self.file.map(|(target, _)| target),
            listener: self.listener,
            clients: Vec::new(),
            not_before: None,
        };
        let serve = move || {
            if let Err(error) = server.run() {
                log::error!("metrics are not shown any more: {error}");
            }
            // A last time, with all that was counted.
            if let Some(target) = &server.target {
                target.update(&server.registry);
            }
        };
        let thread = vm.spawn(ThreadKind::Metrics, "mote-metrics", serve)?;
        Ok(Exporting {
            stop,
            flush,
            thread: Some(thread),
            _made: self.made,
        })
    }
}

/// Metrics that are being shown. Dropping it has the file written a last time and removes the socket.
pub struct Exporting {
    stop: Arc<EventFd>,
    flush: Option<Arc<EventFd>>,
    thread: Option<JoinHandle<()>>,
    _made: Option<Made>,
}

impl Exporting {
    /// What has the file written when something is written to it, if there is a file.
    pub fn flusher(&self) -> Option<Arc<EventFd>> {
        self.flush.clone()
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        let stopped = self.stop.write(1);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take())
            && thread.join().is_err()
        {
            log::error!("the thread for metrics has panicked");
        }
    }
}

struct Server {
    registry: Registry,
    stop: Arc<EventFd>,
    /// The file is to be written before its time.
    flush: Option<Arc<EventFd>>,
    timer: Option<TimerFd>,
    target: Option<Target>,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    /// No peer is accepted before: the host had no descriptor for one.
    not_before: Option<Instant>,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut fds = Vec::new();
        loop {
            let now = Instant::now();
            self.not_before = self.not_before.filter(|at| *at > now);
            let room = self.clients.len() < MAX_CLIENTS && self.not_before.is_none();
            let listener = self.listener.as_ref().filter(|_| room);
            fds.clear();
            fds.push(polled(self.stop.as_raw_fd(), libc::POLLIN));
            fds.push(polled(raw(self.timer.as_ref()), libc::POLLIN));
            fds.push(polled(raw(listener), libc::POLLIN));
            fds.push(polled(raw(self.flush.as_deref()), libc::POLLIN));
            let interest = |client: &Client| polled(client.as_raw_fd(), client.events());
            fds.extend(self.clients.iter().map(interest));
            let deadlines = self.clients.iter().map(Client::deadline);
            poll(&mut fds, deadlines.chain(self.not_before).min())?;
            if fds[0].revents != 0 {
                return Ok(());
            }
            if fds[1].revents != 0
                && let (Some(timer), Some(target)) = (&mut self.timer, &self.target)
            {
                timer.wait().map_err(io::Error::from)?;
                target.update(&self.registry);
            }
            if fds[3].revents != 0
                && let (Some(flush), Some(target)) = (&self.flush, &self.target)
            {
                flush.read()?;
                target.update(&self.registry);
            }
            let (registry, now) = (&self.registry, Instant::now());
            let mut ready = fds[4..].iter().map(|fd| fd.revents != 0);
            self.clients
                .retain_mut(|client| client.go_on(ready.next() == Some(true), now, registry));
            if fds[2].revents != 0 {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        match listener.accept() {
            Ok((stream, _)) => match stream.set_nonblocking(true) {
                Ok(()) => self.clients.push(Client::new(stream)),
                Err(error) => log::debug!("--metrics: a peer: {error}"),
            },
            // The peer has gone again, or there is no descriptor left for it.
            Err(error) => {
                log::debug!("--metrics: accepting a peer: {error}");
                self.not_before = Some(Instant::now() + PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests;
