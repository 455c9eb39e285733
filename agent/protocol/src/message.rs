//! Requests, answers and events.
//!
//! The agent answers each request once, in the order in which it has done them; the host may send the next before it has
//! an answer. Events come in between, numbered from 1 in each life of the agent. The agent keeps an event until the
//! host has acknowledged it ([`Request::Acknowledge`]) and sends it again on the next control connection, so that
//! none is lost when the host's program is another one by then.

use serde::{Deserialize, Serialize};

use crate::container::{Container, Process, Window};
use crate::setup::Setup;

/// A request, with a number that the answer has too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The host's own, never 0.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

/// A process: the first of a container, which has no name of its own, or another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The container's name.
    pub container: String,
    /// The process's name; empty for the first.
    pub process: String,
}

impl Target {
    /// The process with these names.
    pub fn of(container: &str, process: &str) -> Self {
        Target {
            container: container.to_owned(),
            process: process.to_owned(),
        }
    }
}

/// The numbers of a process's streams, which the agent opens as connections of their own. With a terminal, input is
/// its input, and output its output; there is no error stream then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input, from the host. Without one it is at its end (/dev/null).
    pub input: Option<u64>,
    /// Standard output. Without one it goes nowhere.
    pub output: Option<u64>,
    /// Standard error.
    pub error: Option<u64>,
}

/// What the host asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Sets the guest up: mounts, names, network. Can be sent again, with what is new.
    Setup(Setup),
    /// Makes a container, and its first process up to where it would run its program.
    Create {
        /// The container's name, of at most [`MOST_NAME`] bytes.
        name: String,
        /// The container.
        container: Box<Container>,
        /// Its first process.
        process: Box<Process>,
        /// Its streams.
        streams: Streams,
    },
    /// Has the first process run its program.
    Start(String),
    /// Starts a further process in a container.
    Exec {
        /// Whose, and its name there.
        target: Target,
        /// The process.
        process: Box<Process>,
        /// Its streams.
        streams: Streams,
    },
    /// Sends a signal.
    Signal {
        /// To this process.
        target: Target,
        /// By Linux's number.
        signal: i32,
        /// And to all others of the container.
        all: bool,
    },
    /// Changes a terminal's size.
    Resize(Target, Window),
    /// Ends a process's input, once all that came has been passed on.
    CloseInput(Target),
    /// Tells how a process is.
    State(Target),
    /// Numbers of a container's processes, as the guest has them.
    Processes(String),
    /// What a container uses.
    Stats(String),
    /// Stops a container's processes where they are (cgroup v2), or has them go on.
    Freeze(String, bool),
    /// Forgets a process that has ended; of the first one, with the container and its mounts.
    Delete(Target),
    /// The host has all events up to this number.
    Acknowledge(u64),
    /// Ends all processes, writes what isn't written yet, and switches the guest off. The answer comes before that.
    Shutdown,
}

/// The longest name of a container or a process.
pub const MOST_NAME: usize = 128;

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// First on each control connection.
    Hello(Hello),
    /// To the call with this number.
    Answer(u32, Answer),
    /// What has happened, with its number.
    Event(u64, Event),
}

/// An answer.
pub type Answer = Result<Reply, Refusal>;

/// What the agent and its kernel are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent's version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// Namespaces that the kernel has, by their names in /proc/self/ns.
    pub namespaces: Vec<String>,
    /// Controllers of cgroup v2 that it has; none where it has no cgroup v2.
    pub controllers: Vec<String>,
    /// Whether it has seccomp filters.
    pub seccomp: bool,
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// The process's number in the guest.
    Pid(i32),
    /// How the process is.
    State(State),
    /// The processes' numbers, of which no more than [`MOST_PIDS`] are told.
    Processes(Vec<i32>),
    /// What the container uses.
    Stats(Stats),
}

/// The most numbers in one answer.
pub const MOST_PIDS: usize = 8192;

/// Why a request isn't done: for the user, with the name of what is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In one line.
    pub message: String,
    /// Linux's number of the error, or 0.
    pub errno: i32,
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Made, and waiting to run its program.
    Created(i32),
    /// Running, with this number.
    Running(i32),
    /// Ended.
    Ended(Status),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By its own will.
    Exited(u8),
    /// By a signal.
    Killed(i32),
}

impl Status {
    /// As a shell has it: 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Status::Exited(code) => code,
            Status::Killed(signal) => u8::try_from(signal.clamp(0, 127)).unwrap_or(127) | 0x80,
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A process has ended. Its output may still be on its way: that has an end of its own.
    Exited(Target, Status),
    /// A container has used all of its memory, and the kernel has killed a process of it.
    OutOfMemory(String),
}

/// What a container uses: from cgroup v2, or where the kernel has none, of the processes that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time, in microseconds: all of it, in user mode, in the kernel.
    pub cpu: [u64; 3],
    /// Memory, in bytes.
    pub memory: u64,
    /// The limit on it; 0 for none.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// The limit on them; 0 for none.
    pub pids_limit: u64,
    /// Bytes read from and written to drives.
    pub io: [u64; 2],
    /// Whether these are a cgroup's, with what has ended in it.
    pub of_cgroup: bool,
}
