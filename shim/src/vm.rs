//! The VM of a pod: the monitor as a child process, and the conversation with the agent in its guest.
//!
//! The guest makes all connections, to a socket in the VM's folder: the first is for control, the others are streams. What
//! comes there is the guest's: it ends its own VM at most.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use log::{debug, info, warn};
use mote_agent_protocol::host::{CallError, Session};
use mote_agent_protocol::within::Within;
use mote_agent_protocol::{Event, Hello, Opening, PORT, Reply, Request};

use crate::child::Child;
use crate::lock;
use crate::monitor::{self, MOST_SAID, Recipe, said};
use crate::streams::Expected;

/// How long a connection may take to say what it is.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that haven't said yet what they are; the guest gets no more threads than these.
const MOST_ARRIVING: usize = 64;

/// After a connection that couldn't be taken, for want of descriptors as a rule.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// Why there is no VM, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A file, a folder, a process.
    #[error("{what}: {error}")]
    Io {
        /// What of.
        what: String,
        /// Why.
        error: io::Error,
    },
    /// The monitor ended before its guest's agent called.
    #[error("the VM ended before its agent called ({status}): {said}")]
    Ended {
        /// How.
        status: String,
        /// What it said.
        said: String,
    },
    /// The guest takes too long.
    #[error(
        "the guest's agent didn't call within {0} s (boot_timeout in the shim's configuration gives it more); \
         its kernel: {1}"
    )]
    Late(u64, String),
    /// The agent's.
    #[error("{0}")]
    Call(#[from] CallError),
}

pub fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> VmError {
    let what = what.into();
    move |error| VmError::Io { what, error }
}

/// A VM that runs.
#[derive(Debug)]
pub struct Vm {
    session: Arc<Session>,
    hello: Hello,
    monitor: Arc<Child>,
    /// virtiofsd, after the monitor: it ends by itself when that does.
    _share: Option<Child>,
    api: PathBuf,
    mote: PathBuf,
    expected: Arc<Expected>,
    /// For an answer of the agent's.
    patience: Duration,
    /// Nobody hears of the guest any more.
    is_over: Arc<AtomicBool>,
}

/// What is waited for at the start.
enum Start {
    Called(UnixStream),
    Ended(ExitStatus),
}

impl Vm {
    /// Starts it, and waits for its agent. `on_event` is told of what happens in it, in order; with `None` last, when it
    /// is over. With `false` it ends a VM of which too much happens.
    pub fn start(
        recipe: &Recipe,
        mut on_event: impl FnMut(Option<Event>) -> bool + Send + 'static,
    ) -> Result<Self, VmError> {
        let folder = recipe.folder;
        let share = recipe.shares.then(|| monitor::share(recipe)).transpose()?;
        let (sender, called) = channel();
        let log = folder.join("mote.log");
        let log_file = File::create(&log).map_err(io_error(log.display().to_string()))?;
        let (command, runs, console) = monitor::command(recipe, log_file)?;
        let console = Tail::of(console);
        let told = sender.clone();
        let listener = match recipe.jail {
            Some(_) => None,
            None => Some(listen(recipe)?),
        };
        let monitor = Child::start(command, move |status| {
            info!("the monitor has ended: {status}");
            let _ = told.send(Start::Ended(status));
        });
        let monitor = monitor.map_err(io_error(recipe.config.mote.display().to_string()))?;
        let listener = match listener {
            Some(listener) => listener,
            None => {
                // The jail is made with the monitor. Its guest's agent tries for a while.
                let mut line = [0; 1];
                let runs = runs.is_some_and(|mut runs| runs.read(&mut line).is_ok_and(|n| n > 0));
                listen(recipe).map_err(|error| {
                    monitor.end();
                    match monitor.status() {
                        Some(status) if !runs => ended_early(status, &log),
                        _ => error,
                    }
                })?
            }
        };
        let expected = Arc::<Expected>::default();
        let accepting = expected.clone();
        thread::spawn(move || accept(&listener, &sender, &accepting));

        let limit = recipe.config.boot_timeout;
        let patience = Duration::from_secs(limit);
        let (session, hello) = match called.recv_timeout(patience) {
            Ok(Start::Called(stream)) => Session::open_within(stream, patience)?,
            Ok(Start::Ended(status)) => return Err(ended_early(status, &log)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(VmError::Late(limit, console.said()));
            }
        };
        debug!("the guest: {hello:?}");
        let vm = Vm {
            session: Arc::new(session),
            hello,
            monitor: Arc::new(monitor),
            _share: share,
            api: recipe.sockets().join("api"),
            mote: recipe.config.mote.clone(),
            expected,
            patience,
            is_over: Arc::default(),
        };
        let (session, monitor) = (vm.session.clone(), vm.monitor.clone());
        let (expected, is_over) = (vm.expected.clone(), vm.is_over.clone());
        thread::spawn(move || {
            let served = session.serve(0, |_, event| {
                if !on_event(Some(event)) {
                    warn!("too much happens in the guest: the VM is ended");
                    session.close();
                }
            });
            if let Err(error) = served {
                warn!("{error}: the VM is ended");
            }
            monitor.end();
            expected.end();
            is_over.store(true, Ordering::Release);
            on_event(None);
        });
        Ok(vm)
    }

    /// What the guest's kernel has.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The monitor's.
    pub fn pid(&self) -> u32 {
        self.monitor.pid()
    }

    /// Whether all has been told that happened in it, its end included or just before that.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Numbers of streams.
    pub fn expected(&self) -> &Arc<Expected> {
        &self.expected
    }

    /// Asks the agent. A guest in which it doesn't answer is none to be left running.
    pub fn call(&self, request: Request) -> Result<Reply, CallError> {
        let sent = self.session.send(request);
        let answer = sent.and_then(|sent| sent.answer_within(self.patience));
        if let Err(error @ (CallError::Late(_) | CallError::Connection(_))) = &answer {
            warn!("{error}: the VM is ended");
            self.end();
        }
        answer
    }

    /// Stops all vCPUs and devices, or has them go on.
    pub fn pause(&self, pause: bool) -> Result<(), VmError> {
        let verb = if pause { "pause" } else { "resume" };
        let mut command = Command::new(&self.mote);
        command.arg("ctl").arg(&self.api).arg(verb);
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(io_error(format!("mote ctl {verb}")))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(io_error(format!("mote ctl {verb}"))(io::Error::other(said)))
            }
        }
    }

    /// Ends it, and waits for that. What it wrote to shared folders is written; the rest is gone with it.
    pub fn end(&self) {
        self.monitor.end();
        self.session.close();
    }
}

/// The end of what the guest's console says: a guest may say as much as it likes.
#[derive(Clone, Debug, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn of(mut console: File) -> Self {
        let tail = Tail::default();
        let own = tail.clone();
        thread::spawn(move || {
            let mut bytes = [0; MOST_SAID];
            while let Ok(count @ 1..) = console.read(&mut bytes) {
                let mut kept = lock(&own.0);
                kept.extend(&bytes[..count]);
                let more = kept.len().saturating_sub(MOST_SAID);
                kept.drain(..more);
            }
        });
        tail
    }

    fn said(&self) -> String {
        monitor::line(&lock(&self.0))
    }
}

fn ended_early(status: ExitStatus, log: &Path) -> VmError {
    VmError::Ended {
        status: monitor::told(status),
        said: said(log),
    }
}

/// Where the guest's connections come.
fn listen(recipe: &Recipe) -> Result<UnixListener, VmError> {
    let socket = recipe.sockets().join(format!("v_{PORT}"));
    let failed = || io_error(socket.display().to_string());
    let listener = UnixListener::bind(&socket).map_err(failed())?;
    if let Some(user) = recipe.jail {
        std::os::unix::fs::lchown(&socket, Some(user), Some(user)).map_err(failed())?;
    }
    Ok(listener)
}

/// Connections, until the shim ends: each says what it is on a thread of its own, so that none holds up others.
fn accept(listener: &UnixListener, start: &Sender<Start>, expected: &Arc<Expected>) {
    let arriving = Arc::<AtomicUsize>::default();
    let complaints = Arc::<Complaints>::default();
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                complaints.tell(format_args!("the guest's connections: {error}"));
                thread::sleep(BETWEEN_ATTEMPTS);
                continue;
            }
        };
        if arriving.fetch_add(1, Ordering::Relaxed) >= MOST_ARRIVING {
            arriving.fetch_sub(1, Ordering::Relaxed);
            complaints.tell(format_args!("too many connections of the guest's at once"));
            continue;
        }
        let (arriving, complaints) = (arriving.clone(), complaints.clone());
        let (start, expected) = (start.clone(), expected.clone());
        thread::spawn(move || {
            let opening = Opening::read(&mut Within::new(&stream, OPENING_PATIENCE));
            let _ = stream.set_read_timeout(None);
            arriving.fetch_sub(1, Ordering::Relaxed);
            match opening {
                // Only the first is heard: nobody receives another.
                Ok(Opening::Control) => drop(start.send(Start::Called(stream))),
                Ok(Opening::Stream(number)) => expected.came(number, stream),
                Err(error) => complaints.tell(format_args!("a connection of the guest's: {error}")),
            }
        });
    }
}

/// Of what a guest can cause as often as it likes, containerd's log gets one line.
#[derive(Debug, Default)]
struct Complaints(AtomicBool);

impl Complaints {
    fn tell(&self, what: std::fmt::Arguments) {
        match self.0.swap(true, Ordering::Relaxed) {
            false => warn!("{what}; no more is said of such"),
            true => debug!("{what}"),
        }
    }
}

/// A folder of the shim's own, that nobody else looks into.
pub fn make_folder(path: &Path) -> Result<(), VmError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error(parent.display().to_string()))?;
    }
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(io_error(path.display().to_string()))
}
