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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use log::{debug, info, warn};
use mote_agent_protocol::host::{CallError, Session};
use mote_agent_protocol::{Event, Hello, Opening, PORT, Reply, Request};

use crate::lock;
use crate::monitor::{self, MOST_SAID, Recipe, said};
use crate::streams::Expected;

/// How long a connection may take to say what it is.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that haven't said yet what they are; the guest gets no more threads than these.
const MOST_ARRIVING: usize = 64;

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
    pid: u32,
    api: PathBuf,
    mote: PathBuf,
    expected: Arc<Expected>,
    over: Arc<Over>,
    /// For an answer of the agent's.
    patience: Duration,
}

/// How the monitor ended, once it has.
#[derive(Debug, Default)]
struct Over {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

/// What is waited for at the start.
enum Start {
    Called(UnixStream),
    Ended(ExitStatus),
}

impl Vm {
    /// Starts it, and waits for its agent. `on_event` is told of what happens in it, in order; with `None` last, when it
    /// is over.
    pub fn start(
        recipe: &Recipe,
        mut on_event: impl FnMut(Option<Event>) + Send + 'static,
    ) -> Result<Self, VmError> {
        let folder = recipe.folder;
        if recipe.shares {
            monitor::share(recipe)?;
        }
        let (sender, called) = channel();
        let over = Arc::<Over>::default();
        let log = folder.join("mote.log");
        let log_file = File::create(&log).map_err(io_error(log.display().to_string()))?;
        let (command, runs, console) = monitor::command(recipe, log_file)?;
        let console = Tail::of(console);
        let (ended, told) = (over.clone(), sender.clone());
        let listener = match recipe.jail {
            Some(_) => None,
            None => Some(listen(recipe)?),
        };
        let pid = monitor::keep(command, move |status| {
            info!("the monitor has ended: {status}");
            *lock(&ended.status) = Some(status);
            ended.changed.notify_all();
            let _ = told.send(Start::Ended(status));
        })
        .map_err(io_error(recipe.config.mote.display().to_string()))?;
        let listener = match listener {
            Some(listener) => listener,
            None => {
                // The jail is made with the monitor. Its guest's agent tries for a while.
                let mut line = [0; 1];
                let _ = runs.and_then(|mut runs| runs.read(&mut line).ok());
                match listen(recipe) {
                    Ok(listener) => listener,
                    Err(error) => {
                        over.kill(pid);
                        return Err(match *lock(&over.status) {
                            Some(status) => ended_early(status, &log),
                            None => error,
                        });
                    }
                }
            }
        };
        let expected = Arc::<Expected>::default();
        let accepting = expected.clone();
        thread::spawn(move || accept(&listener, &sender, &accepting));

        let limit = recipe.config.boot_timeout;
        let started = match called.recv_timeout(Duration::from_secs(limit)) {
            Ok(Start::Called(stream)) => open(stream, Duration::from_secs(limit)),
            Ok(Start::Ended(status)) => Err(ended_early(status, &log)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(VmError::Late(limit, console.said()))
            }
        };
        let (session, hello) = started.inspect_err(|_| over.kill(pid))?;
        debug!("the guest: {hello:?}");
        let session = Arc::new(session);
        let vm = Vm {
            session: session.clone(),
            hello,
            pid,
            api: recipe.sockets().join("api"),
            mote: recipe.config.mote.clone(),
            expected: expected.clone(),
            over: over.clone(),
            patience: Duration::from_secs(limit),
        };
        thread::spawn(move || {
            if let Err(error) = session.serve(0, |_, event| on_event(Some(event))) {
                warn!("{error}: the VM is ended");
            }
            over.kill(pid);
            expected.end();
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
        self.pid
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
        self.over.kill(self.pid);
        self.session.close();
    }
}

impl Over {
    /// Ends the monitor, if it hasn't, and waits for that.
    fn kill(&self, pid: u32) {
        let mut status = lock(&self.status);
        if status.is_none() {
            // Not reaped yet: the number is still its own. A jailed one takes its jail away before it ends.
            // SAFETY: takes numbers.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
        }
        while status.is_none() {
            let (guard, waited) = self
                .changed
                .wait_timeout(status, Duration::from_secs(10))
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            status = guard;
            if status.is_none() && waited.timed_out() {
                // SAFETY: as above.
                unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
            }
        }
    }
}

/// The conversation, if the agent begins it in time.
fn open(stream: UnixStream, patience: Duration) -> Result<(Session, Hello), VmError> {
    let set = |patience| stream.set_read_timeout(patience);
    set(Some(patience)).map_err(io_error("the agent's connection"))?;
    let of = stream
        .try_clone()
        .map_err(io_error("the agent's connection"))?;
    let opened = Session::open(of)?;
    set(None).map_err(io_error("the agent's connection"))?;
    // One that doesn't read what it is asked holds up nobody for longer.
    let written = stream.set_write_timeout(Some(patience));
    written.map_err(io_error("the agent's connection"))?;
    Ok(opened)
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
        std::os::unix::fs::chown(&socket, Some(user), Some(user)).map_err(failed())?;
    }
    Ok(listener)
}

/// Connections, until the shim ends: each says what it is on a thread of its own, so that none holds up others.
fn accept(listener: &UnixListener, start: &Sender<Start>, expected: &Arc<Expected>) {
    let arriving = Arc::<AtomicUsize>::default();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        if arriving.fetch_add(1, Ordering::Relaxed) >= MOST_ARRIVING {
            arriving.fetch_sub(1, Ordering::Relaxed);
            warn!("the guest makes too many connections at once: one is closed");
            continue;
        }
        let (arriving, start, expected) = (arriving.clone(), start.clone(), expected.clone());
        thread::spawn(move || {
            let opening = stream
                .set_read_timeout(Some(OPENING_PATIENCE))
                .map_err(Into::into)
                .and_then(|()| Opening::read(&mut stream));
            let _ = stream.set_read_timeout(None);
            arriving.fetch_sub(1, Ordering::Relaxed);
            match opening {
                // Only the first is heard: nobody receives another.
                Ok(Opening::Control) => drop(start.send(Start::Called(stream))),
                Ok(Opening::Stream(number)) => expected.came(number, stream),
                Err(error) => warn!("a connection of the guest's: {error}"),
            }
        });
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
