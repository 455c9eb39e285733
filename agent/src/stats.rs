//! What a container uses: by its cgroup, or where there is none, by /proc.

use std::fs;

use mote_agent_protocol::message::Stats;

use crate::cgroup::Cgroup;

/// All of the cgroup's, with what has ended in it.
pub fn of_cgroup(cgroup: &Cgroup) -> Stats {
    let cpu = ["usage_usec", "user_usec", "system_usec"];
    let io = |word: &str| {
        let text = cgroup.read("io.stat");
        let values = text.split_whitespace().filter_map(|pair| {
            let value = pair.strip_prefix(word)?.strip_prefix('=')?;
            value.parse::<u64>().ok()
        });
        values.sum()
    };
    Stats {
        cpu: cpu.map(|word| cgroup.entry("cpu.stat", word)),
        memory: cgroup.number("memory.current"),
        memory_limit: cgroup.number("memory.max"),
        pids: cgroup.number("pids.current"),
        pids_limit: cgroup.number("pids.max"),
        io: [io("rbytes"), io("wbytes")],
        of_cgroup: true,
    }
}

/// The sum of the processes that there are now.
pub fn of_processes(pids: &[i32]) -> Stats {
    // SAFETY: takes a number.
    let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) });
    let tick = 1_000_000 / ticks.unwrap_or(100).max(1);
    let mut stats = Stats::default();
    for pid in pids {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // Behind the name, which can have anything in it (proc(5)): the third field is first here.
        let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |at: usize| {
            let field = fields.get(at - 3).and_then(|field| field.parse().ok());
            field.unwrap_or(0u64)
        };
        let (user, system) = (number(14) * tick, number(15) * tick);
        stats.cpu[0] += user + system;
        stats.cpu[1] += user;
        stats.cpu[2] += system;
        stats.memory += number(24) * 4096;
        stats.pids += number(20);
    }
    stats
}

/// The processes whose root is this folder, or one in it: a container's, where nothing else says so.
pub fn rooted_at(root: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let here = |pid: &i32| {
        let link = fs::read_link(format!("/proc/{pid}/root"));
        link.is_ok_and(|link| link.starts_with(root))
    };
    pids.filter(here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn processes_that_went_further_down_are_found() {
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            return; // nobody else may
        }
        let folder = tempfile::tempdir().unwrap();
        let down = folder.path().join("root/a/b");
        fs::create_dir_all(&down).unwrap();
        let inner = crate::sys::c(down.to_str().unwrap());
        let mut command = Command::new("none");
        // SAFETY: what is done there are system calls.
        unsafe {
            command.pre_exec(move || {
                libc::chroot(inner.as_ptr());
                libc::write(1, c"x".as_ptr().cast(), 1);
                libc::pause();
                libc::_exit(0)
            });
        }
        // That never comes to a program, so whoever starts it waits until it is killed.
        let root = folder.path().join("root");
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer);
        let starting = std::thread::spawn(move || drop(command.spawn()));
        let mut byte = [0];
        (&reader).read_exact(&mut byte).unwrap();
        let other = folder.path().join("roo");
        assert_eq!(rooted_at(other.to_str().unwrap()), []);
        let found = rooted_at(root.to_str().unwrap());
        assert_eq!(found.len(), 1);
        crate::sys::kill(found[0], libc::SIGKILL).unwrap();
        starting.join().unwrap();
    }
}
