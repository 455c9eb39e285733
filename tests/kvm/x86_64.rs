//! What only x86_64 has: ports, triple faults, ACPI's sleep register, the gap in RAM, CPUID.

use std::thread;

use motevm::Exit;
use motevm::config::{Acpi, MAX_CPUS, Size};
use motevm::kvm::{KvmError, Vcpu, Vm};
use motevm::vcpu::CrashKind;
use vm_memory::GuestAddress;

use crate::common::{BOOT_TIMER, Code, kvm};
use crate::{run, run_with};

/// The port of a device that panics.
pub const DEFECT: u64 = 0x10;
/// `out 0x10, al`
pub const TOUCH_DEFECT: [u8; 2] = [0xe6, DEFECT as u8];
/// `jmp $`
pub const SPIN: [u8; 2] = [0xeb, 0xfe];

/// How many vCPUs a VM can have on this host.
pub fn most_cpus() -> u8 {
    MAX_CPUS
}

/// Lets a new vCPU start here, in real mode.
pub fn start_at(_fd: &Vm, vcpu: &Vcpu, entry: GuestAddress) {
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.regs().unwrap();
    (regs.rip, regs.rflags) = (entry.0, 2);
    vcpu.set_regs(&regs).unwrap();
}

/// Sets an MSR that no processor has.
pub fn fail(vcpu: &Vcpu) -> Result<(), KvmError> {
    vcpu.set_msrs(&[(0xdead_beef, 1)])
}

#[test]
fn a_guest_powers_off_by_acpi() {
    let code = Code::new().power_off();
    let Some((exit, _)) = run_with(code, |config| config.acpi = Acpi::On) else {
        return;
    };
    assert_eq!(exit, Exit::PowerOff);
}

#[test]
fn a_triple_fault_is_a_crash_with_registers_and_code() {
    let Some((exit, _)) = run(Code::new().print("x").crash()) else {
        return;
    };
    let Exit::Crash(report) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!(report.kind, CrashKind::TripleFault);
    let text = report.to_string();
    assert!(text.contains("triple fault"), "{text}");
    // On AMD hosts KVM resets the vCPU before anyone can look at it, and mote says so.
    if !text.contains("registers: lost (on AMD") {
        assert!(text.contains("rip 0x0000000000100"), "{text}");
        assert!(text.contains("code: 0f 0b"), "{text}");
    }
}

#[test]
fn a_triple_fault_that_linux_announced_is_a_reboot_or_a_panic() {
    for (word, expected) in [(0, Exit::Reset), (0x1234, Exit::Panic)] {
        let code = Code::new().announce_boot(word).crash();
        let Some((exit, _)) = run(code) else { return };
        assert_eq!(exit, expected);
    }
}

#[test]
fn running_where_there_is_no_memory_ends_the_vm_with_a_report() {
    let Some((exit, _)) = run(Code::new().jump(0xd800_0000)) else {
        return;
    };
    let Exit::Crash(report) = exit else {
        panic!("{exit:?}")
    };
    assert!(report.to_string().contains("rip 0x"), "{report}");
}

#[test]
fn ports_are_counted_apart_and_nobody_home_reads_as_ones() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new()
        .read_port(0x99)
        .print_read()
        .write_byte(BOOT_TIMER, 123);
    let mut vm = code.reset().vm(&host, folder.path(), |_| ());
    vm.run().unwrap();
    assert_eq!(std::fs::read(folder.path().join("out")).unwrap(), [0xff]);
    let exits = vm.report().exits;
    let reasons = exits.by_reason;
    assert_eq!((reasons.pio_in, reasons.pio_out), (1, 1));
    assert_eq!((reasons.mmio_read, reasons.mmio_write), (0, 1));
    let mut devices = exits.by_device.iter();
    assert!(devices.any(|of| of.device == "unclaimed ports" && of.reads == 1));
}

#[test]
fn a_string_instruction_is_as_many_accesses() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    const AT: u64 = 0x20_0000;
    let code = Code::new().read_string(0x3fd, AT, 4);
    let code = (0..5).fold(code, |code, n| code.read_byte(AT + n).print_read());
    code.reset().vm(&host, folder.path(), |_| ()).run().unwrap();
    // Four times the line status of an idle port, and nothing behind them.
    let read = std::fs::read(folder.path().join("out")).unwrap();
    assert_eq!(read, [0x60, 0x60, 0x60, 0x60, 0]);
}

#[test]
fn memory_above_the_device_gap_is_there() {
    // Only 32 bits are reachable in this mode: the last long below the gap, and none in it.
    let code = Code::new()
        .write_long(0xbfff_fffc, u32::from_le_bytes(*b"okay"))
        .read_byte(0xbfff_fffd)
        .print_read()
        .write_long(0xc000_0000, 0)
        .read_byte(0xc000_0000)
        .print_read()
        .reset();
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = code.vm(&host, folder.path(), |config| {
        config.memory = Size::gib(4).into()
    });
    vm.run().unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("out")).unwrap(),
        [b'k', 0xff]
    );
}

#[test]
fn many_vms_of_a_program_ask_for_cpuid_once() {
    let Some(host) = kvm() else { return };
    for _ in 0..5 {
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let folder = tempfile::tempdir().unwrap();
                    let mut vm = Code::new().reset().vm(&host, folder.path(), |_| ());
                    assert_eq!(vm.run().unwrap(), Exit::Reset);
                });
            }
        });
    }
    assert_eq!(host.supported_cpuid_calls(), 1);
}
