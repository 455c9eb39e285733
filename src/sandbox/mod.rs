//! What a VM's threads may still do on the host once the guest runs: next to nothing.
//!
//! A guest that has taken over a thread of the monitor has what that thread has. So each takes off
//! what it needs no more, before the guest runs or a byte of the guest's comes by:
//!
//! - [`allowed`]: the system calls of each kind of thread, with the arguments that matter; the rest
//!   ends the process ([`filter`], [`violation`])
//! - [`landlock`]: files can be opened only where the VM still makes some
//! - [`leftovers`]: what the process was started with
//! - [`privileges`]: no capabilities, and none to be had by running a program
//!
//! A thread that the starter starts ([`crate::threads`]) inherits all but its own list from it.

pub mod allowed;
pub mod filter;
pub mod landlock;
pub mod leftovers;
pub mod privileges;
pub mod violation;

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use allowed::Allowed;
use seccompiler::BpfProgram;

pub use landlock::Places;
pub use privileges::Kept;

/// What a thread is for, and so what it may do. Each runs a list of [`allowed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ThreadKind {
    /// Runs the guest.
    Vcpu,
    /// Serves a queue of the entropy device, or the console's output.
    Worker,
    /// Serves a queue of a drive.
    Drive,
    /// Serves a queue of a drive by an io_uring.
    Ring,
    /// Serves a pair of queues of a network.
    Net,
    /// Serves vsock.
    Vsock,
    /// Speaks with the agent in the guest, or copies a stream of it ([`crate::devices::virtio::vsock::OwnPort`]).
    Agent,
    /// Speaks with another process that serves a device, or watches how long that takes.
    VhostUser,
    /// Serves the balloon.
    Balloon,
    /// Writes what the console prints.
    Console,
    /// Shows metrics.
    Metrics,
    /// Answers an API.
    Api,
    /// Waits for the end, for the console's input and for the boot timer; ends the VM.
    Main,
    /// Sets devices up when their drivers are ready ([`crate::threads`]).
    Setup,
    /// Starts the others ([`crate::threads`]).
    Starter,
}

impl ThreadKind {
    /// All there are.
    pub const ALL: [ThreadKind; 15] = [
        ThreadKind::Vcpu,
        ThreadKind::Worker,
        ThreadKind::Drive,
        ThreadKind::Ring,
        ThreadKind::Net,
        ThreadKind::Vsock,
        ThreadKind::Agent,
        ThreadKind::VhostUser,
        ThreadKind::Balloon,
        ThreadKind::Console,
        ThreadKind::Metrics,
        ThreadKind::Api,
        ThreadKind::Main,
        ThreadKind::Setup,
        ThreadKind::Starter,
    ];
}

/// Whose threads are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confine {
    /// Nobody's.
    #[default]
    Nothing,
    /// The threads that are started for the VM. The one that calls [`run`](crate::Vm::run), which is
    /// the embedding program's, stays as it is.
    Threads,
    /// The calling thread, too, for good: for a program whose only work is the VM. All its threads are
    /// confined then, if it has no others.
    Process,
}

/// Why a VM can't be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host's kernel has no seccomp filters.
    #[error(
        "this host's kernel has no seccomp filters ({0}), which confine a VM; \
         --no-sandbox runs it without"
    )]
    NoSeccomp(io::Error),
    /// A filter could not be made.
    #[error("making the system call filter of {0:?} threads: {1}")]
    Filter(ThreadKind, seccompiler::BackendError),
    /// Landlock refused what it is there for.
    #[error("Landlock rules: {0}")]
    Landlock(#[from] landlock::LandlockError),
}

struct Program {
    kind: ThreadKind,
    list: Vec<Allowed>,
    /// Made by the first thread that needs it: so no thread waits for another's.
    program: OnceLock<BpfProgram>,
}

impl Program {
    fn get(&self) -> Result<&BpfProgram, SandboxError> {
        if let Some(program) = self.program.get() {
            return Ok(program);
        }
        let program = filter::program(&self.list);
        let program = program.map_err(|e| SandboxError::Filter(self.kind, e))?;
        Ok(self.program.get_or_init(|| program))
    }
}

/// What a VM is confined to.
pub struct Confinement {
    /// Sorted, with no kind that the VM has no thread of.
    programs: Vec<Program>,
    /// Of the starter, besides its list.
    threads_only: BpfProgram,
    rules: Option<landlock::Rules>,
    kept: Kept,
}

impl Confinement {
    /// Makes the filters of a VM that has threads of these kinds, besides those that each has, and is to make
    /// files in these places.
    ///
    /// # Errors
    ///
    /// The host can't confine it.
    pub fn new(
        kinds: &[ThreadKind],
        places: &Places,
        kept: Kept,
    ) -> Result<Arc<Self>, SandboxError> {
        filter::available().map_err(SandboxError::NoSeccomp)?;
        let vm = allowed::Vm {
            kinds,
            has_sockets: !places.sockets.is_empty(),
            maps_files: places.maps_files,
            has_vhost: !places.devices.is_empty(),
            is_placed: places.is_placed,
            tells_memory: places.proc,
        };
        let each = [
            ThreadKind::Vcpu,
            ThreadKind::Main,
            ThreadKind::Setup,
            ThreadKind::Starter,
        ];
        let mut kinds = [&each, kinds].concat();
        kinds.sort_unstable();
        kinds.dedup();
        let program = |kind| Program {
            kind,
            list: allowed::of(kind, &vm),
            program: OnceLock::new(),
        };
        let failed = |e| SandboxError::Filter(ThreadKind::Starter, e);
        Ok(Arc::new(Confinement {
            programs: kinds.into_iter().map(program).collect(),
            threads_only: filter::threads_only().map_err(failed)?,
            rules: landlock::Rules::new(places)?,
            kept,
        }))
    }

    /// How many system calls all threads may make, together.
    pub fn system_calls(&self) -> usize {
        let all = self.programs.iter().flat_map(|of| &of.list);
        let mut numbers: Vec<_> = all.map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    }

    /// Confines the calling thread for good.
    ///
    /// # Panics
    ///
    /// The host refused: no guest may run then.
    pub fn confine(&self, kind: ThreadKind) {
        let failed =
            |what, e: &dyn fmt::Display| panic!("confining a {kind:?} thread ({what}): {e}");
        privileges::no_new_ones().unwrap_or_else(|e| failed("no_new_privs", &e));
        if let Some(rules) = &self.rules {
            rules.enforce().unwrap_or_else(|e| failed("Landlock", &e));
        }
        self.kept
            .drop_others(kind)
            .unwrap_or_else(|e| failed("capabilities", &e));
        self.confine_further(kind);
        if kind == ThreadKind::Starter {
            filter::install(&self.threads_only).unwrap_or_else(|e| failed("seccomp", &e));
        }
    }

    /// The same, for a thread that the starter has started.
    ///
    /// # Panics
    ///
    /// The host refused, or the VM was said to have no such thread.
    pub fn confine_further(&self, kind: ThreadKind) {
        violation::name_thread();
        let of = self.programs.iter().find(|of| of.kind == kind);
        let of = of.unwrap_or_else(|| panic!("no filter for a {kind:?} thread"));
        let program = of.get().unwrap_or_else(|e| panic!("{e}"));
        if let Err(error) = filter::install(program) {
            panic!("confining a {kind:?} thread (seccomp): {error}");
        }
    }
}

/// Whether the calling thread is confined.
pub fn is_confined() -> bool {
    violation::is_thread_named()
}

impl fmt::Debug for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.programs.iter().map(|of| of.kind).collect();
        f.debug_struct("Confinement")
            .field("kinds", &kinds)
            .finish_non_exhaustive()
    }
}
