//! Where the tests run: in namespaces of their own, which end with all that is in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::ctr::on_a_leash;
use crate::world::{FOLDER, World};

/// Says in the environment how deep in the namespaces a process is.
const INSIDE: &str = "MOTE_TEST_INSIDE";
/// How long all tests together may take.
const ALL: u32 = 3600;

/// Where the scripts in resources/ put what they make.
pub fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    folder("MOTE_CACHE").unwrap_or_else(|| {
        let home = || folder("HOME").unwrap_or_default().join(".cache");
        folder("XDG_CACHE_HOME").unwrap_or_else(home).join("mote")
    })
}

/// The folder of a release of Debian's with its containerd.
pub fn release(name: &str) -> PathBuf {
    let peers = cache().join("peers").join(std::env::consts::ARCH);
    peers.join("containerd").join(name)
}

/// Why these tests can't run here, if they can't.
pub fn obstacle() -> Option<String> {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return Some("containerd needs root".to_owned());
    }
    if !release("bookworm").join("usr/bin/containerd").exists() {
        return Some("there is no containerd: resources/containerd.sh gets it".to_owned());
    }
    if !Path::new("/usr/bin/busybox").exists() && !Path::new("/bin/busybox").exists() {
        return Some(
            "there is no busybox for the image: resources/containerd.sh gets it".to_owned(),
        );
    }
    if World::is_mote() {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut words = info.split_whitespace();
        // A processor that has no flags is none of x86's, and then KVM is there only where hardware is.
        let hardware =
            !info.contains("\nflags") || words.any(|word| word == "vmx" || word == "svm");
        if !hardware || !Path::new("/dev/kvm").exists() {
            return Some(
                "this host's KVM can't run Linux; run this through resources/on-kvm.sh".to_owned(),
            );
        }
        for (file, remedy) in [
            (World::mote(), "cargo build --bin mote"),
            (World::kernel(), "resources/guest.sh containers"),
            (World::virtiofsd(), "resources/peers.sh"),
        ] {
            if !file.exists() {
                return Some(format!("{} is missing: {remedy} makes it", file.display()));
            }
        }
    }
    None
}

/// Whether this process is where the tests run.
pub fn is_inside() -> bool {
    match std::env::var(INSIDE).as_deref() {
        Ok("1") => become_init(),
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Runs this program in new namespaces. Its end, or the limit of time, is the end of all that runs there.
pub fn run_inside() -> ExitCode {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ]);
    command
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1");
    let status = on_a_leash(&mut command, ALL).status().unwrap();
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// The first process of the namespace only waits: for the tests' process, and for what others leave to it, as shims.
fn become_init() -> ! {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(std::env::args_os().skip(1)).env(INSIDE, "2");
    let tests = command.spawn().unwrap().id();
    loop {
        let mut status = 0;
        // SAFETY: a valid place for the status.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == tests.cast_signed() {
            std::process::exit(if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                1
            });
        }
    }
}

fn mount(kind: &str, options: &str, place: &str) {
    let mut command = Command::new("mount");
    command.args(["-t", kind, "-o", options, "none", place]);
    let status = on_a_leash(&mut command, 60).status().unwrap();
    assert!(
        status.success(),
        "mount -t {kind} -o {options} none {place}"
    );
}

/// Gives the namespaces what containerd needs: file systems that an overlay can lie on, and that the host doesn't see;
/// cgroups; and CNI's folders, which `ctr` knows only by their usual names.
pub fn furnish() {
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "ip link set lo up"
    );
    mount("tmpfs", "mode=755,size=75%", "/run");
    fs::create_dir_all(FOLDER).unwrap();
    for place in ["/etc", "/opt", "/var"] {
        let above = Path::new(FOLDER).join("above").join(&place[1..]);
        let work = above.with_extension("work");
        fs::create_dir_all(&above).unwrap();
        fs::create_dir_all(&work).unwrap();
        let (above, work) = (above.display(), work.display());
        mount(
            "overlay",
            &format!("lowerdir={place},upperdir={above},workdir={work}"),
            place,
        );
    }
    // A /sys of this network namespace, with the cgroups that are there, or (in the emulated machine) aren't yet.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    if !mounts.lines().any(|line| {
        line.split(' ')
            .nth(1)
            .is_some_and(|place| place.starts_with("/sys/fs/cgroup"))
    }) {
        mount("cgroup2", "rw", "/sys/fs/cgroup");
    }
    remove_cgroups();
    let plugins = release("bookworm").join("usr/lib/cni");
    fs::create_dir_all("/opt/cni").unwrap();
    let _ = fs::remove_dir_all("/opt/cni/bin");
    std::os::unix::fs::symlink(plugins, "/opt/cni/bin").unwrap();
    let _ = fs::remove_dir_all("/etc/cni/net.d");
    fs::create_dir_all("/etc/cni/net.d").unwrap();
}

/// Takes away containers' cgroups, which are not the namespaces' own. With no process in them they are empty.
pub fn remove_cgroups() {
    let mut all: Vec<_> = cgroups().into_iter().collect();
    all.reverse(); // what is inside of another one comes before it
    for group in all {
        let _ = fs::remove_dir(group);
    }
}

/// Containers' cgroups: those of containerd's first namespace, and whatever the shim has made.
pub fn cgroups() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    below(Path::new("/sys/fs/cgroup"), &mut all);
    all.retain(|group| group.contains("/default") || group.contains("mote"));
    all
}

fn below(folder: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.insert(entry.path().display().to_string());
            below(&entry.path(), all);
        }
    }
}
