//! Files given to the command that aren't what they should be: initrds, images, and whatever isn't a file at all.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::devices::drive;
use crate::driver::{self, *};
use crate::kvm;
use crate::monitor::{Ended, Monitor};
use crate::script::Script;

/// A named pipe that nobody writes to.
pub fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("fifo");
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a string with its end.
    unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    path
}

/// Runs a guest that only says that it lives, with these words.
fn with(words: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    Monitor::of(folder.path(), Script::new().end())
        .with(words)
        .run()
}

#[test]
fn initrds_that_are_no_files_or_too_large() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initrd");
    let text = path.to_str().unwrap();
    for size in [0, 40 << 20, 1 << 40, 1 << 43] {
        File::create(&path).unwrap().set_len(size).unwrap();
        with(&["--initrd", text]).refused(&[text]);
    }
    let fifo = fifo(folder.path());
    symlink("loop", folder.path().join("loop")).unwrap();
    let link = folder.path().join("loop");
    for path in [
        "/dev/zero",
        "/dev/null",
        "/",
        fifo.to_str().unwrap(),
        link.to_str().unwrap(),
    ] {
        with(&["--initrd", path]).refused(&[path]);
    }
    // Any bytes are an initrd to mote.
    fs::write(&path, [0xff; 12345]).unwrap();
    with(&["--initrd", text]).survived();
}

#[test]
fn an_initrd_that_changes_its_size_all_the_time() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initrd");
    let file = File::create(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let changer = std::thread::spawn(move || {
        while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
            for size in [4 << 20, 100, 0, 1 << 20] {
                file.set_len(size).unwrap();
            }
        }
    });
    for _ in 0..20 {
        let ended = with(&["--initrd", path.to_str().unwrap()]);
        assert!(matches!(ended.status.code(), Some(0 | 2)), "{}", ended.err);
    }
    drop(stop);
    changer.join().unwrap();
}

#[test]
fn images_that_are_no_drives() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fifo = fifo(folder.path());
    let image = folder.path().join("image");
    let text = image.to_str().unwrap();
    for more in ["", ",ro", ",dax", ",dax,ro", ",dax,cow"] {
        for path in [
            "/dev/zero",
            "/dev/null",
            "/",
            "/nonexistent",
            fifo.to_str().unwrap(),
        ] {
            with(&["--disk", &format!("{path}{more}")]).refused(&[path]);
        }
        for content in [
            &b"QFI\xfb\0\0\0\x03"[..],
            b"KDMV\x01\0\0\0",
            b"vhdxfile",
            b"conectix",
        ] {
            fs::write(&image, content).unwrap();
            File::options()
                .write(true)
                .open(&image)
                .unwrap()
                .set_len(1 << 20)
                .unwrap();
            with(&["--disk", &format!("{text}{more}")]).refused(&[text, "raw"]);
        }
        fs::write(&image, "").unwrap();
        with(&["--disk", &format!("{text}{more}")]).refused(&[text]);
    }
    // Not whole sectors; the largest that there is.
    for (size, fine) in [
        (1, false),
        (511, false),
        (513, false),
        ((1 << 43) - 512, true),
    ] {
        File::create(&image).unwrap().set_len(size).unwrap();
        let ended = with(&["--disk", text]);
        if fine {
            ended.survived();
        } else {
            ended.refused(&[text]);
        }
    }
}

#[test]
fn images_that_shrink_while_they_are_read_and_written() {
    if !kvm() {
        return;
    }
    let device = driver::device(0);
    let ring = Ring::number(0);
    let mut script = Script::new();
    script.print("up");
    // Reads and writes of its last sectors, in turn.
    script.bring_up(device, VERSION_1, 1);
    script.descriptor(ring.descriptors, 0, (BUFFER, 16, NEXT, 1));
    script.descriptor(ring.descriptors, 2, (BUFFER + 32, 1, WRITE, 0));
    script.repeat(800 / crate::native::ONE_OF as u64, |script, n| {
        let (kind, flags) = if n % 2 == 0 {
            (0, NEXT | WRITE)
        } else {
            (1, NEXT)
        };
        script
            .write64(BUFFER, kind)
            .write64(BUFFER + 8, 2047 - n % 16);
        script.descriptor(ring.descriptors, 1, (BUFFER + 4096, 512, flags, 2));
        script
            .write16(ring.available + 2, n as u16 + 1)
            .notify(device, 0);
        script.wait(ring.used + 2, n as u16 + 1, 100_000);
    });
    script.end();
    for engine in ["threads", "io_uring"] {
        let folder = tempfile::tempdir().unwrap();
        let disk = drive(folder.path(), "disk", 1 << 20, &format!(",engine={engine}"));
        let monitor = Monitor::of(folder.path(), &script).with(&["--disk", &disk]);
        let mut running = monitor.unread().start();
        running.hear(b"up");
        let image = File::options()
            .write(true)
            .open(folder.path().join("disk"))
            .unwrap();
        for size in (0..200).map(|n| [0, 1 << 20, 513 * 1000][n % 3]) {
            image.set_len(size).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        running.end().has_status(0);
    }
}

#[test]
fn a_mapped_image_that_shrinks_ends_the_vm_in_words() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = drive(folder.path(), "disk", 4 << 20, ",dax");
    let mut script = Script::new();
    script.print("up").spin(1_000_000);
    script
        .write64(crate::native::DRIVES, 1)
        .along(1000, 4096)
        .end();
    let monitor = Monitor::of(folder.path(), &script)
        .with(&["--disk", &disk])
        .unread();
    let mut running = monitor.start();
    running.hear(b"up");
    File::options()
        .write(true)
        .open(folder.path().join("disk"))
        .unwrap()
        .set_len(0)
        .unwrap();
    let ended = running.end();
    // A KVM that emulates goes on with nothing where a page is missing.
    assert!(
        matches!(ended.status.code(), Some(0 | 5)),
        "{}: {}",
        ended.status,
        ended.err
    );
}

#[test]
fn outputs_that_lead_to_odd_places() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fifo = fifo(folder.path());
    let fifo = fifo.to_str().unwrap();
    for path in ["/", "/nonexistent/x", fifo] {
        with(&["--console", &format!("file={path}")]).refused(&[path]);
    }
    // Full: what is printed is lost, not the VM.
    with(&["--console", "file=/dev/full"]).has_status(0);
    for path in ["/", "/nonexistent/x", "/dev/full"] {
        with(&["--timings", &format!("json={path}")]).has_status(2);
    }
    #[cfg(target_arch = "aarch64")]
    for path in ["/", "/nonexistent/x", "/dev/full"] {
        with(&["--dump-fdt", path]).has_status(2);
    }
}
