//! Many VMs at once, each writing its own pattern to its drive.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Code, PATIENCE, kvm};
use crate::drive::{Pattern, SECTOR, SECTORS};
use crate::{alone, setting, short};

#[test]
fn vms_that_write_at_the_same_time_each_find_their_own() {
    let _alone = alone();
    if kvm().is_none() {
        return;
    }
    let count = setting("MOTE_SOAK_AT_ONCE").unwrap_or(short(50)) as u32;
    let requests = setting("MOTE_SOAK_REQUESTS").unwrap_or(64) as u16;
    let folder = tempfile::tempdir().unwrap();
    let pattern = |number: u32| Pattern {
        word: 0x6d00_0000 | number << 8 | number,
        count: requests,
    };
    let mut vms: Vec<_> = (0..count)
        .map(|number| Vm(start(folder.path(), number, pattern(number))))
        .collect();
    // All of them run before the first one writes.
    for Vm(child) in &mut vms {
        let mut ready = [0; 5];
        let out = child.stdout.as_mut().unwrap();
        out.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready");
    }
    let begin = Instant::now();
    for Vm(child) in &mut vms {
        child.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    }
    for (number, Vm(child)) in (0..).zip(&mut vms) {
        while child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "VM {number} doesn't end");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "VM {number}");
        let pattern = pattern(number);
        let (mut out, mut printed) = (child.stdout.take().unwrap(), Vec::new());
        out.read_to_end(&mut printed).unwrap();
        let expected = [b"q", pattern.printed().as_slice()].concat();
        assert_eq!(printed, expected, "what VM {number} read back");
        let drive = std::fs::read(folder.path().join(format!("drive{number}"))).unwrap();
        assert!(drive == pattern.drive(), "the drive of VM {number}");
        let vsock = folder.path().join(format!("vsock{number}"));
        assert!(!vsock.exists(), "{}", vsock.display());
    }
    let (all, took) = (count * u32::from(requests), begin.elapsed());
    eprintln!(
        "{count} VMs at once, {all} writes in {took:.1?}: each drive holds what its VM wrote"
    );
}

/// A VM that writes its pattern once it is told to.
fn start(folder: &Path, number: u32, pattern: Pattern) -> Child {
    let path = |name| folder.join(format!("{name}{number}"));
    let code = pattern.code(Code::new().print("ready").echo_until_q());
    std::fs::write(path("kernel"), code.reset().kernel()).unwrap();
    let drive = File::create(path("drive")).unwrap();
    drive.set_len(SECTORS * SECTOR as u64).unwrap();
    let engine = ["threads", "io_uring"][number as usize % 2];
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.args(["run", "--memory", "32M", "--kernel"]);
    command.arg(path("kernel")).arg("--disk");
    command.arg(format!("{},engine={engine}", path("drive").display()));
    command.arg("--vsock");
    command.arg(format!("cid=3,socket={}", path("vsock").display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Ends with the test, also if that fails.
struct Vm(Child);

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
