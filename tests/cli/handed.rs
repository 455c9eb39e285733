//! Files that whoever starts mote has opened already (`fd=N`), as a supervisor with other rights does.

use std::os::fd::{AsRawFd, RawFd};

use super::*;
use common::DRIVE;

/// Runs mote with these descriptors under the numbers that it's told.
fn run_with(arguments: &[&str], given: &[(RawFd, &dyn AsRawFd)]) -> Output {
    // Out of the way of the numbers that are wanted, first.
    let given: Vec<_> = given
        .iter()
        .map(|(to, from)| (*to, from.as_raw_fd()))
        .collect();
    let mut command = mote(arguments);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for (to, from) in &given {
                let high = libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, 500 + to);
                if high < 0 || libc::dup2(high, *to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.output().unwrap()
}

/// A file with this in it that has no name any more: only its descriptor leads to it.
fn nameless(folder: &Path, content: &[u8]) -> fs::File {
    let path = folder.join("nameless");
    fs::write(&path, content).unwrap();
    let file = fs::File::options().read(true).write(true).open(&path);
    fs::remove_file(&path).unwrap();
    file.unwrap()
}

fn text(mut file: &fs::File) -> String {
    use std::io::Seek;
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_vm_of_files_that_are_open_already() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().print("up ").see_drives().read_byte(DRIVE);
    let code = code.print_read().reset();
    let file = |content: &[u8]| nameless(folder.path(), content);
    let kernel = file(&code.kernel());
    let initrd = file(b"an initrd");
    let drive = file(&[b"D".as_slice(), &[0; 8191]].concat());
    let disk = file(&[0; 4096]);
    let [console, metrics, timings] = [(); 3].map(|()| file(b""));
    let config = br#"{ "boot": { "kernel": "fd=30:vmlinux" }, "disks": [{ "path": "fd=33" }] }"#;
    let config = file(config);
    use std::io::Seek;
    (&config).rewind().unwrap();
    let arguments = [
        "run",
        "--config",
        "fd=40:vm.json",
        "--initrd",
        "fd=31",
        "--rootfs",
        "fd=32,dax,ro",
        "--console",
        "file=fd=34",
        "--metrics",
        "file=fd=35",
        "--timings",
        "json=fd=36",
    ];
    let given: [(RawFd, &dyn AsRawFd); 8] = [
        (30, &kernel),
        (31, &initrd),
        (32, &drive),
        (33, &disk),
        (34, &console),
        (35, &metrics),
        (36, &timings),
        (40, &config),
    ];
    let Output { status, stderr, .. } = run_with(&arguments, &given);
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(text(&console), "up D", "{stderr}");
    assert!(
        text(&metrics).contains("mote_vm_exits_total"),
        "{}",
        text(&metrics)
    );
    let timings: serde_json::Value = serde_json::from_str(&text(&timings)).unwrap();
    assert!(timings.is_object(), "{timings}");
}

#[test]
fn what_was_not_handed_over_as_it_should_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    fs::write(&path, Code::new().reset().kernel()).unwrap();
    let reader = fs::File::open(&path).unwrap();
    let writer = fs::File::options().write(true).open(&path).unwrap();
    let is_there = kvm().is_some();
    for (arguments, needs_kvm, expected) in [
        (
            ["--kernel", "fd=77"],
            false,
            "--kernel fd=77: descriptor 77 is not open",
        ),
        (
            ["--kernel", "fd=31"],
            true,
            "fd=31: descriptor 31 is open for writing only",
        ),
        (
            ["--disk", "fd=30"],
            true,
            "fd=30 can't be written (descriptor 30 is open for reading only)",
        ),
        (
            ["--disk", "fd=77,ro"],
            false,
            "--disk fd=77: descriptor 77 is not open",
        ),
        (["--console", "file=fd=77"], false, "--console file fd=77: "),
        (
            ["--console", "file=fd=30"],
            true,
            "--console file=fd=30: descriptor 30 is open for reading",
        ),
        (
            ["--vsock", "cid=3,socket=fd=30"],
            true,
            "socket=fd=30: descriptor 30 is not a listening",
        ),
        (
            ["--fs", "tag=a,socket=fd=30"],
            true,
            "socket=fd=30: descriptor 30 is not a connected",
        ),
        (
            ["--metrics", "unix=fd=30"],
            true,
            "unix=fd=30: descriptor 30 is not a listening",
        ),
        (
            ["--timings", "json=fd=77"],
            false,
            "--timings json fd=77: descriptor 77 is not open",
        ),
        (
            ["--config", "fd=77"],
            false,
            "--config fd=77: descriptor 77 is not open",
        ),
    ] {
        if needs_kvm && !is_there {
            continue;
        }
        let mut words = ["run", "--kernel", "fd=30"].to_vec();
        if arguments[0] == "--kernel" {
            words.truncate(1);
        }
        words.extend(arguments);
        let Output { status, stderr, .. } = run_with(&words, &[(30, &reader), (31, &writer)]);
        let stderr = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}
