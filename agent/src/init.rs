//! What process 1 does before all else, and last: the first mounts, and the guest's end.

use std::fs;
use std::io::Write;

use crate::error::{Error, Result};
use crate::{mounts, network, sys};

/// A root of its own, which a container's can be put in the place of (pivot_root(2) can't with the first one), and
/// what programs need: /proc, /sys, /dev.
pub fn prepare() -> Result<()> {
    let mount = |kind: &str, target: &str, flags, data: &str| {
        sys::mount(kind, target, kind, flags, data)
            .map_err(Error::of(format_args!("mount {target}")))
    };
    let safe = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let make = |folder: &str| fs::create_dir_all(folder).map_err(Error::of(folder.to_owned()));
    make("/root")?;
    mount("tmpfs", "/root", 0, "mode=755")?;
    std::env::set_current_dir("/root").map_err(Error::of("/root"))?;
    sys::mount(".", "/", "", libc::MS_MOVE, "").map_err(Error::of("moving the root"))?;
    sys::chroot(".").map_err(Error::of("the root"))?;
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc"] {
        make(folder)?;
    }
    mount("proc", "/proc", safe, "")?;
    mount("sysfs", "/sys", safe, "")?;
    mount("devtmpfs", "/dev", libc::MS_NOSUID, "mode=755")?;
    signal_boot_timer();
    for folder in ["/dev/pts", "/dev/shm"] {
        make(folder)?;
    }
    mount(
        "devpts",
        "/dev/pts",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        "ptmxmode=666,mode=620",
    )?;
    mount(
        "tmpfs",
        "/dev/shm",
        libc::MS_NOSUID | libc::MS_NODEV,
        "mode=1777",
    )?;
    // A kernel need not have cgroups: then nothing can be limited, and the host is told so.
    let _ = mount("cgroup2", "/sys/fs/cgroup", safe, "");
    if let Ok(console) = fs::File::options().write(true).open("/dev/console") {
        use std::os::fd::AsRawFd;
        let _ = sys::dup_onto(console.as_raw_fd(), 2);
    }
    network::up("lo")
}

/// The register of mote's boot timer, and what says that init has been reached (docs/boot.md).
const BOOT_TIMER: libc::off_t = match cfg!(target_arch = "aarch64") {
    true => 0x0902_0000,
    false => 0xd000_0000,
};
const INIT_REACHED: u8 = 123;

/// Tells the monitor that init is here, for its figures. Other monitors have nothing there, and other kernels no /dev/mem.
fn signal_boot_timer() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::File::options();
    options.read(true).write(true).custom_flags(libc::O_SYNC);
    let Ok(memory) = options.open("/dev/mem") else {
        return;
    };
    let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let (fd, nowhere) = (memory.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: a new mapping of one page, which is a device's register and no memory of this process's.
    unsafe {
        let page = libc::mmap(nowhere, 4096, access, shared, fd, BOOT_TIMER);
        if page != libc::MAP_FAILED {
            page.cast::<u8>().write_volatile(INIT_REACHED);
            libc::munmap(page, 4096);
        }
    }
}

/// Writes what isn't written, lets go of all file systems, and restarts, which is what ends a microVM: it has no
/// power to switch off on every architecture, and the monitor takes a restart for the end.
pub fn restart() -> ! {
    // SAFETY: takes nothing.
    unsafe { libc::sync() };
    for target in mounts::under("/") {
        // What is in use still, as this process's own root, is written by now.
        let _ = sys::unmount(&target, 0);
    }
    // SAFETY: takes a number.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    std::process::exit(1)
}

/// Tells the console why there is no agent, and ends the guest.
pub fn give_up(error: &Error) -> ! {
    let _ = writeln!(std::io::stderr(), "mote-agent: {error}");
    restart()
}
