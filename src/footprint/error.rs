//! Why a process's memory can't be told.

use std::io;

use super::remote::TableError;

/// Why a process's memory can't be told. The messages name the process and what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum FootprintError {
    #[error("there is no process {pid}: `pgrep mote` lists the running ones")]
    NoProcess { pid: u32 },
    #[error(
        "process {pid} has no memory: it has ended (and its parent hasn't noticed yet), or is a thread of the kernel"
    )]
    NoMemory { pid: u32 },
    #[error(
        "process {pid} is another user's, or protected from being looked into: run this as that user, or as root"
    )]
    Denied { pid: u32 },
    #[error("reading {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("process {pid} ({name}) is not a mote, nor a program with mote in it")]
    NotMote { pid: u32, name: String },
    #[error("process {pid} is another version of mote: ask its own, by /proc/{pid}/exe mem {pid}")]
    OtherVersion { pid: u32 },
    #[error("process {pid} says nothing of its VMs that makes sense: {why}")]
    Nonsense { pid: u32, why: TableError },
}

impl FootprintError {
    /// Whether it is the host that forbids it; else the process number is wrong.
    pub fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Read { .. })
    }
}
