//! The thread of a vhost-user device: sets the rings up, watches the back-end, and waits for the
//! next one when it is gone.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::kind::Kind;
use super::rings;
use super::session::{Inflight, Session};
use super::{Link, OnLost, VhostUserError, wait};
use crate::devices::virtio::Activation;
use crate::metrics::{Counter, Samples, Source};

/// How long the first wait between two attempts is, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A back-end that has worked for this long is worth an attempt at once when it is gone.
const STEADY: Duration = Duration::from_secs(5);

/// What the thread shares with the vCPUs that reach the device.
pub struct Shared {
    name: String,
    /// The configuration space as the driver sees it.
    config: Mutex<Vec<u8>>,
    /// What the driver has written to it and the back-end hasn't been told: start and end.
    written: Mutex<Option<(usize, usize)>>,
    /// Something was written, or the VM is to be paused.
    wake: Arc<EventFd>,
    connected: AtomicBool,
    /// The log has seen that a back-end was lost.
    told: AtomicBool,
    disconnects: Counter,
    reconnects: Counter,
    refused: Counter,
    config_reads: Counter,
    config_writes: Counter,
}

impl Shared {
    pub fn new(name: &str, config: Vec<u8>, wake: EventFd) -> Self {
        Shared {
            name: name.to_owned(),
            config: Mutex::new(config),
            written: Mutex::default(),
            wake: Arc::new(wake),
            connected: AtomicBool::new(true),
            told: AtomicBool::new(false),
            disconnects: Counter::new(),
            reconnects: Counter::new(),
            refused: Counter::new(),
            config_reads: Counter::new(),
            config_writes: Counter::new(),
        }
    }

    #[cfg(test)]
    pub fn disconnects(&self) -> u64 {
        self.disconnects.get()
    }

    #[cfg(test)]
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// How loud to tell of a back-end that was lost after this time of work. A guest can make some
    /// of them hang up at once, again and again, and must not fill the host's log.
    pub fn loss_level(&self, worked: Duration) -> log::Level {
        match self.told.swap(true, Ordering::Relaxed) && worked < STEADY {
            false => log::Level::Warn,
            true => log::Level::Debug,
        }
    }

    pub fn config(&self) -> MutexGuard<'_, Vec<u8>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the driver has written, for the thread to pass on.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let mut config = self.config();
        let Some(start) = usize::try_from(offset).ok() else {
            return;
        };
        let Some(end) = start.checked_add(data.len()) else {
            return;
        };
        let Some(place) = config.get_mut(start..end) else {
            return;
        };
        place.copy_from_slice(data);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = written.unwrap_or((start, end));
        *written = Some((from.min(start), to.max(end)));
        let _ = self.wake.write(1); // a full counter wakes just as well
    }

    fn take_written(&self) -> Option<(usize, Vec<u8>)> {
        let _ = self.wake.read(); // empty where nothing was written
        let config = self.config();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = written.take()?;
        Some((start, config.get(start..end)?.to_vec()))
    }
}

impl Source for Shared {
    fn collect(&self, samples: &mut Samples) {
        let labels = &[("device", self.name.as_str())];
        let connected = f64::from(u8::from(self.connected.load(Ordering::Relaxed)));
        samples.gauge(
            "mote_vhost_user_connected",
            "Whether the back-end is there.",
            labels,
            connected,
        );
        for (name, help, counter) in [
            (
                "mote_vhost_user_disconnects_total",
                "Back-ends that went away, stalled or made no sense while at work.",
                &self.disconnects,
            ),
            (
                "mote_vhost_user_reconnects_total",
                "Back-ends that took over from one that went away.",
                &self.reconnects,
            ),
            (
                "mote_vhost_user_refused_total",
                "Back-ends that came and could not be used.",
                &self.refused,
            ),
            (
                "mote_vhost_user_config_reads_total",
                "Configurations read from a back-end.",
                &self.config_reads,
            ),
            (
                "mote_vhost_user_config_writes_total",
                "Writes to the configuration that were passed on.",
                &self.config_writes,
            ),
        ] {
            samples.counter(name, help, labels, counter.get());
        }
    }
}

/// The back-end's part of the configuration space; empty if this kind of device has none.
pub fn read_config(
    session: &mut Session,
    kind: &impl Kind,
    stop: Option<&EventFd>,
) -> Result<Vec<u8>, VhostUserError> {
    match kind.backend_config_len(session.features) {
        0 => Ok(Vec::new()),
        _ if !session.has_config() => Err(VhostUserError::NoConfig),
        len => session.read_config(stop, len),
    }
}

/// What the thread works with, from DRIVER_OK to reset.
pub struct Worker<K: Kind> {
    pub kind: Arc<K>,
    pub shared: Arc<Shared>,
    pub stop: Arc<EventFd>,
    pub activation: Activation,
    pub on_lost: Option<OnLost>,
}

/// Why the watch over a back-end has ended.
enum Ended {
    /// The driver resets the device.
    Stopped,
    /// The back-end can't be used any more.
    Lost(VhostUserError),
}

impl<K: Kind> Worker<K> {
    pub fn run(&self, link: &mut Link) {
        let gate = self.activation.interrupt.gate();
        gate.tell_when_closed(self.shared.wake.clone());
        // While a back-end is at work. It is stopped before this thread makes way.
        let _inside = gate.enter();
        let mut inflight = None;
        // A driver that starts anew has rings that nobody has served.
        let mut fresh = true;
        loop {
            if link.session.is_none() && !gate.outside(|| self.reconnect(link)) {
                return;
            }
            let Some(session) = &mut link.session else {
                return;
            };
            let since = Instant::now();
            match self.serve(session, &mut inflight, fresh) {
                Ended::Stopped => {
                    if let Err(error) = session.stop(&self.activation) {
                        let level = self.shared.loss_level(since.elapsed());
                        log::log!(
                            level,
                            "{}: stopping the back-end: {error}",
                            self.shared.name
                        );
                        link.session = None;
                    }
                    return;
                }
                Ended::Lost(error) => {
                    if self.is_stopping() {
                        link.session = None;
                        return;
                    }
                    log::log!(
                        self.shared.loss_level(since.elapsed()),
                        "{}: the back-end at {} is lost: {error}; requests wait for the next one",
                        self.shared.name,
                        link.path()
                    );
                    link.session = None;
                    self.shared.disconnects.inc();
                    if let Some(on_lost) = &self.on_lost {
                        on_lost();
                    }
                    self.set_connected(false);
                    if since.elapsed() >= STEADY {
                        link.delay = Duration::ZERO;
                    }
                }
            }
            fresh = false;
        }
    }

    fn is_stopping(&self) -> bool {
        let ready = wait::readable([self.stop.as_raw_fd()], Some(Duration::ZERO));
        ready.is_ok_and(|[stop]| stop)
    }

    /// Waits for a back-end that can take over; false if the device is reset before.
    fn reconnect(&self, link: &mut Link) -> bool {
        let mut refused = false;
        while !self.is_stopping() {
            let wait = link.delay;
            link.delay = (wait * 2).clamp(BACKOFF.0, BACKOFF.1);
            let Some(socket) = link.peer.reconnect(&self.stop, wait) else {
                continue;
            };
            let session = Session::open(socket, Some(&self.stop), link.limits);
            match session.and_then(|session| self.accept(session)) {
                Ok(session) => {
                    link.session = Some(session);
                    return true;
                }
                Err(error) => {
                    let level = match std::mem::replace(&mut refused, true) {
                        false => log::Level::Warn,
                        true => log::Level::Debug,
                    };
                    self.shared.refused.inc();
                    let path = link.path();
                    log::log!(
                        level,
                        "{}: who is at {path} now can't take over: {error}",
                        self.shared.name
                    );
                }
            }
        }
        false
    }

    /// Takes a new back-end if it can do what the last one could.
    fn accept(&self, mut session: Session) -> Result<Session, VhostUserError> {
        let driver = self.activation.features & !self.kind.own_features();
        let missing = driver & !session.features;
        if missing != 0 {
            return Err(VhostUserError::Features(missing));
        }
        let (needed, _) = rings::extent(&self.activation.queues);
        if let Some(queues) = session.queues
            && queues < needed.into()
        {
            return Err(VhostUserError::Queues(queues, needed.into()));
        }
        self.update_config(&mut session)?;
        Ok(session)
    }

    fn serve(&self, session: &mut Session, inflight: &mut Option<Inflight>, fresh: bool) -> Ended {
        match self.start(session, inflight, fresh) {
            Ok(()) => {}
            Err(VhostUserError::Unrecorded) => {
                self.activation.interrupt.fail(&VhostUserError::Unrecorded);
                // Only a reset helps.
                let wait = || wait::readable([self.stop.as_raw_fd()], None);
                let _ = self.activation.interrupt.gate().outside(wait);
                return Ended::Stopped;
            }
            Err(error) => return Ended::Lost(error),
        }
        if !fresh {
            self.shared.reconnects.inc();
            log::info!("{}: a back-end is there again", self.shared.name);
        }
        loop {
            let fds = [
                self.stop.as_raw_fd(),
                session.socket(),
                session.requests(),
                self.shared.wake.as_raw_fd(),
            ];
            let result = match wait::readable(fds, None) {
                Err(error) => Err(VhostUserError::Host(error)),
                Ok([true, ..]) => return Ended::Stopped,
                Ok([_, true, ..]) => Err(session.what_is_wrong()),
                Ok([_, _, true, _]) => match session.answer(&self.stop) {
                    Ok(true) => self.update_config(session),
                    other => other.map(|_| ()),
                },
                Ok([_, _, _, true]) => self.pass_config_on(session),
                Ok(_) => Ok(()),
            };
            let result = result.and_then(|()| self.make_way(session, inflight));
            if let Err(error) = result {
                return Ended::Lost(error);
            }
        }
    }

    fn start(
        &self,
        session: &mut Session,
        inflight: &mut Option<Inflight>,
        fresh: bool,
    ) -> Result<(), VhostUserError> {
        let Activation { queues, memory, .. } = &self.activation;
        let recorded = inflight.is_some() && session.has_inflight();
        let base = |queue| match fresh {
            true => rings::mark(queue, memory)
                .map(|()| 0)
                .map_err(|_| VhostUserError::Unrecorded),
            false => rings::resume(queue, memory, recorded),
        };
        let bases = queues.iter().map(|q| base(&q.queue));
        let bases = bases.collect::<Result<Vec<_>, _>>()?;
        session.start(&self.stop, &self.activation, &bases, inflight)?;
        self.set_connected(true);
        self.kick();
        if !fresh {
            self.activation.interrupt.used_buffers();
        }
        Ok(())
    }

    /// While the VM is paused: the back-end has done what it had begun, and leaves guest memory alone.
    fn make_way(
        &self,
        session: &mut Session,
        inflight: &mut Option<Inflight>,
    ) -> Result<(), VhostUserError> {
        let Activation {
            queues,
            memory,
            interrupt,
            ..
        } = &self.activation;
        if !interrupt.gate().is_closed() {
            return Ok(());
        }
        let ends = session.stop(&self.activation)?;
        interrupt.gate().outside(|| ());
        let recorded = inflight.is_some() && session.has_inflight();
        let bases = queues.iter().zip(ends).map(|(queue, end)| {
            // What it has taken it has done, or has a record of.
            let done = rings::resume(&queue.queue, memory, true)? == end;
            rings::resume(&queue.queue, memory, recorded || done)
        });
        let bases = bases.collect::<Result<Vec<_>, _>>()?;
        session.start(&self.stop, &self.activation, &bases, inflight)?;
        self.kick();
        Ok(())
    }

    fn kick(&self) {
        // What the driver has said while nobody listened, or the last back-end did without saying so.
        for queue in &self.activation.queues {
            let _ = queue.notify.write(1); // a full counter kicks just as well
        }
    }

    /// Reads the configuration again and tells the driver if it is another.
    fn update_config(&self, session: &mut Session) -> Result<(), VhostUserError> {
        let config = read_config(session, &*self.kind, Some(&self.stop))?;
        self.shared.config_reads.inc();
        self.publish(|kind, old| match config.is_empty() {
            true => old.to_vec(),
            false => kind.config(&config),
        });
        Ok(())
    }

    fn set_connected(&self, connected: bool) {
        if self.shared.connected.swap(connected, Ordering::Relaxed) != connected {
            self.publish(|kind, old| kind.linked(old, connected));
        }
    }

    fn publish(&self, make: impl FnOnce(&K, &[u8]) -> Vec<u8>) {
        let mut config = self.shared.config();
        let new = make(&self.kind, &config);
        if *config != new {
            config.clone_from(&new);
            drop(config);
            self.activation.interrupt.set_config(0, &new);
        }
    }

    fn pass_config_on(&self, session: &mut Session) -> Result<(), VhostUserError> {
        if let Some((offset, data)) = self.shared.take_written()
            && session.has_config()
        {
            session.write_config(&self.stop, offset, &data)?;
            self.shared.config_writes.inc();
        }
        Ok(())
    }
}
