//! A VM with every device that needs no other process, for guests that attack all of them.

use std::fs::File;
use std::path::Path;

use crate::common;
use crate::monitor::Monitor;
use crate::script::Script;

/// How many virtio devices [`with_all_devices`] has.
pub const COUNT: u64 = 9;
/// Which of them is the balloon.
pub const BALLOON: u64 = COUNT - 2;

/// The options of a drive on a new file of this size.
pub fn drive(folder: &Path, name: &str, size: u64, more: &str) -> String {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    format!("path={}{more}", path.display())
}

/// Whether a tap can be made, in a network namespace of the monitor's own.
pub fn tap() -> bool {
    // SAFETY: reads an identity.
    let root = unsafe { libc::geteuid() } == 0;
    let obstacle = match File::options().read(true).write(true).open("/dev/net/tun") {
        Err(e) => Some(format!("/dev/net/tun: {e}")),
        Ok(_) => (!root).then(|| "a network namespace needs root".to_owned()),
    };
    common::can_run("tap", obstacle)
}

/// The script's guest with drives of each sort, a network (a drive more, where there are no taps), vsock, balloon
/// and entropy; with `hvc` a virtio console and no serial port, else one drive more again.
pub fn with_all_devices(folder: &Path, script: &Script, hvc: bool) -> Monitor {
    let disk = |name, more| drive(folder, name, 1 << 20, more);
    let socket = format!("cid=3,socket={}", folder.join("v").display());
    let monitor = Monitor::of(folder, script)
        .with(&["--disk", &disk("a", ",queues=4")])
        .with(&["--disk", &disk("c", ",dax")])
        .with(&["--disk", &disk("d", ",dax,ro")])
        .with(&["--disk", &disk("e", ",dax,cow")])
        .with(&["--vsock", &socket, "--balloon", "4M,stats=1"]);
    let monitor = if tap() {
        let alone = || {
            // SAFETY: a call with no pointers.
            unsafe { libc::unshare(libc::CLONE_NEWNET) };
        };
        monitor
            .before(alone)
            .with(&["--net", "tap=hostile0,queues=2"])
    } else {
        monitor.with(&["--disk", &disk("b", ",iops=100000,cache=unsafe")])
    };
    if hvc {
        let log = format!("hvc,file={}", folder.join("log").display());
        monitor.with(&["--console", &log])
    } else {
        monitor.with(&["--disk", &disk("f", ",ro")])
    }
}
