//! The host's CPUs and NUMA nodes, and what of them this process may use: read from /proc and /sys.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::CpuList;

/// A NUMA node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNode {
    /// Its number.
    pub id: u16,
    /// Its CPUs that are online.
    pub cpus: CpuList,
    /// Whether it has memory.
    pub has_memory: bool,
}

/// A thread of the host's kernel with a real-time priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelThread {
    /// As `ps` shows it.
    pub name: String,
    /// 1 to 99.
    pub priority: u8,
    /// Where it runs.
    pub cpus: CpuList,
}

/// What a placement is decided by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCpus {
    /// The CPUs that run.
    pub online: CpuList,
    /// Those that the calling thread may use: of its cpuset, and of its own mask (taskset).
    pub allowed: CpuList,
    /// The NUMA nodes that are online; none where the kernel has no NUMA.
    pub nodes: Vec<HostNode>,
    /// The nodes whose memory the process may use (its cpuset).
    pub allowed_nodes: CpuList,
    /// How much of each period all real-time threads of a CPU may have, in microseconds;
    /// `None` for no limit (sched(7)).
    pub rt_runtime: Option<u64>,
    /// Where /proc is.
    pub(super) root: PathBuf,
}

impl HostCpus {
    /// Reads what the host below `root` shows to the calling thread.
    pub fn read(root: &Path) -> Self {
        let list = |file: &str| CpuList::of_kernel(&read(root, file)?);
        let status = read(root, "proc/thread-self/status").unwrap_or_default();
        let of_status = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            CpuList::of_kernel(line)
        };
        // In a jail there is no /proc, but the kernel tells of this thread also without it.
        let here = root == Path::new("/");
        let asked = || here.then(|| super::thread::current().ok()).flatten();
        let allowed = of_status("Cpus_allowed_list:").or_else(asked);
        let allowed = allowed.unwrap_or_default();
        let folder = "sys/devices/system/node";
        let node_numbers = list(&format!("{folder}/online")).unwrap_or_default();
        let with_memory = list(&format!("{folder}/has_memory")).unwrap_or_default();
        let nodes = node_numbers.iter().map(|id| HostNode {
            id,
            cpus: list(&format!("{folder}/node{id}/cpulist")).unwrap_or_default(),
            has_memory: with_memory.contains(id),
        });
        let runtime = read(root, "proc/sys/kernel/sched_rt_runtime_us");
        HostCpus {
            nodes: nodes.collect(),
            // Without that file, what is allowed is all that is known to be there.
            online: list("sys/devices/system/cpu/online").unwrap_or_else(|| allowed.clone()),
            allowed,
            allowed_nodes: of_status("Mems_allowed_list:").unwrap_or(node_numbers),
            // -1 is for no limit; a kernel without the file has one.
            rt_runtime: runtime.map_or(Some(950_000), |text| text.trim().parse().ok()),
            root: root.to_owned(),
        }
    }

    /// The kernel's own real-time threads, the highest priority first. It looks at each process of the
    /// host, and is for those who ask for real time.
    pub fn kernel_threads(&self) -> Vec<KernelThread> {
        let entries = fs::read_dir(self.root.join("proc")).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut threads: Vec<_> = names
            .filter_map(|name| self.kernel_thread(name.to_str()?))
            .collect();
        threads.sort_by(|a, b| (b.priority, &a.name).cmp(&(a.priority, &b.name)));
        threads
    }

    /// proc_pid_stat(5): the 9th field are flags, the 40th the real-time priority.
    fn kernel_thread(&self, pid: &str) -> Option<KernelThread> {
        const PF_KTHREAD: u64 = 0x0020_0000;
        pid.parse::<u32>().ok()?;
        let stat = read(&self.root, &format!("proc/{pid}/stat"))?;
        // The name may have spaces and parentheses in it.
        let (start, rest) = stat.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let mut fields = rest.split_whitespace(); // the first is the 3rd
        let flags: u64 = fields.nth(6)?.parse().ok()?;
        let priority: u8 = fields.nth(30)?.parse().ok()?;
        if flags & PF_KTHREAD == 0 || priority == 0 {
            return None;
        }
        let status = read(&self.root, &format!("proc/{pid}/status"))?;
        let cpus = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(KernelThread {
            name: name.to_owned(),
            priority,
            cpus: CpuList::of_kernel(cpus)?,
        })
    }
}

fn read(root: &Path, file: &str) -> Option<String> {
    fs::read_to_string(root.join(file)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostCpus) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = HostCpus::read(dir.path());
        (dir, host)
    }

    const STATUS: &str = "Name:\tmote\nCpus_allowed:\t0c\nCpus_allowed_list:\t2-3\n\
        Mems_allowed_list:\t1\n";

    #[test]
    fn a_host_with_two_nodes_is_read() {
        let (_dir, host) = host(&[
            ("proc/thread-self/status", STATUS),
            ("proc/sys/kernel/sched_rt_runtime_us", "-1\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/devices/system/node/online", "0-1\n"),
            ("sys/devices/system/node/has_memory", "1\n"),
            ("sys/devices/system/node/node0/cpulist", "0-1\n"),
            ("sys/devices/system/node/node1/cpulist", "2-3\n"),
        ]);
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!((host.online, host.allowed), (list("0-3"), list("2-3")));
        assert_eq!(host.allowed_nodes, list("1"));
        assert_eq!(host.rt_runtime, None);
        let first = HostNode {
            id: 0,
            cpus: list("0-1"),
            has_memory: false,
        };
        let second = HostNode {
            id: 1,
            cpus: list("2-3"),
            has_memory: true,
        };
        assert_eq!(host.nodes, [first, second]);
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        let (_dir, host) = host(&[("proc/thread-self/status", STATUS)]);
        assert_eq!(host.online.to_string(), "2-3");
        assert!(host.nodes.is_empty() && host.rt_runtime == Some(950_000));
        assert!(host.kernel_threads().is_empty());
    }

    #[test]
    fn kernel_threads_are_told_from_programs() {
        let stat = |pid: &str, name: &str, flags: u32, priority: u8| {
            format!(
                "{pid} ({name}) S 2 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 -51 0 1 0 1 0 0 0 0 0 0 0 0 0 0 \
                 2147483647 0 0 0 0 17 0 {priority} 1 0 0 0 0 0 0 0 0 0 0 0\n"
            )
        };
        let irq = stat("50", "irq/9-a) (b", 2_129_984, 50);
        let (program, plain) = (
            stat("51", "jackd", 4_194_304, 70),
            stat("52", "kworker/0:1", 69_238_880, 0),
        );
        let watchdog = stat("53", "watchdogd", 2_097_152, 99);
        let status = "Cpus_allowed_list:\t0\n";
        let (_dir, host) = host(&[
            ("proc/50/stat", &irq),
            ("proc/50/status", status),
            ("proc/51/stat", &program),
            ("proc/51/status", status),
            ("proc/52/stat", &plain),
            ("proc/52/status", status),
            ("proc/53/stat", &watchdog),
            ("proc/53/status", status),
            ("proc/54/stat", "54 (x"),
            ("proc/self/stat", &irq),
        ]);
        let threads: Vec<_> = host
            .kernel_threads()
            .into_iter()
            .map(|t| (t.name, t.priority))
            .collect();
        assert_eq!(
            threads,
            [("watchdogd".to_owned(), 99), ("irq/9-a) (b".to_owned(), 50)]
        );
    }

    #[test]
    fn this_host_has_a_cpu_for_us() {
        let host = HostCpus::read(Path::new("/"));
        assert!(!host.allowed.is_empty() && host.allowed.without(&host.online).is_empty());
    }
}
