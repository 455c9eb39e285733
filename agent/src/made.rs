//! A container that is there, with its processes: what is asked of it, and how all of it ends.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use mote_agent_protocol::message::State;
use mote_agent_protocol::{Container, Target};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::process::Spawned;
use crate::{mounts, stats, sys};

/// How often is looked for processes that others have made while they were killed one by one.
const MOST_ROUNDS: usize = 16;

/// A container.
pub struct Made {
    pub container: Container,
    pub cgroup: Option<Cgroup>,
    pub processes: BTreeMap<String, Own>,
}

/// A process of a container.
pub struct Own {
    pub state: State,
    /// Before it runs its program.
    pub waiting: Option<Spawned>,
    pub terminal: Option<Rc<OwnedFd>>,
}

impl Made {
    pub fn process(&self, target: &Target) -> Result<&Own> {
        let none = || Error::new("there is no such process", libc::ENOENT);
        self.processes.get(&target.process).ok_or_else(none)
    }

    /// The number of the first process, which must not have ended.
    pub fn first(&self) -> Result<i32> {
        match self.processes.get("").map(|own| own.state) {
            Some(State::Created(pid) | State::Running(pid)) => Ok(pid),
            _ => Err(Error::new(
                "the container's first process has ended",
                libc::ESRCH,
            )),
        }
    }

    /// A new process would be frozen, too, and the agent wait for it.
    pub fn check_thawed(&self) -> Result<()> {
        match self.cgroup.as_ref().is_some_and(Cgroup::is_frozen) {
            true => Err(Error::new("the container is frozen", libc::EBUSY)),
            false => Ok(()),
        }
    }

    pub fn pids(&self) -> Vec<i32> {
        match &self.cgroup {
            Some(cgroup) => cgroup.pids(),
            None => {
                let mut pids = stats::rooted_at(&self.container.root);
                let own = self.processes.values().filter_map(|own| match own.state {
                    State::Created(pid) | State::Running(pid) => Some(pid),
                    State::Ended(_) => None,
                });
                pids.extend(own);
                pids.sort_unstable();
                pids.dedup();
                pids
            }
        }
    }

    pub fn kill(&self, signal: i32) {
        let is_kill = signal == libc::SIGKILL;
        if is_kill && self.cgroup.as_ref().is_some_and(|own| own.kill().is_ok()) {
            return;
        }
        let mut seen = Vec::new();
        // Where one by one is all there is, what was made meanwhile is for the next time.
        for _ in 0..if is_kill { MOST_ROUNDS } else { 1 } {
            let mut pids = self.pids();
            pids.retain(|pid| !seen.contains(pid));
            if pids.is_empty() {
                break;
            }
            for pid in &pids {
                // One that has ended meanwhile is none to miss.
                let _ = sys::kill(*pid, signal);
            }
            seen.append(&mut pids);
        }
    }

    /// What is left of it.
    pub fn clear(&self) {
        self.kill(libc::SIGKILL);
        for target in mounts::under(&self.container.root) {
            let _ = sys::unmount(&target, libc::MNT_DETACH);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}
