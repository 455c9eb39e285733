//! The standard streams of processes: containerd's pipes on one side, connections that the guest makes on the other.
//!
//! Each stream has a number, which the agent is told with the process and says first on the connection that it makes
//! for it. A number is good once. Pipes are opened so that nobody is waited for (fifo(7)): those for output for
//! reading too, so that one whose reader has gone keeps what it holds for the next one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use log::debug;
use mote_agent_protocol::message::Streams as Numbers;

use self::copy::{copy_input, copy_output};
use crate::lock;
use crate::logger::{self, Owner};
use crate::wake::Wake;

/// For a connection that the agent has made when it is first waited for.
const COMING: Duration = Duration::from_secs(30);

/// Numbers that were given out, and whose connections haven't come yet.
#[derive(Debug, Default)]
pub struct Expected {
    waiting: Mutex<HashMap<u64, Sender<UnixStream>>>,
}

impl Expected {
    /// A number that nobody in the guest can guess: containers there may make connections, too.
    fn next(&self) -> io::Result<(u64, Receiver<UnixStream>)> {
        let (sender, receiver) = channel();
        let mut waiting = lock(&self.waiting);
        loop {
            let number = random()?;
            // 0 is the control connection.
            if number != 0 && !waiting.contains_key(&number) {
                waiting.insert(number, sender);
                return Ok((number, receiver));
            }
        }
    }

    /// The connection of a number. One that nobody waits for is closed.
    pub fn came(&self, number: u64, stream: UnixStream) {
        if let Some(sender) = lock(&self.waiting).remove(&number) {
            let _ = sender.send(stream);
        }
    }

    /// Waits for a connection that the guest has made or never makes.
    fn come(&self, number: u64, stream: &Receiver<UnixStream>) -> Option<UnixStream> {
        let stream = stream.recv_timeout(COMING).ok();
        self.forget(number);
        stream
    }

    fn forget(&self, number: u64) {
        lock(&self.waiting).remove(&number);
    }

    /// No more will come: whoever waits gets to know.
    pub fn end(&self) {
        lock(&self.waiting).clear();
    }
}

/// Where a process's streams are, as containerd names them; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    /// Whose they are, for a logger.
    pub owner: Owner,
}

/// A process's streams.
#[derive(Debug)]
pub struct Streams {
    paths: Paths,
    /// That containerd has closed its input.
    closed: Arc<Wake>,
    /// That the process has ended.
    ended: Arc<Wake>,
    /// That nobody wants them any more.
    given_up: Arc<Wake>,
    /// How many of the outputs are still being copied.
    copying: Arc<(Mutex<usize>, Condvar)>,
}

/// Streams whose connections are on their way.
pub struct Opening {
    expected: Arc<Expected>,
    input: Option<(u64, Receiver<UnixStream>, File)>,
    outputs: Vec<(u64, Receiver<UnixStream>, File)>,
    numbers: Numbers,
}

impl Streams {
    pub fn new(paths: Paths) -> io::Result<Self> {
        Ok(Streams {
            paths,
            closed: Arc::new(Wake::new()?),
            ended: Arc::new(Wake::new()?),
            given_up: Arc::new(Wake::new()?),
            copying: Arc::default(),
        })
    }

    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Opens containerd's ends, and gives each a number.
    pub fn open(&self, expected: &Arc<Expected>) -> io::Result<Opening> {
        let mut opening = Opening {
            expected: expected.clone(),
            input: None,
            outputs: Vec::new(),
            numbers: Numbers::default(),
        };
        let path = |path: &str| (!path.is_empty()).then(|| path.to_owned());
        if let Some(stdin) = path(&self.paths.stdin) {
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(libc::O_NONBLOCK);
            let file = named(&stdin, file.open(&stdin))?;
            let (number, stream) = expected.next()?;
            opening.numbers.input = Some(number);
            opening.input = Some((number, stream, file));
        }
        let stderr = path(&self.paths.stderr).filter(|_| !self.paths.terminal);
        let stdout = path(&self.paths.stdout);
        let mut logger = match &stdout {
            Some(address) if address.starts_with(logger::SCHEME) => {
                let started = logger::start(address, &self.paths.owner);
                Some(named(address, started)?.map(Some))
            }
            _ => None,
        };
        for (given, is_error) in [(stdout, false), (stderr, true)] {
            let Some(given) = given else { continue };
            let of_logger = logger
                .as_mut()
                .filter(|_| given.starts_with(logger::SCHEME));
            let file = match of_logger.and_then(|ends| ends[usize::from(is_error)].take()) {
                Some(end) => end,
                None => named(&given, open_output(&given))?,
            };
            let (number, stream) = expected.next()?;
            match is_error {
                true => opening.numbers.error = Some(number),
                false => opening.numbers.output = Some(number),
            }
            opening.outputs.push((number, stream, file));
        }
        Ok(opening)
    }

    /// Input ends once what has been written so far has been passed on.
    pub fn close_input(&self) {
        self.closed.fire();
    }

    /// From now on the guest has little time to end the outputs.
    pub fn process_ended(&self) {
        self.ended.fire();
    }

    /// Ends all of them.
    pub fn give_up(&self) {
        self.given_up.fire();
    }

    /// Waits until all output has been passed on, or as long as that; then it is given up.
    pub fn finish(&self, patience: Duration) {
        let (count, changed) = &*self.copying;
        let guard = lock(count);
        let waited = changed.wait_timeout_while(guard, patience, |count| *count > 0);
        let (left, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *left > 0 {
            debug!("{} outputs that nobody takes are given up", *left);
        }
        drop(left);
        self.give_up();
    }
}

impl Opening {
    /// What the agent is told.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Copies, on threads of their own, once the agent has made its connections.
    pub fn run(mut self, streams: &Streams) {
        if let Some((number, stream, file)) = self.input.take() {
            let (closed, given_up) = (streams.closed.clone(), streams.given_up.clone());
            let expected = self.expected.clone();
            thread::spawn(move || {
                if let Some(stream) = expected.come(number, &stream) {
                    copy_input(file, &stream, &closed, &given_up);
                }
            });
        }
        for (number, stream, file) in std::mem::take(&mut self.outputs) {
            let (copying, expected) = (streams.copying.clone(), self.expected.clone());
            let (ended, given_up) = (streams.ended.clone(), streams.given_up.clone());
            *lock(&copying.0) += 1;
            thread::spawn(move || {
                if let Some(stream) = expected.come(number, &stream) {
                    copy_output(&stream, file, &ended, &given_up);
                }
                *lock(&copying.0) -= 1;
                copying.1.notify_all();
            });
        }
    }
}

impl Drop for Opening {
    /// The agent has refused the process: nobody comes.
    fn drop(&mut self) {
        for (number, ..) in self.input.iter().chain(&self.outputs) {
            self.expected.forget(*number);
        }
    }
}

/// A pipe, or a file with a `file:` before its path.
fn open_output(given: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NONBLOCK);
    if let Some(path) = given.strip_prefix("file://") {
        if let Some(folder) = Path::new(path).parent() {
            std::fs::create_dir_all(folder)?;
        }
        return options.append(true).create(true).mode(0o600).open(path);
    }
    if given.contains("://") {
        return Err(io::Error::new(
            ErrorKind::Unsupported,
            "only pipes, file:// and binary:// are known",
        ));
    }
    options.read(true).write(true).open(given)
}

fn named<T>(path: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: eight bytes that live through the call.
    match unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(io::Error::last_os_error()),
    }
}

mod copy;
#[cfg(test)]
mod tests;
