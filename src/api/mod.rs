//! An API by which other programs make and control a VM: Firecracker's v1, over HTTP on a Unix socket, as far
//! as mote has what it speaks of, and paths of mote's own under /mote/v1 (docs/api.md).
//!
//! - `http`: connections, requests and answers, of anything
//! - [`model`]: the bodies
//! - `map`: what they say of a VM as a [`VmConfig`], and back
//! - `desk`: what the API knows of its VM, and how far that has come
//! - `routes`: who answers what
//! - `fault`, `answers`: the forms of answers
//!
//! A VM that was described over the API goes through two stages, and one that was described otherwise begins with
//! the second:
//!
//! 1. [`Api::take_orders`], on the thread that will run the VM, answers until the VM is to start.
//! 2. [`Api::attend`] leaves all further requests to a thread of the VM's own, confined like its others
//!    ([`crate::sandbox`]).

mod answers;
mod desk;
mod fault;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod map;
pub mod model;
mod routes;

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;

use crate::config::VmConfig;
use crate::machine::Vm;
pub use crate::sockets::ListenError;
use desk::Desk;
pub use desk::SetLogger;
pub use http::{MAX_BODY, MAX_CONNECTIONS, MAX_HEAD, PATIENCE};

/// The version of Firecracker whose API this is.
pub const FOLLOWS: &str = "1.16.0";

/// An API's socket, and what it knows of its VM.
///
/// ```no_run
/// use motevm::api::Api;
/// use motevm::machine::Reach;
/// use motevm::{BuildOptions, Host, VmConfig, build};
///
/// let mut config = VmConfig::default();
/// config.boot.kernel = Some("vmlinux".into());
/// let api = Api::open("vm.sock".as_ref(), "vm-1", None)?;
/// let reach = Some(Reach::default());
/// let mut vm = build(&Host::open()?, &config, BuildOptions { reach, ..Default::default() })?;
/// api.attend(&mut vm, &config); // curl --unix-socket vm.sock http://vm/
/// vm.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Api {
    server: http::Server,
    desk: Arc<Desk>,
}

impl Api {
    /// Makes the socket at `path`, which only this user may connect to, or takes over the one of `fd=N`; `id` is
    /// the VM's name. `set_logger` does what a request says of the log; without it, such a request is refused.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn open(path: &Path, id: &str, set_logger: Option<SetLogger>) -> Result<Self, ListenError> {
        let desk = Arc::new(Desk::new(id, set_logger));
        let server = http::Server::open(path, desk.clone())?;
        Ok(Api { server, desk })
    }

    /// Answers requests until one starts the VM; gives the VM that they have described. Before anything else is
    /// asked of the API, [`refuse`](Self::refuse) or [`attend`](Self::attend) has to follow. `None` once `wake` is
    /// readable, or a request says that there is to be no VM.
    ///
    /// # Errors
    ///
    /// Waiting failed.
    pub fn take_orders(&mut self, wake: RawFd) -> io::Result<Option<VmConfig>> {
        let desk = self.desk.clone();
        match self.server.serve(wake, || desk.is_decided())? {
            true => Ok(None),
            false => Ok(desk.config()),
        }
    }

    /// The VM that was to start can't be: whoever asked for it is told, and may describe it anew.
    pub fn refuse(&mut self, why: &str) {
        self.desk.refuse(why);
    }

    /// Answers from now on for `vm`, as soon as it runs, on a thread of its own. It has to be built with
    /// [`BuildOptions::reach`](crate::BuildOptions::reach), if it is confined. The socket's name is removed when
    /// what this returns is dropped.
    pub fn attend(mut self, vm: &mut Vm, config: &VmConfig) -> Name {
        let name = Name(self.server.take_name());
        self.desk.describe(config);
        let Api { mut server, desk } = self;
        vm.accompany(move |beside| {
            let ended = beside.ended();
            desk.start(beside);
            if let Err(error) = server.serve(ended, || false) {
                log::error!("the API doesn't answer any more: {error}");
            }
            desk.end();
            server.finish();
        });
        name
    }
}

/// The name of an API's socket. Dropping it removes it.
#[derive(Debug)]
pub struct Name(#[expect(dead_code, reason = "dropped only")] Option<crate::sockets::Made>);
