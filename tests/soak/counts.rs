//! What is counted before the first VM and after the last: equal, or something was left behind.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::place::Place;

/// What is there, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<(&'static str, Vec<String>)>);

impl Counts {
    /// What is there now, with the VMs in `folder`.
    pub fn take(folder: &Path, place: &Place) -> Self {
        let mut all = vec![
            ("open files of the test", entries("/proc/self/fd").len()),
            ("threads of the test", entries("/proc/self/task").len()),
        ]
        .into_iter()
        .map(|(what, count)| (what, vec![count.to_string()]))
        .collect::<Vec<_>>();
        let processes = processes();
        let named = |what: &dyn Fn(&Process) -> bool| -> Vec<String> {
            let found = processes.iter().filter(|p| what(p));
            found.map(|p| format!("{} {}", p.pid, p.name)).collect()
        };
        let command = folder.to_str().unwrap();
        let of_a_vm = |p: &Process| p.command.contains(command);
        let child = |p: &Process| p.parent == std::process::id();
        all.push(("processes of VMs", named(&of_a_vm)));
        all.push(("processes that the test is the parent of", named(&child)));
        // The host's kernel names its threads and what it tells of a VM after the VM's process.
        let gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        let alone = |p: &Process| {
            let name = ["kvm-pit/", "vhost-"].map(|prefix| p.name.strip_prefix(prefix));
            p.parent == 2 && name.into_iter().flatten().any(gone)
        };
        all.push((
            "the kernel's threads for VMs without process",
            named(&alone),
        ));
        let mut vms = entries("/sys/kernel/debug/kvm");
        vms.retain(|name| name.split_once('-').is_some_and(|(pid, _)| gone(pid)));
        all.push(("KVM's VMs without process", vms));
        if let Some(cgroup) = &place.cgroup {
            let mut cgroups = entries(cgroup.to_str().unwrap());
            cgroups.retain(|name| cgroup.join(name).is_dir());
            all.push(("cgroups", cgroups));
        }
        if place.own {
            all.push(("network interfaces", lines("/proc/thread-self/net/dev", 2)));
            all.push(("mounts", lines("/proc/thread-self/mountinfo", 0)));
            all.push(("System V shared memory", lines("/proc/sysvipc/shm", 1)));
            all.push(("POSIX shared memory", entries("/dev/shm")));
            all.push(("pseudo-terminals", entries("/dev/pts")));
        }
        let mut files = Vec::new();
        list(folder, &mut files);
        files.retain(|file| !file.contains("/cache/"));
        all.push(("files in the VMs' folders", files));
        Counts(all)
    }

    /// Waits a little for what ends by itself soon after a VM (children of a process that was killed, the
    /// kernel's threads), and takes care of children that have ended; then counts.
    pub fn settled(before: &Counts, folder: &Path, place: &Place) -> Self {
        let deadline = Instant::now() + PATIENCE / 4;
        loop {
            // SAFETY: takes no pointer but null. All that this process started itself was waited for.
            while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
            let now = Counts::take(folder, place);
            if now == *before || Instant::now() > deadline {
                return now;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What isn't as it was, by name.
    pub fn differences(&self, after: &Counts) -> Vec<String> {
        let pairs = self.0.iter().zip(&after.0);
        let changed = pairs.filter(|(before, after)| before != after);
        changed
            .map(|((what, before), (_, after))| {
                let only = |here: &[String], there: &[String]| -> Vec<String> {
                    let only = here.iter().filter(|entry| !there.contains(entry));
                    only.cloned().collect()
                };
                let (gone, new) = (only(before, after), only(after, before));
                format!("{what}: gone {gone:?}, new {new:?}")
            })
            .collect()
    }

    /// A line for each: the count, or the one number that it is.
    pub fn table(&self, after: &Counts) -> String {
        let number = |entries: &[String]| match entries {
            [one] if one.parse::<u64>().is_ok() => one.clone(),
            _ => entries.len().to_string(),
        };
        let rows = self.0.iter().zip(&after.0).map(|(before, after)| {
            let (what, before, after) = (before.0, number(&before.1), number(&after.1));
            format!("  {what:<44} {before:>6} {after:>6}\n")
        });
        rows.collect()
    }
}

/// What the whole host has, by its name.
pub type Host = [(&'static str, i64); 6];

/// What the whole host has now; others change it, too.
pub fn host() -> Host {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        value.unwrap_or(0)
    };
    let files = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    let files = files.split_whitespace().next().unwrap().parse().unwrap();
    [
        ("MemAvailable, KiB", row("MemAvailable:")),
        ("Shmem, KiB", row("Shmem:")),
        ("Slab, KiB", row("Slab:")),
        ("HugePages_Free", row("HugePages_Free:")),
        ("HugePages_Rsvd", row("HugePages_Rsvd:")),
        ("open files", files),
    ]
}

struct Process {
    pid: u32,
    parent: u32,
    name: String,
    command: String,
}

/// All there are, but for this one.
fn processes() -> Vec<Process> {
    let pids = entries("/proc").into_iter().filter_map(|n| n.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some(Process {
                pid,
                parent: rest.split(' ').nth(1)?.parse().ok()?,
                name: name.to_owned(),
                command: String::from_utf8_lossy(&command).into_owned(),
            })
        })
        .collect()
}

/// The names in a folder; none where there is no such folder.
fn entries(folder: &str) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The lines of a file, from this one on; of a line with a colon, what is before it.
fn lines(path: &str, skip: usize) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().skip(skip);
    lines
        .map(|line| line.split(": ").next().unwrap().trim().to_owned())
        .collect()
}

/// All files, with their folders.
fn list(folder: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        all.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), all);
        }
    }
    all.sort();
}
