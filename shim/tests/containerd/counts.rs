//! What there is on this host of containers. All that runs in the tests' namespaces is theirs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::place::cgroups;

/// How long what has ended may take to be gone.
const SETTLED: Duration = Duration::from_secs(60);

/// Names of all there is.
pub struct Counts(Vec<(&'static str, BTreeSet<String>)>);

/// Processes with their command lines; those that have ended and wait for their parents have none.
pub fn processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let line = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .trim_end()
            .to_owned();
        (!line.is_empty()).then_some((pid, line))
    };
    numbers.filter_map(line).collect()
}

/// Where something is mounted.
pub fn mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mounts
        .lines()
        .filter_map(|line| Some(line.split(' ').nth(4)?.to_owned()))
        .collect()
}

fn devices() -> BTreeSet<String> {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next());
    // The bridge stays, as CNI wants it; the test that made it takes it away.
    names.map(|name| name.trim().to_owned()).collect()
}

/// Network namespaces that a process is in.
fn networks() -> BTreeSet<String> {
    let links = processes()
        .into_iter()
        .filter_map(|(pid, _)| fs::read_link(format!("/proc/{pid}/ns/net")).ok());
    links.map(|link| link.display().to_string()).collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

impl Counts {
    pub fn take(daemon: &Daemon) -> Self {
        let own = [1, std::process::id(), daemon.pid()];
        let processes = processes()
            .into_iter()
            .filter(|(pid, _)| !own.contains(pid));
        let state = daemon.folder().join("state");
        let root = daemon.folder().join("root");
        let folders = [
            "/run/mote".into(),
            "/run/netns".into(),
            "/run/runc".into(),
            "/run/containerd".into(),
            "/run/containerd/s".into(),
            "/run/containerd/fifo".into(),
            "/run/containerd/runc/default".into(),
            "/var/lib/cni/networks/mote".into(),
            "/var/lib/cni/results".into(),
            state.join("io.containerd.runtime.v2.task/default"),
            root.join("io.containerd.runtime.v2.task/default"),
            root.join("io.containerd.snapshotter.v1.overlayfs/snapshots"),
        ];
        let files = folders.iter().flat_map(|folder| entries(folder));
        // What containerd, runc and CNI make with the first container, and keep.
        let kept = [
            "/run/containerd/s",
            "/run/containerd/fifo",
            "/run/containerd/runc",
        ];
        let lasting = ["last_reserved_ip.0", "/lock"];
        let files = files.filter(|file| {
            !kept.contains(&file.as_str()) && !lasting.iter().any(|end| file.ends_with(end))
        });
        let mut groups = cgroups();
        // The parent of all containers' is kept.
        groups.retain(|group| !group.ends_with("/default"));
        let listed = |arguments: &[&str]| -> Vec<String> {
            let mut command = daemon.ctr();
            command.args(arguments);
            let list = crate::ctr::finish(command, &[]).text();
            list.lines().map(str::to_owned).collect()
        };
        Counts(vec![
            (
                "process",
                processes
                    .map(|(pid, line)| format!("{pid} {line}"))
                    .collect(),
            ),
            ("mount", mounts().into_iter().collect()),
            ("network device", devices()),
            ("network namespace", networks()),
            ("file", files.collect()),
            ("cgroup", groups),
            (
                "container",
                listed(&["container", "ls", "-q"]).into_iter().collect(),
            ),
            ("task", listed(&["task", "ls", "-q"]).into_iter().collect()),
        ])
    }

    /// As it is once what has ended is gone.
    pub fn settled(before: &Counts, daemon: &Daemon) -> Self {
        let deadline = Instant::now() + SETTLED;
        loop {
            let now = Counts::take(daemon);
            if before.differences(&now).is_empty() || Instant::now() > deadline {
                return now;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is new, and what is gone.
    pub fn differences(&self, after: &Counts) -> Vec<String> {
        let mut all = Vec::new();
        for ((kind, before), (_, after)) in self.0.iter().zip(&after.0) {
            all.extend(
                after
                    .difference(before)
                    .map(|name| format!("new {kind}: {name}")),
            );
            all.extend(
                before
                    .difference(after)
                    .map(|name| format!("gone {kind}: {name}")),
            );
        }
        all
    }
}
