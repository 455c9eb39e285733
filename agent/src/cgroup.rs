//! A container's cgroup, where the guest's kernel has cgroup v2.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mote_agent_protocol::container::Limits;

use crate::error::{Error, Result};

/// Where the second version is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of the agent's, beneath which containers' are.
const OWN: &str = "mote";

/// How many a container can have made in its own that are looked at.
const MOST_FOLDERS: usize = 4096;

/// How long is waited for killed processes to be gone, while all else stands still.
const A_MOMENT: Duration = Duration::from_millis(500);
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// One container's.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Tells of changes by POLLPRI, from each reading of this very descriptor to the next change.
    events: Option<File>,
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
        make_anew(&own, &path).map_err(Error::of(format_args!("cgroup {name}")))?;
        for controller in controllers() {
            for folder in [Path::new(ROOT), &own] {
                // One that can't be had is missed where a limit is to be written.
                let _ = fs::write(
                    folder.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
        let events = File::open(path.join("memory.events")).ok();
        let mut cgroup = Cgroup {
            path,
            events,
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
        let mut pids = Vec::new();
        for folder in folders(&self.path) {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids
    }

    /// Kills all that is in it, and what is made meanwhile; not before Linux 5.14.
    pub fn kill(&self) -> io::Result<()> {
        kill(&self.path)
    }

    pub fn freeze(&self, freeze: bool) -> Result<()> {
        let value = if freeze { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), value).map_err(Error::of("freezing"))
    }

    /// Whether a process of it would do nothing.
    pub fn is_frozen(&self) -> bool {
        self.number("cgroup.freeze") == 1
    }

    /// What polls tell of a lack of memory.
    pub fn events(&self) -> Option<&File> {
        self.events.as_ref()
    }

    /// Whether the kernel has killed a process for want of memory since this was asked last.
    pub fn was_short(&mut self) -> bool {
        let killed = self.kills();
        std::mem::replace(&mut self.killed, killed) < killed
    }

    fn kills(&mut self) -> u64 {
        let mut bytes = [0; 1024];
        let count = self.events.as_ref().map(|file| file.read_at(&mut bytes, 0));
        match count {
            Some(Ok(count)) => word(&String::from_utf8_lossy(&bytes[..count]), "oom_kill"),
            // A cgroup that is gone would be ready for ever.
            _ => {
                self.events = None;
                self.killed
            }
        }
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// The number behind a word in a file; 0 where there is none.
    pub fn entry(&self, file: &str, word: &str) -> u64 {
        self::word(&self.read(file), word)
    }

    /// The number that is a file's content; 0 for `max`.
    pub fn number(&self, file: &str) -> u64 {
        self.read(file).trim().parse().unwrap_or(0)
    }

    pub fn remove(&self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("mote-agent: {}: {error}", self.path.display());
        }
    }
}

fn kill(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

/// A cgroup, and all that a container has made in it: each before what is in it.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    let mut at = 0;
    while at < all.len() && all.len() < MOST_FOLDERS {
        let entries = fs::read_dir(&all[at]).into_iter().flatten().flatten();
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        let found: Vec<_> = entries
            .filter(is_folder)
            .map(|entry| entry.path())
            .collect();
        all.extend(found);
        at += 1;
    }
    all
}

/// Removes it with all that is in it, as soon as what was killed there is gone.
fn remove(path: &Path) -> io::Result<()> {
    let end = Instant::now() + A_MOMENT;
    loop {
        let mut result = Ok(());
        for folder in folders(path).iter().rev() {
            result = fs::remove_dir(folder);
        }
        // What it says last is of `path` itself.
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < end => std::thread::sleep(BETWEEN_LOOKS),
            result => return result,
        }
    }
}

/// Makes it, with nothing of an earlier one's in it.
fn make_anew(own: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(own)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let _ = kill(path);
            remove(path)?;
            fs::create_dir(path)
        }
        made => made,
    }
}

/// The number behind a word at a line's beginning; 0 where there is none.
fn word(text: &str, word: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(name, _)| *name == word);
    let value = found.and_then(|(_, value)| value.trim().parse().ok());
    value.unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::os::fd::AsRawFd;

    fn is_ready(file: &File) -> bool {
        let mut polled = [libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLPRI,
            revents: 0,
        }];
        sys::poll(&mut polled, 0).unwrap();
        polled[0].revents != 0
    }

    /// Any file of kernfs will do: they are ready until they have been read.
    #[test]
    fn events_that_have_been_looked_at_are_not_ready() {
        let path = PathBuf::from("/sys/devices/system/cpu");
        let mut cgroup = Cgroup {
            events: Some(File::open(path.join("online")).unwrap()),
            path,
            killed: 0,
        };
        assert!(is_ready(cgroup.events().unwrap()));
        assert!(!cgroup.was_short());
        assert!(!is_ready(cgroup.events().unwrap()));
    }
}
