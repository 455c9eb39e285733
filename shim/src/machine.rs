//! A pod's VM, and what on the host belongs to it: they go together.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use containerd_shim::Result;
use log::warn;
use mote_agent_protocol::Request;
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
    /// Stopped as a whole: nobody in it answers.
    pub is_paused: AtomicBool,
}

impl Machine {
    /// Asks the agent, if it can answer.
    pub fn call(&self, request: Request) -> Result<Reply> {
        match self.is_paused.load(Ordering::Acquire) {
            true => Err(refused("the container is paused")),
            false => self.vm.call(request).map_err(refused),
        }
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
