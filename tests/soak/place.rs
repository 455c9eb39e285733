//! Where the VMs run: namespaces of the test's own, so that whatever is there afterwards is theirs.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use crate::common::can_run;

/// Where this thread is, and what it starts.
pub struct Place {
    /// In a network, an IPC and a mount namespace of the test's own, with /dev/shm, pseudo-terminals and
    /// (where the kernel has it) debugfs of their own.
    pub own: bool,
    /// A cgroup of the test's own, below which jails make theirs.
    pub cgroup: Option<PathBuf>,
}

impl Place {
    /// Goes there. What can't be had is said aloud.
    pub fn enter() -> Self {
        let obstacle = separate().err();
        let obstacle =
            obstacle.map(|e| format!("namespaces of the test's own: {e}; run it as root"));
        let own = can_run("tap", obstacle);
        if own {
            let _ = mount("debugfs", "/sys/kernel/debug", "debugfs", "");
        }
        let cgroup = cgroup().map_err(|e| format!("a cgroup of the test's own: {e}"));
        can_run("cgroup", cgroup.as_ref().err().cloned());
        let cgroup = cgroup.ok();
        Place { own, cgroup }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = std::fs::remove_dir(cgroup);
        }
    }
}

/// A new cgroup of version 2.
fn cgroup() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let version_2 = mounts.find_map(|mut words| {
        let place = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    let parent = version_2.ok_or(io::ErrorKind::NotFound)?;
    let own = parent.join(format!("mote-soak-{}", std::process::id()));
    std::fs::create_dir(&own)?;
    Ok(own)
}

fn separate() -> io::Result<()> {
    let flags = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWNS;
    // SAFETY: takes no pointer.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // What is mounted from here on isn't seen outside.
    // SAFETY: strings with terminators, or nothing.
    let private = unsafe {
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    };
    if private != 0 {
        return Err(io::Error::last_os_error());
    }
    mount("shm", "/dev/shm", "tmpfs", "")?;
    mount(
        "devpts",
        "/dev/pts",
        "devpts",
        "newinstance,ptmxmode=0666,mode=0620",
    )
}

fn mount(source: &str, at: &str, kind: &str, options: &str) -> io::Result<()> {
    let text = |text| std::ffi::CString::new(text).unwrap();
    let (source, at, kind, options) = (text(source), text(at), text(kind), text(options));
    // SAFETY: strings with terminators.
    let mounted = unsafe {
        let options = options.as_ptr().cast();
        libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, options)
    };
    match mounted {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An interface with a default route, which passt copies. To be called in the namespace.
pub fn add_route() {
    let commands = [
        "link set lo up",
        "link add uplink type veth peer name elsewhere",
        "addr add 10.9.0.1/24 dev uplink",
        "link set uplink up",
        "route add default via 10.9.0.2",
    ];
    for words in commands {
        let status = Command::new("ip").args(words.split(' ')).status();
        assert!(status.unwrap().success(), "ip {words}");
    }
}
