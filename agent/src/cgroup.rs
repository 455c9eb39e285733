//! A container's cgroup, where the guest's kernel has cgroup v2.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use mote_agent_protocol::container::Limits;

use crate::error::{Error, Result};

/// Where the second version is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of the agent's, beneath which containers' are.
const OWN: &str = "mote";

/// One container's.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Tells of changes by POLLPRI.
    events: Option<OwnedFd>,
    killed: u64,
}

/// The controllers that there are.
pub fn controllers() -> Vec<String> {
    let file = Path::new(ROOT).join("cgroup.controllers");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

impl Cgroup {
    /// Makes one with these limits; `None` where the kernel has no cgroups, and none are needed.
    pub fn make(name: &str, limits: &Limits) -> Result<Option<Self>> {
        let files = files(limits);
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            return match files.first() {
                None => Ok(None),
                Some((file, _)) => {
                    let message = format!("limit {file}: the guest's kernel has no cgroup v2");
                    Err(Error::new(message, libc::ENOSYS))
                }
            };
        }
        let own = Path::new(ROOT).join(OWN);
        let path = own.join(name);
        fs::create_dir_all(&path).map_err(Error::of(format_args!("cgroup {name}")))?;
        for controller in controllers() {
            for folder in [Path::new(ROOT), &own] {
                // One that can't be had is missed where a limit is to be written.
                let _ = fs::write(
                    folder.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
        let events = fs::File::open(path.join("memory.events")).ok();
        let mut cgroup = Cgroup {
            path,
            events: events.map(OwnedFd::from),
            killed: 0,
        };
        for (file, value) in files {
            let written = fs::write(cgroup.path.join(file), value);
            if let Err(error) = written {
                cgroup.remove();
                return Err(Error::of(format_args!("limit {file}"))(error));
            }
        }
        cgroup.killed = cgroup.kills();
        Ok(Some(cgroup))
    }

    pub fn place(&self, pid: i32) -> Result<()> {
        let file = self.path.join("cgroup.procs");
        fs::write(file, pid.to_string()).map_err(Error::of("placing a process in its cgroup"))
    }

    pub fn pids(&self) -> Vec<i32> {
        let text = self.read("cgroup.procs");
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    pub fn freeze(&self, freeze: bool) -> Result<()> {
        let value = if freeze { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), value).map_err(Error::of("freezing"))
    }

    /// What polls tell of a lack of memory.
    pub fn events(&self) -> Option<&OwnedFd> {
        self.events.as_ref()
    }

    /// Whether the kernel has killed a process for want of memory since this was asked last.
    pub fn was_short(&mut self) -> bool {
        let killed = self.kills();
        std::mem::replace(&mut self.killed, killed) < killed
    }

    fn kills(&self) -> u64 {
        self.entry("memory.events", "oom_kill")
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// The number behind a word in a file; 0 where there is none.
    pub fn entry(&self, file: &str, word: &str) -> u64 {
        let text = self.read(file);
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(name, _)| *name == word);
        found
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The number that is a file's content; 0 for `max`.
    pub fn number(&self, file: &str) -> u64 {
        self.read(file).trim().parse().unwrap_or(0)
    }

    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("mote-agent: {}: {error}", self.path.display());
        }
    }
}

/// Files and what is written there.
fn files(limits: &Limits) -> Vec<(&'static str, String)> {
    let number = |file, value: Option<u64>| Some((file, value?.to_string()));
    let cpu = limits
        .cpu
        .map(|(quota, period)| format!("{quota} {period}"));
    [
        number("memory.max", limits.memory),
        number("memory.swap.max", limits.swap),
        cpu.map(|text| ("cpu.max", text)),
        number("cpu.weight", limits.cpu_weight),
        limits.cpus.clone().map(|cpus| ("cpuset.cpus", cpus)),
        number("pids.max", limits.pids),
    ]
    .into_iter()
    .flatten()
    .collect()
}
