//! A pod's VM, and what on the host belongs to it: they go together.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};

use containerd_shim::{Error, Result};
use log::warn;
use mote_agent_protocol::Request;
use mote_agent_protocol::host::CallError;
use mote_agent_protocol::message::Reply;
use mote_agent_protocol::setup::{Link, Setup, Step};

use crate::cgroup::Cgroup;
use crate::network::Namespace;
use crate::pod::refused;
use crate::share::Share;
use crate::vm::Vm;

/// The VM, and what on the host belongs to it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub vm: Vm,
    pub host: Host,
    /// The host's folders that stand for what the guest has at its containers' /dev/shm, in the guest's order.
    pub memory: Mutex<Vec<PathBuf>>,
    /// Stopped as a whole: nobody in it answers. Held while somebody is asked something, and while it changes.
    is_paused: RwLock<bool>,
}

impl Machine {
    pub fn new(vm: Vm, host: Host) -> Self {
        Machine {
            vm,
            host,
            memory: Mutex::default(),
            is_paused: RwLock::default(),
        }
    }

    /// Asks the agent, if it can answer.
    pub fn call(&self, request: Request) -> Result<Reply> {
        let is_paused = self.is_paused.read();
        if *is_paused.unwrap_or_else(PoisonError::into_inner) {
            return Err(refused("the container is paused"));
        }
        self.vm.call(request).map_err(|error| match &error {
            CallError::Refused(refusal) if refusal.errno == libc::ESRCH => {
                Error::NotFoundError(error.to_string())
            }
            _ => refused(error),
        })
    }

    /// Stops the VM as a whole, or has it go on.
    pub fn pause(&self, pause: bool) -> Result<()> {
        let is_paused = self.is_paused.write();
        let mut is_paused = is_paused.unwrap_or_else(PoisonError::into_inner);
        self.vm.pause(pause).map_err(refused)?;
        *is_paused = pause;
        Ok(())
    }

    pub fn is_paused(&self) -> bool {
        let is_paused = self.is_paused.read();
        *is_paused.unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest what CNI has put into the namespace by now.
    pub fn join_network(&self) -> Result<()> {
        let Some(network) = &self.host.network else {
            return Ok(());
        };
        let found: Option<Link> = network.join().map_err(refused)?;
        if let Some(link) = found {
            let steps = vec![Step::Link(link)];
            self.call(Request::Setup(Setup { steps }))?;
        }
        Ok(())
    }
}

impl Drop for Machine {
    /// Nobody uses it any more.
    fn drop(&mut self) {
        self.vm.end();
    }
}

/// What is made on the host for a VM, before it and until after its end.
#[derive(Debug)]
pub(crate) struct Host {
    pub folder: PathBuf,
    pub share: Option<Share>,
    pub network: Option<Namespace>,
    pub cgroup: Option<Cgroup>,
}

impl Drop for Host {
    fn drop(&mut self) {
        let network = self.network.take();
        if let Some(Err(error)) = network.map(|network| network.remove()) {
            warn!("{error}");
        }
        drop(self.share.take());
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        crate::leftovers::clear(&self.folder);
    }
}
