//! Tiny guests that map a drive: what becomes of their writes in each mode, and what is said of a
//! file that shrinks under them. They need a KVM, but not one that can run Linux.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Code, DRIVE, kvm};
use motevm::config::Disk;
use motevm::{Exit, Vm};

fn drive(path: &Path) -> Disk {
    Disk {
        path: path.to_owned(),
        dax: true,
        ..Disk::default()
    }
}

/// A file of letters, and a VM that runs `code` with it as a drive.
struct Try {
    _folder: tempfile::TempDir,
    file: PathBuf,
    out: PathBuf,
    vm: Vm,
}

fn with_file(code: Code, size: usize, change: impl FnOnce(&mut Disk)) -> Option<Try> {
    let host = kvm()?;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image");
    fs::write(&file, vec![b'a'; size]).unwrap();
    let mut disk = drive(&file);
    change(&mut disk);
    let code = code.reset();
    let vm = code.vm(&host, folder.path(), |config| config.disks = vec![disk]);
    Some(Try {
        out: folder.path().join("out"),
        file,
        _folder: folder,
        vm,
    })
}

impl Try {
    /// Runs to a reset; what the guest printed, and the file.
    fn run(&mut self) -> (String, Vec<u8>) {
        let exit = self.vm.run().unwrap();
        assert_eq!(exit, Exit::Reset, "{:?}", self.vm.hint());
        let text = fs::read_to_string(&self.out).unwrap();
        (text, fs::read(&self.file).unwrap())
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.vm.metrics().render();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn letter(code: Code, address: u64) -> Code {
    code.read_byte(address).print_read()
}

#[test]
fn a_write_to_a_read_only_drive_is_ignored_and_counted_and_the_guest_goes_on() {
    let code = letter(Code::new().see_drives(), DRIVE).write_in_many_ways(DRIVE);
    let code = letter(code.write_byte(DRIVE + 8191, 1), DRIVE + 8191);
    // Behind the end of the file there are zeros, which can't be written either.
    let code = code.write_byte(DRIVE + (2 << 20) - 1, b'x');
    let code = letter(code, DRIVE)
        .read_byte(DRIVE + (2 << 20) - 1)
        .print_read_plus(b'0');
    let Some(mut run) = with_file(code, 8192, |disk| disk.read_only = true) else {
        return;
    };
    let (text, file) = run.run();
    assert_eq!(text, "aaa0");
    assert!(file.iter().all(|b| *b == b'a'));
    assert!(run.count("mote_pmem_ignored_writes_total") > 20);
    let report = run.vm.report();
    let device = report
        .exits
        .by_device
        .iter()
        .find(|d| d.device == "pmem0-memory");
    assert!(device.is_some_and(|d| d.writes > 20), "{report:?}");
}

#[test]
fn a_write_that_kvm_cannot_emulate_is_an_exception_in_the_guest() {
    let code = Code::new().see_drives().write_unemulated(DRIVE).print("!");
    let Some(mut run) = with_file(letter(code, DRIVE), 8192, |disk| disk.read_only = true) else {
        return;
    };
    if let Exit::Crash(report) = run.vm.run().unwrap() {
        // A KVM with no hardware behind it may leave out the exception; that ends the VM.
        assert!(report.to_string().contains("KVM can't emulate"), "{report}");
        let obstacle = "this KVM makes no exception of what it can't emulate".to_owned();
        common::can_run("hardware", Some(obstacle));
        return;
    }
    assert_eq!(fs::read_to_string(&run.out).unwrap(), "U!a");
    let file = fs::read(&run.file).unwrap();
    assert!(file.iter().all(|b| *b == b'a'));
}

#[test]
fn a_write_to_a_writable_drive_is_in_the_file_and_one_behind_its_end_is_not() {
    let code = Code::new().see_drives().write_byte(DRIVE + 4096, b'b');
    let code = letter(code, DRIVE + 4096).write_byte(DRIVE + 8192, b'x');
    let code = code.read_byte(DRIVE + 8192).print_read_plus(b'0');
    let Some(mut run) = with_file(code, 8192, |_| ()) else {
        return;
    };
    let (text, file) = run.run();
    assert_eq!(text, "b0");
    assert_eq!((file.len(), file[4096]), (8192, b'b'));
    assert_eq!(run.count("mote_pmem_ignored_writes_total"), 1);
}

#[test]
fn a_write_to_a_private_drive_is_the_guests_own() {
    let code = Code::new().see_drives().write_byte(DRIVE, b'b');
    let code = letter(code, DRIVE).write_byte(DRIVE + (2 << 20) - 1, b'c');
    let code = letter(code, DRIVE + (2 << 20) - 1);
    let Some(mut run) = with_file(code, 5000, |disk| disk.cow = true) else {
        return;
    };
    let (text, file) = run.run();
    assert_eq!(text, "bc");
    assert!(file.len() == 5000 && file.iter().all(|b| *b == b'a'));
    assert_eq!(run.count("mote_pmem_ignored_writes_total"), 0);
}

#[test]
fn a_file_that_shrinks_in_use_ends_the_vm_with_a_message_that_names_it() {
    for mode in ["", "ro", "cow"] {
        let code = letter(Code::new().see_drives(), DRIVE + 8191);
        let run = with_file(code, 8192, |disk| {
            (disk.read_only, disk.cow) = (mode == "ro", mode == "cow");
        });
        let Some(mut run) = run else { return };
        File::options()
            .write(true)
            .open(&run.file)
            .unwrap()
            .set_len(4096)
            .unwrap();
        let exit = run.vm.run().unwrap();
        if exit == Exit::Reset {
            let obstacle = "this KVM has no hardware behind it, and reads ones".to_owned();
            common::can_run("hardware", Some(obstacle));
            assert!(fs::read_to_string(&run.out).is_err(), "{mode}");
            continue;
        }
        assert!(matches!(exit, Exit::Crash(_)), "{mode}: {exit:?}");
        let hint = run.vm.hint().unwrap();
        assert!(
            hint.contains("image") && hint.contains("from 8192 to 4096"),
            "{mode}: {hint}"
        );
    }
}

#[test]
fn a_full_host_disk_ends_the_vm_with_a_message_that_names_the_file() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
    let mounted = Command::new("mount").args(mount).arg(&full).status();
    let refused = !mounted.is_ok_and(|status| status.success());
    let obstacle = "a tmpfs can't be mounted (not root?)".to_owned();
    if !common::can_run("mount", refused.then_some(obstacle)) {
        return;
    }
    let image = full.join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    // A sparse file of 256 pages in room for 16.
    let code = (0..64).fold(Code::new().see_drives(), |code, page| {
        code.write_byte(DRIVE + page * 4096, b'x')
    });
    let change = |config: &mut motevm::VmConfig| config.disks = vec![drive(&image)];
    let mut vm = code.reset().vm(&host, folder.path(), change);
    let (exit, hint) = (vm.run().unwrap(), vm.hint());
    drop(vm);
    assert!(
        Command::new("umount")
            .arg(&full)
            .status()
            .unwrap()
            .success()
    );
    if exit == Exit::Reset {
        let obstacle = "this KVM has no hardware behind it, and goes on".to_owned();
        common::can_run("hardware", Some(obstacle));
        return;
    }
    assert!(matches!(exit, Exit::Crash(_)), "{exit:?}");
    let hint = hint.unwrap();
    assert!(
        hint.contains("full/image") && hint.contains("fallocate"),
        "{hint}"
    );
}

#[test]
fn a_drive_is_locked_as_its_mode_asks() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    let build = |modes: &[(bool, bool)]| {
        let disks = modes.iter().map(|&(read_only, cow)| Disk {
            read_only,
            cow,
            ..drive(&image)
        });
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, Code::new().reset().kernel()).unwrap();
        let mut config = motevm::VmConfig {
            disks: disks.collect(),
            ..Default::default()
        };
        config.boot.kernel = Some(kernel);
        motevm::build(&host, &config, Default::default()).map(drop)
    };
    let (ro, cow, shared) = ((true, false), (false, true), (false, false));
    build(&[ro, cow, ro]).unwrap();
    for modes in [[shared, ro], [cow, shared], [shared, shared]] {
        let message = build(&modes).unwrap_err().to_string();
        assert!(message.contains("image is in use"), "{message}");
    }
}
