//! vCPUs that fault, spin, halt, or start each other in ways that make no sense.

use std::time::Duration;

use crate::kvm;
use crate::monitor::{Ended, Monitor};
use crate::native;
use crate::script::Script;

/// Runs the script on two vCPUs, and ends it by SIGTERM once it has printed `up`.
fn terminated(script: &mut Script) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let monitor = Monitor::of(folder.path(), script).with(&["--cpus", "2"]);
    let mut running = monitor.patience(Duration::from_secs(60)).unread().start();
    running.hear(b"up");
    running.signal(libc::SIGTERM);
    running.end()
}

#[test]
fn a_triple_fault_is_a_crash_with_a_report() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    let ended = Monitor::of(folder.path(), script.code(native::crash())).run();
    ended.has_status(5);
    assert!(ended.err.contains("the guest crashed"), "{}", ended.err);
}

#[test]
fn who_spins_or_halts_for_ever_is_ended_by_sigterm() {
    if !kvm() {
        return;
    }
    for piece in [native::spin_for_ever(), native::halt_for_ever()] {
        let ended = terminated(Script::new().print("up").code(piece));
        ended.has_status(143);
        assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    }
}

#[cfg(target_arch = "x86_64")]
mod apic {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::random::Random;
    use crate::script::Width;

    const APIC: u64 = 0xfee0_0000;
    const COMMAND: u64 = APIC + 0x300;
    const INIT: u32 = 0x4500;
    const STARTUP: u32 = 0x4600;

    impl Script {
        /// Sends another vCPU an interrupt of this kind.
        fn send(&mut self, target: u32, command: u32) -> &mut Self {
            self.write32(COMMAND + 0x10, target << 24)
                .write32(COMMAND, command)
        }
    }

    #[test]
    fn a_second_cpu_is_started_over_and_over() {
        if !kvm() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut script = Script::new();
        // At 0x7000, in real mode: jmp $
        script.write16(0x7000, 0xfeeb);
        script.repeat(300, |script, n| {
            script
                .send(1, INIT)
                .send(1, STARTUP | 7)
                .send(1, STARTUP | 7);
            // Others that aren't there, and all by what is no interrupt.
            script.send(2 + n as u32, STARTUP | 7).send(0xff, 0x300);
        });
        let monitor = Monitor::of(folder.path(), script.end());
        monitor.with(&["--cpus", "2"]).run().survived();
    }

    #[test]
    fn a_boot_cpu_that_waits_to_be_started_is_ended_by_sigterm() {
        if !kvm() {
            return;
        }
        // Itself, by its own number.
        let mut script = Script::new();
        script
            .print("up")
            .send(0, INIT)
            .code(native::spin_for_ever());
        // KVM may hold what it finds at the reset vector for a crash, before. While that is told, SIGTERM
        // ends a process as it ends any.
        let ended = terminated(&mut script);
        let status = ended.status;
        let killed = status.signal() == Some(libc::SIGTERM) && ended.err.contains("crashed");
        let expected = matches!(status.code(), Some(143 | 5)) || killed;
        assert!(expected, "{status}: {}", ended.err);
    }

    #[test]
    fn apics_are_told_anything() {
        if !kvm() {
            return;
        }
        let mut random = Random::new();
        let mut script = Script::new();
        script.print("up");
        for _ in 0..3000 {
            let controller = random.of(&native::CONTROLLERS);
            let width = random.of(&[Width::Four, Width::Four, Width::One, Width::Eight]);
            let register = random.below(0x40) * 16;
            script.write(width, controller + register, random.next());
        }
        script.code(native::spin_for_ever());
        // An interrupt that has no handler may have been its end before.
        let ended = terminated(&mut script);
        assert!(
            matches!(ended.status.code(), Some(143 | 5)),
            "{}",
            ended.err
        );
    }
}

#[cfg(target_arch = "aarch64")]
mod psci {
    use super::*;
    use crate::common::Code;
    use crate::native::{KERNEL, RAM};

    const CPU_SUSPEND: u32 = 0xc400_0001;
    const CPU_OFF: u32 = 0x8400_0002;
    const CPU_ON: u32 = 0xc400_0003;

    #[test]
    fn calls_that_make_no_sense_are_answered() {
        if !kvm() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut script = Script::new();
        // Not those that end the VM: 8, 9, 0x12.
        for function in (0..0x20).filter(|n| !matches!(n, 1 | 2 | 8 | 9 | 0xe | 0x12)) {
            for base in [0x8400_0000, 0xc400_0000, 0x8600_0000, 0x1234_0000] {
                for argument in [0, 1, 7, u64::from(u32::MAX), u64::MAX] {
                    // The second vCPU is never started by itself where nothing is.
                    let call = Code::new().psci(base | function, &[argument | 0xff00, argument, 0]);
                    script.code(call);
                }
            }
        }
        script.end();
        let monitor = Monitor::of(folder.path(), &script);
        monitor.with(&["--cpus", "2"]).run().survived();
    }

    #[test]
    fn a_second_cpu_starts_anywhere_again_and_again() {
        if !kvm() {
            return;
        }
        for entry in [
            0,
            3,
            RAM,
            KERNEL + 0x5000,
            0x0900_0000,
            0x0a00_0000,
            1 << 39,
            u64::MAX,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut script = Script::new();
            script.repeat(20, |script, _| {
                script
                    .code(Code::new().psci(CPU_ON, &[1, entry, 0]))
                    .spin(2000);
            });
            script.end();
            let ended = Monitor::of(folder.path(), &script)
                .with(&["--cpus", "2"])
                .run();
            // It may have fetched instructions where there are none, which KVM can't go on after.
            assert!(matches!(ended.status.code(), Some(0 | 5)), "{}", ended.err);
        }
    }

    #[test]
    fn a_vm_whose_cpus_are_all_off_is_ended_by_sigterm() {
        if !kvm() {
            return;
        }
        for function in [CPU_OFF, CPU_SUSPEND] {
            let code = Code::new().psci(function, &[0, 0, 0]).spin();
            terminated(Script::new().print("up").code(code)).has_status(143);
        }
    }
}
