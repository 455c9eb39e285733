//! Pausing tiny guests: nothing of them moves, and all of it goes on. Guest memory is looked at from this process,
//! where a VM's RAM is found by its size: each test here has one of its own.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, RAM, kvm};
use motevm::config::{Cpus, Size, VmConfig};
use motevm::machine::ControlError;
use motevm::memory::places::{self, Kind};
use motevm::{Control, Exit, Host, State, Vm};

/// Where guests count, from the start of their RAM.
const COUNTER: u64 = 0x10_0000 - 0x1000;

/// A VM of `megabytes` that counts for ever on its first vCPU, while the others wait for ever.
fn counting(host: &Host, folder: &Path, megabytes: u64) -> Vm {
    let code = Code::new().print("c").count(RAM + COUNTER);
    code.vm(host, folder, |config| sized(config, megabytes))
}

fn sized(config: &mut VmConfig, megabytes: u64) {
    config.memory = Size::mib(megabytes).into();
    config.cpus = Cpus(4);
}

/// Where a VM of `megabytes` counts.
fn counter(megabytes: u64) -> &'static AtomicU32 {
    let ram = |place: &places::Place| {
        let size = place.range.end - place.range.start;
        place.kind == Kind::Ram && size == megabytes << 20
    };
    let mut places = places::of_this_process().into_iter();
    let place = places.find(ram).expect("the VM is built");
    // SAFETY: the RAM of a VM that outlives what looks at it, as the tests are written; aligned, and never a
    // reference to anything but atomics.
    unsafe { &*((place.range.start + COUNTER) as *const AtomicU32) }
}

fn now(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::SeqCst)
}

#[track_caller]
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn goes_on(counter: &AtomicU32) {
    let before = now(counter);
    wait_for("the guest to count", || now(counter) != before);
}

/// Runs the VM on another thread while `work` controls it, and then stops it.
fn run<T>(vm: &mut Vm, work: impl FnOnce(&Control) -> T) -> (Exit, T) {
    let control = vm.control();
    thread::scope(|scope| {
        let guest: ScopedJoinHandle<_> = scope.spawn(|| vm.run().unwrap());
        // A failed assertion must not leave a guest that never ends.
        let stop = Stop(control.clone());
        let result = work(&control);
        drop(stop);
        (guest.join().unwrap(), result)
    })
}

struct Stop(Control);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn a_paused_guest_stands_still_and_goes_on() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = counting(&host, folder.path(), 37);
    let counter = counter(37);
    assert_eq!(vm.control().state(), State::NotStarted);
    let (exit, ()) = run(&mut vm, |control| {
        goes_on(counter);
        assert_eq!(control.state(), State::Running);
        for _ in 0..3 {
            control.pause().unwrap();
            assert_eq!(control.state(), State::Paused);
            let before = now(counter);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(now(counter), before);
            control.pause().unwrap(); // it is already
            control.resume().unwrap();
            assert_eq!(control.state(), State::Running);
            control.resume().unwrap();
            goes_on(counter);
        }
    });
    assert_eq!(exit, Exit::Stopped);
    let control = vm.control();
    assert_eq!(control.state(), State::Ended);
    for result in [control.pause(), control.resume()] {
        assert!(matches!(result, Err(ControlError::Ended)), "{result:?}");
    }
}

#[test]
fn a_thousand_pauses_lose_nothing() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = counting(&host, folder.path(), 38);
    let counter = counter(38);
    run(&mut vm, |control| {
        goes_on(counter);
        for round in 0..1000 {
            control.pause().unwrap();
            let before = now(counter);
            thread::yield_now();
            assert_eq!(now(counter), before, "round {round}");
            control.resume().unwrap();
        }
        goes_on(counter);
    });
}

/// Each exit is answered once, and its answer taken, wherever a pause comes: ports, memory, and an instruction that
/// is many accesses.
#[test]
fn an_exit_in_flight_is_answered_once() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..1500)
        .map(|n| char::from(b'a' + (n % 43) as u8))
        .collect();
    let code = Code::new().print(&text).read_byte(common::NOWHERE);
    let code = code.print_read().reset();
    let mut vm = code.vm(&host, folder.path(), |config| sized(config, 39));
    let control = vm.control();
    let pauses = AtomicU32::new(0);
    let exit = thread::scope(|scope| {
        scope.spawn(|| {
            while control.pause().is_ok() && control.resume().is_ok() {
                pauses.fetch_add(1, Ordering::Relaxed);
            }
        });
        vm.run().unwrap()
    });
    assert_eq!(exit, Exit::Reset);
    let printed = std::fs::read(folder.path().join("out")).unwrap();
    assert_eq!(printed, [text.as_bytes(), &[0xff]].concat());
    assert!(pauses.into_inner() > 10);
}

#[test]
fn a_vm_can_begin_paused_and_be_stopped_so() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = counting(&host, folder.path(), 40);
    let counter = counter(40);
    vm.control().pause().unwrap();
    assert_eq!(vm.control().state(), State::NotStarted);
    let (exit, ()) = run(&mut vm, |control| {
        wait_for("the pause", || control.state() == State::Paused);
        thread::sleep(Duration::from_millis(30));
        assert_eq!(now(counter), 0);
        control.resume().unwrap();
        goes_on(counter);
        control.pause().unwrap();
    });
    assert_eq!(exit, Exit::Stopped, "it was paused when it was stopped");
    // A wish that is taken back before the start.
    let mut vm = counting(&host, folder.path(), 41);
    let counter = self::counter(41);
    vm.control().pause().unwrap();
    vm.control().resume().unwrap();
    run(&mut vm, |_| goes_on(counter));
}

#[test]
fn many_threads_pause_and_resume_as_they_like() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = counting(&host, folder.path(), 42);
    let counter = counter(42);
    let end = AtomicBool::new(false);
    run(&mut vm, |control| {
        thread::scope(|scope| {
            for pauses in [true, false, true, false, true] {
                let end = &end;
                scope.spawn(move || {
                    while !end.load(Ordering::Relaxed) {
                        match pauses {
                            true => control.pause().unwrap(),
                            false => control.resume().unwrap(),
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(500));
            end.store(true, Ordering::Relaxed);
        });
        control.resume().unwrap();
        goes_on(counter);
        control.pause().unwrap();
        let before = now(counter);
        thread::sleep(Duration::from_millis(40));
        assert_eq!(now(counter), before);
    });
}

#[test]
fn a_guest_that_ends_leaves_nobody_waiting() {
    let Some(host) = kvm() else { return };
    for round in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        let code = (0..round).fold(Code::new(), |code, _| code.exit_in_vain());
        let mut vm = code
            .reset()
            .vm(&host, folder.path(), |config| sized(config, 43));
        let control = vm.control();
        let exit = thread::scope(|scope| {
            let (a, b) = (control.clone(), control.clone());
            scope.spawn(move || while a.pause().is_ok() {});
            scope.spawn(move || while b.resume().is_ok() {});
            vm.run().unwrap()
        });
        assert_eq!(exit, Exit::Reset);
    }
    // Nor the work beside it, for whose end the VM's own waits.
    let folder = tempfile::tempdir().unwrap();
    let code = (0..1000).fold(Code::new(), |code, _| code.exit_in_vain());
    let mut vm = code
        .reset()
        .vm(&host, folder.path(), |config| sized(config, 45));
    vm.accompany(|beside| {
        let control = beside.control;
        while control.pause().is_ok() && control.resume().is_ok() {}
    });
    assert_eq!(vm.run().unwrap(), Exit::Reset);
    // Nor one that is dropped without having run.
    let folder = tempfile::tempdir().unwrap();
    let vm = counting(&host, folder.path(), 44);
    let control = vm.control();
    drop(vm);
    assert_eq!(control.state(), State::Ended);
    assert!(matches!(control.pause(), Err(ControlError::Ended)));
}

#[test]
fn a_halted_guest_is_paused_too() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().print("h").halt();
    let mut vm = code.vm(&host, folder.path(), |config| sized(config, 45));
    let (exit, ()) = run(&mut vm, |control| {
        for _ in 0..50 {
            control.pause().unwrap();
            control.resume().unwrap();
        }
    });
    assert_eq!(exit, Exit::Stopped);
}
