//! The VM of a pod: the monitor as a child process, and the conversation with the agent in its guest.
//!
//! The guest makes all connections, to a socket in the VM's folder: the first is for control, the others are streams. What
//! comes there is the guest's: it ends its own VM at most.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use log::{debug, info, warn};
use mote_agent_protocol::host::{CallError, Session};
use mote_agent_protocol::{Event, Hello, Opening, PORT, Reply, Request};

use crate::config::Config;
use crate::lock;
use crate::network::Namespace;
use crate::streams::Expected;

/// How long a connection may take to say what it is.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that haven't said yet what they are; the guest gets no more threads than these.
const MOST_ARRIVING: usize = 64;
/// Of what the monitor says, as much is told.
const MOST_SAID: u64 = 2000;
/// The guest's address. Each VM has its own socket, so it is the same for all.
const CID: u32 = 3;

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

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> VmError {
    let what = what.into();
    move |error| VmError::Io { what, error }
}

/// What a VM is made of.
#[derive(Debug)]
pub struct Recipe<'a> {
    pub config: &'a Config,
    /// Its own folder, which is there.
    pub folder: &'a Path,
    /// In MiB.
    pub memory: u64,
    pub vcpus: u32,
    /// Drives, as `mote run --disk` takes them.
    pub disks: Vec<String>,
    /// Whether there is a folder that is shared by virtiofsd.
    pub shares: bool,
    /// The namespace that the monitor is in, with its tap.
    pub network: Option<(&'a Namespace, String)>,
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
        let socket = folder.join(format!("v_{PORT}"));
        let listener = UnixListener::bind(&socket);
        let listener = listener.map_err(io_error(socket.display().to_string()))?;
        if recipe.shares {
            share(recipe)?;
        }
        let (sender, called) = channel();
        let over = Arc::<Over>::default();
        let log = folder.join("mote.log");
        let log_file = File::create(&log).map_err(io_error(log.display().to_string()))?;
        let command = monitor(recipe, &log_file)?;
        let (ended, told) = (over.clone(), sender.clone());
        let pid = keep(command, move |status| {
            info!("the monitor has ended: {status}");
            *lock(&ended.status) = Some(status);
            ended.changed.notify_all();
            let _ = told.send(Start::Ended(status));
        })
        .map_err(io_error(recipe.config.mote.display().to_string()))?;
        let expected = Arc::<Expected>::default();
        let accepting = expected.clone();
        thread::spawn(move || accept(&listener, &sender, &accepting));

        let limit = recipe.config.boot_timeout;
        let started = match called.recv_timeout(Duration::from_secs(limit)) {
            Ok(Start::Called(stream)) => Session::open(stream).map_err(VmError::Call),
            Ok(Start::Ended(status)) => {
                let status = told_status(status);
                let said = said(&log);
                Err(VmError::Ended { status, said })
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(VmError::Late(limit, said(&folder.join("console.log"))))
            }
        };
        let (session, hello) = started.inspect_err(|_| over.kill(pid))?;
        debug!("the guest: {hello:?}");
        let session = Arc::new(session);
        let vm = Vm {
            session: session.clone(),
            hello,
            pid,
            api: folder.join("api"),
            mote: recipe.config.mote.clone(),
            expected: expected.clone(),
            over: over.clone(),
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

    /// Asks the agent.
    pub fn call(&self, request: Request) -> Result<Reply, CallError> {
        self.session.call(request)
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

/// The monitor's command.
fn monitor(recipe: &Recipe, log: &File) -> Result<Command, VmError> {
    let Recipe { config, folder, .. } = recipe;
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(&config.mote);
    command.args(["run", "--agent", "--log", &config.log]);
    command.args(["--memory", &format!("{}M", recipe.memory)]);
    command.args(["--cpus", &recipe.vcpus.to_string()]);
    command.args(["--vsock", &format!("cid={CID},socket={}", path("v"))]);
    command.args(["--api", &path("api")]);
    command.args(["--console", &format!("file={}", path("console.log"))]);
    if let Some(kernel) = &config.kernel {
        command.arg("--kernel").arg(kernel);
    }
    if let Some(cmdline) = &config.cmdline {
        command.args(["--cmdline", cmdline]);
    }
    for disk in &recipe.disks {
        command.args(["--disk", disk]);
    }
    if recipe.shares {
        let fs = format!("tag={},socket={}", crate::share::TAG, path("fs"));
        command.args(["--fs", &fs]);
    }
    if let Some((namespace, tap)) = &recipe.network {
        command.args(["--net", &format!("tap={tap}")]);
        let namespace = Namespace::clone(namespace);
        // SAFETY: nothing but setns(2) between fork and exec.
        unsafe { command.pre_exec(move || namespace.enter()) };
    }
    let log = log.try_clone().map_err(io_error("mote.log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}

/// Starts virtiofsd on a socket that listens already, so that nobody waits for it to be ready.
fn share(recipe: &Recipe) -> Result<(), VmError> {
    use std::os::fd::AsRawFd;
    let (config, folder) = (recipe.config, recipe.folder);
    let socket = folder.join("fs");
    let listener = UnixListener::bind(&socket);
    let listener = listener.map_err(io_error(socket.display().to_string()))?;
    let log = folder.join("virtiofsd.log");
    let log_file = File::create(&log).map_err(io_error(log.display().to_string()))?;
    let mut command = Command::new(&config.virtiofsd);
    let fd = listener.as_raw_fd();
    command.arg(format!("--fd={fd}"));
    command.arg("--shared-dir").arg(folder.join("shared"));
    command.args(["--cache", "auto", "--sandbox", "namespace"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
    // SAFETY: one system call, which takes numbers.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let ended = move |status: ExitStatus| match status.success() {
        true => debug!("virtiofsd has ended"),
        false => warn!("virtiofsd: {}: {}", told_status(status), said(&log)),
    };
    let started = keep(command, ended).map_err(|error| {
        let what = format!(
            "{}: it shares folders with the guest; `virtiofsd` in the shim's configuration says where it is",
            config.virtiofsd.display()
        );
        VmError::Io { what, error }
    });
    drop(listener);
    started.map(drop)
}

/// Runs a command on a thread that lives as long as it does: the kernel ends it when that thread ends, however that
/// comes (prctl(2), PR_SET_PDEATHSIG).
fn keep(
    mut command: Command,
    ended: impl FnOnce(ExitStatus) + Send + 'static,
) -> io::Result<u32> {
    let shim = std::process::id() as libc::pid_t;
    // SAFETY: system calls only, which take numbers.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match libc::getppid() == shim {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        });
    }
    let (sender, started) = channel();
    thread::spawn(move || {
        let mut child: Child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return drop(sender.send(Err(error))),
        };
        let _ = sender.send(Ok(child.id()));
        drop(command);
        let status = child.wait();
        ended(status.unwrap_or_else(|_| ExitStatus::from_raw(255 << 8)));
    });
    started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")))
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

fn told_status(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

/// The end of what a process said, in one line.
fn said(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST_SAID)))?;
        let mut bytes = Vec::new();
        file.take(MOST_SAID).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.trim_ascii().is_empty() => "it said nothing".to_owned(),
        Ok(bytes) => String::from_utf8_lossy(bytes.trim_ascii()).replace('\n', "; "),
        Err(error) => format!("{}: {error}", log.display()),
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
