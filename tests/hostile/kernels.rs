//! Kernel files of any sort; those of one format are in [`crate::vmlinux`] and [`crate::images`].

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::kvm;
use crate::monitor::{Ended, Monitor, Running};
use crate::script::Script;

/// Runs mote with this kernel; what it comes to is the caller's to judge. One that never ends is ended.
pub fn boot(folder: &Path, kernel: &[u8]) -> Ended {
    start(folder, kernel).end_soon()
}

/// The same, to be waited for.
pub fn start(folder: &Path, kernel: &[u8]) -> Running {
    let path = folder.join("kernel");
    std::fs::write(&path, kernel).unwrap();
    let words = [
        "run",
        "--memory",
        "32M",
        "--cpus",
        "1",
        "--kernel",
        path.to_str().unwrap(),
    ];
    let monitor = Monitor::new(&words).change(|command| {
        // Nothing is kept of it.
        command
            .env("XDG_CACHE_HOME", folder)
            .env_remove("MOTE_CACHE");
    });
    monitor.start()
}

/// It is refused in a line, or loaded and run, whatever comes of that.
pub fn refused_or_run(ended: &Ended) {
    match ended.status.code() {
        Some(2) => drop(ended.refused(&["kernel"])),
        // Before there was a VM, on a slow host.
        None => assert_eq!(ended.status.signal(), Some(libc::SIGTERM)),
        code => assert!(
            matches!(code, Some(0 | 4 | 5 | 143)),
            "{}: {}",
            ended.status,
            ended.err
        ),
    }
}

/// What these parts come to, compressed.
pub fn gzip(content: impl Iterator<Item = [u8; 4096]>) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    content.for_each(|part| gzip.write_all(&part).unwrap());
    gzip.finish().unwrap()
}

#[test]
fn a_kernel_that_is_not_a_file_or_has_no_end() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fifo = crate::files::fifo(folder.path());
    for path in [
        "/dev/zero",
        "/dev/null",
        "/proc/self/mem",
        "/",
        fifo.to_str().unwrap(),
    ] {
        let words = ["run", "--memory", "32M", "--kernel", path];
        Monitor::new(&words).run().refused(&[path]);
    }
    // As large as a file can be, with nothing in it, and with a head.
    let sparse = folder.path().join("sparse");
    for head in [vec![], Script::new().end().kernel()] {
        std::fs::write(&sparse, head).unwrap();
        let file = std::fs::File::options().write(true).open(&sparse);
        file.unwrap().set_len(1 << 40).unwrap();
        let words = [
            "run",
            "--memory",
            "32M",
            "--kernel",
            sparse.to_str().unwrap(),
        ];
        let ended = Monitor::new(&words).run();
        refused_or_run(&ended);
    }
}

#[test]
fn a_good_kernel_is_there_for_comparison() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    start(folder.path(), &Script::new().end().kernel())
        .end()
        .survived();
}
