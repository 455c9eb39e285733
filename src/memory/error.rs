//! Why guest memory could not be had, with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::config::Size;

/// Why guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has not enough address space or memory.
    #[error(
        "reserving {size} MiB of guest memory: {source}; give less --memory, or raise the limit \
         (ulimit -v, vm.overcommit_memory)"
    )]
    Reserve {
        /// What was asked for, in MiB.
        size: u64,
        /// What the system call said.
        source: io::Error,
    },
    /// The host's pool has too few huge pages.
    #[error(
        "--memory hugepages={size}: {needed} huge pages are needed, {missing} more than the host has \
         to give: write {enough} or more to {file}"
    )]
    HugePages {
        /// The size of one.
        size: Size,
        /// How many all of the guest's memory is.
        needed: u64,
        /// How many of them there aren't.
        missing: u64,
        /// How many the pool would have to have.
        enough: u64,
        /// Where that is said to the kernel.
        file: PathBuf,
    },
    /// A node of the host has too few huge pages for what is bound to it.
    #[error(
        "--memory hugepages={size} on the host's NUMA node {node}: {needed} huge pages are needed there, \
         {missing} more than it has free: write {enough} or more to {file}"
    )]
    NodeHugePages {
        /// The size of one.
        size: Size,
        /// The host's node.
        node: u16,
        /// How many are bound to it.
        needed: u64,
        /// How many of them it hasn't.
        missing: u64,
        /// How many its pool would have to have.
        enough: u64,
        /// Where that is said to the kernel.
        file: PathBuf,
    },
    /// The host has no such pool.
    #[error(
        "--memory hugepages={size}: this host has none of that size ({pool} is missing); its kernel \
         or its processor lacks them"
    )]
    NoHugePages {
        /// The size of one.
        size: Size,
        /// The pool's folder, which isn't there.
        pool: PathBuf,
    },
    /// The memory may not be locked.
    #[error(
        "--mlock: locking {size} MiB of guest memory: {source}; this process may lock {limit} \
         (RLIMIT_MEMLOCK): raise it (ulimit -l unlimited, LimitMEMLOCK=infinity), or give it \
         CAP_IPC_LOCK"
    )]
    Lock {
        /// What was to be locked, in MiB.
        size: u64,
        /// The limit.
        limit: String,
        /// What the system call said.
        source: io::Error,
    },
    /// The host's kernel merges no pages.
    #[error("--ksm: {0}; the host's kernel needs CONFIG_KSM")]
    Merge(io::Error),
    /// The host has not as much memory as there is to be from the start.
    #[error(
        "--memory prefault=on: bringing the guest's memory: {0}; give less --memory, or leave \
         prefault out"
    )]
    Prefault(io::Error),
    /// The ranges overlap or are empty: a defect of the layout.
    #[error("guest memory at {0:#x} can't be laid out: {1}")]
    Layout(u64, String),
}
