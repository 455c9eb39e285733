//! Tiny hand-assembled guests on /dev/kvm: every way in which a VM ends, the devices' registers, and the
//! vCPUs' threads. They need a KVM, but not one that can run Linux.

#[path = "../common/mod.rs"]
mod common;
mod devices;
// What only one architecture has, and a bare vCPU for `threads`.
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod native;
mod threads;

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Code, PATIENCE, kvm, run_and_stop};
use motevm::Exit;
use motevm::config::{Cpus, KernelLoad, Size};
use motevm::vcpu::CrashKind;

/// Runs `code` as a guest; its exit, and what it printed.
fn run(code: Code) -> Option<(Exit, String)> {
    run_with(code, |_| ())
}

fn run_with(code: Code, change: impl FnOnce(&mut motevm::VmConfig)) -> Option<(Exit, String)> {
    let host = kvm()?;
    let folder = tempfile::tempdir().unwrap();
    let exit = code.vm(&host, folder.path(), change).run().unwrap();
    Some((exit, printed(folder.path())))
}

fn printed(folder: &Path) -> String {
    String::from_utf8(std::fs::read(folder.join("out")).unwrap()).unwrap()
}

#[test]
fn a_guest_prints_and_resets() {
    let Some((exit, text)) = run(Code::new().print("hello from ring 0\n").reset()) else {
        return;
    };
    assert_eq!(exit, Exit::Reset);
    assert_eq!(text, "hello from ring 0\n");
}

#[test]
fn a_guest_switches_itself_off() {
    let Some((exit, _)) = run(Code::new().power_off()) else {
        return;
    };
    assert_eq!(exit, Exit::PowerOff);
}

#[test]
fn a_guest_panics() {
    let Some((exit, _)) = run(Code::new().panic()) else {
        return;
    };
    assert_eq!(exit, Exit::Panic);
}

#[test]
fn a_guest_that_never_ends_is_stopped() {
    let Some(host) = kvm() else { return };
    for code in [Code::new().spin(), Code::new().halt().spin()] {
        let folder = tempfile::tempdir().unwrap();
        let mut vm = code.vm(&host, folder.path(), |config| config.cpus = Cpus(3));
        assert_eq!(run_and_stop(&mut vm), Exit::Stopped);
    }
}

#[test]
fn a_stop_before_the_run_is_not_lost() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = Code::new().spin().vm(&host, folder.path(), |_| ());
    vm.stopper().stop();
    assert_eq!(vm.run().unwrap(), Exit::Stopped);
    assert!(vm.run().is_err(), "a VM has one life");
}

#[test]
fn a_program_that_blocks_all_signals_can_stop_its_vm() {
    let Some(host) = kvm() else { return };
    let (send, ended) = mpsc::channel();
    // As programs do that wait for signals by sigwait or signalfd.
    thread::spawn(move || {
        // SAFETY: an all-zero sigset is a valid value; the calls change this thread only.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
        let folder = tempfile::tempdir().unwrap();
        let mut vm = Code::new().spin().vm(&host, folder.path(), |_| ());
        let stopper = vm.stopper();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            stopper.stop();
        });
        send.send(vm.run().unwrap()).unwrap();
    });
    let exit = ended.recv_timeout(PATIENCE);
    assert_eq!(exit.expect("the VM is stopped"), Exit::Stopped);
}

#[test]
fn the_largest_vm_can_be_built_and_ended() {
    let code = Code::new().print("big").reset();
    let big = run_with(code, |config| {
        config.cpus = Cpus(native::most_cpus());
        config.memory = Size::gib(5).into();
    });
    let Some((exit, text)) = big else { return };
    assert_eq!((exit, text.as_str()), (Exit::Reset, "big"));
}

#[test]
fn a_mapped_kernel_that_is_cut_short_is_told_by_its_name() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().print("never").reset();
    let mut vm = code.vm(&host, folder.path(), |config| {
        let kernel = folder.path().join("large");
        std::fs::write(&kernel, code.kernel_of_size(0x4000)).unwrap();
        config.boot.kernel = Some(kernel);
        config.boot.load = KernelLoad::Map;
    });
    assert_eq!(vm.report().bytes_mapped, 0x4000);
    let kernel = File::options()
        .write(true)
        .open(folder.path().join("large"));
    kernel.unwrap().set_len(0).unwrap();
    let exit = vm.run().unwrap();
    assert!(matches!(exit, Exit::Crash(_)), "{exit:?}");
    // KVMs that emulate find no instruction, instead of no page.
    if let Exit::Crash(report) = exit
        && report.kind == CrashKind::RunFailed(libc::EFAULT)
    {
        let hint = vm.hint().unwrap();
        assert!(
            hint.contains("large") && hint.contains("--kernel-load map"),
            "{hint}"
        );
    }
}
