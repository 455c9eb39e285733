//! Tiny hand-assembled guests on /dev/kvm: every way in which a VM ends, the devices' ports and
//! registers, and many VMs in one process. They need a KVM, but not one that can run Linux.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{Code, PATIENCE, kvm};
use motevm::bus::{Bus, BusDevice};
use motevm::config::{Acpi, Console, Cpus, Disk, KernelLoad, Size};
use motevm::kvm::Vcpu;
use motevm::memory::{Backing, GuestRam};
use motevm::vcpu::{CrashKind, ExitCounters, Prepare, Stop, Surroundings, VcpuThread};
use motevm::{Exit, Host};
use vm_memory::{Bytes, GuestAddress};

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
fn a_guest_powers_off_by_acpi() {
    let code = Code::new().out(0x600, 0x34).spin();
    let Some((exit, _)) = run_with(code, |config| config.acpi = Acpi::On) else {
        return;
    };
    assert_eq!(exit, Exit::PowerOff);
}

#[test]
fn a_triple_fault_is_a_crash_with_registers_and_code() {
    let Some((exit, _)) = run(Code::new().print("x").triple_fault()) else {
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
        let code = Code::new().write_word(0x472, word).triple_fault();
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
fn the_boot_timer_marks_init_and_counts_are_exact() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new()
        .print("ab")
        .read_port(0x99)
        .write_byte(0xd000_0000, 123)
        .print("after")
        .reset();
    let mut vm = code.vm(&host, folder.path(), |_| ());
    vm.run().unwrap();
    let report = vm.report();
    assert_eq!(report.exits.by_reason.pio_out, 2);
    assert_eq!(report.exits.by_reason.pio_in, 1);
    assert_eq!(report.exits.by_reason.mmio_write, 1);
    assert_eq!(report.exits.total, 4);
    let devices: Vec<_> = report
        .exits
        .by_device
        .iter()
        .map(|d| d.device.as_str())
        .collect();
    assert_eq!(devices, ["boot-timer", "serial", "unclaimed ports"]);
    let run = report.exec_to_first_run_us.unwrap();
    let init = report.first_run_to_init_us.unwrap();
    assert!(report.exec_to_init_us.unwrap().abs_diff(run + init) <= 1);
    assert!(report.process.guest_kib > 0 && report.process.resident_kib > 0);
    assert_eq!(vm.hint(), None);
}

#[test]
fn nobody_home_reads_as_ones() {
    let code = Code::new()
        .read_port(0x99)
        .print_al()
        .read_byte(0xd00f_0000)
        .print_al()
        .reset();
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    code.vm(&host, folder.path(), |_| ()).run().unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("out")).unwrap(),
        [0xff, 0xff]
    );
}

#[test]
fn a_string_instruction_is_as_many_accesses() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    const AT: u32 = 0x20_0000;
    let code = Code::new().read_string(0x3fd, AT, 4);
    let code = (0..5).fold(code, |code, n| code.read_byte(AT + n).print_al());
    code.reset().vm(&host, folder.path(), |_| ()).run().unwrap();
    // Four times the line status of an idle port, and nothing behind them.
    let read = std::fs::read(folder.path().join("out")).unwrap();
    assert_eq!(read, [0x60, 0x60, 0x60, 0x60, 0]);
}

#[test]
fn virtio_devices_are_where_the_command_line_says() {
    let code = [0, 8, 16, 24].into_iter().fold(Code::new(), |code, shift| {
        code.read_long(0xd000_1000).shift(shift).print_al()
    });
    let device_type = code
        .read_long(0xd000_1008)
        .print_al()
        .read_long(0xd000_2008)
        .print_al();
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let mut vm = device_type.reset().vm(&host, folder.path(), |config| {
        config.disks = vec![Disk {
            path: disk,
            ..Disk::default()
        }];
    });
    vm.run().unwrap();
    // "virt", then the device types: block, entropy (virtio 1.3 §5).
    assert_eq!(
        std::fs::read(folder.path().join("out")).unwrap(),
        b"virt\x02\x04"
    );
}

#[test]
fn a_driver_reads_registers_and_acknowledges_interrupts_without_an_exit() {
    const DEVICE: u32 = 0xd000_1000;
    const FEATURES: u32 = DEVICE + 0x10;
    const SELECT: u32 = DEVICE + 0x14;
    const STATUS: u32 = DEVICE + 0x70;
    let code = Code::new()
        .write_long(STATUS, 1) // ACKNOWLEDGE
        .read_long(STATUS)
        .print_al()
        .write_long(STATUS, 3) // and DRIVER: the next read has it
        .read_long(STATUS)
        .print_al()
        .write_long(SELECT, 1)
        .read_long(FEATURES) // VIRTIO_F_VERSION_1 is bit 32
        .print_al();
    // 100 more reads, 100 acknowledgements of used buffers, and one of something else.
    let code = (0..100).fold(code, |code, _| {
        code.read_long(STATUS).write_long(DEVICE + 0x64, 1)
    });
    let code = code.write_long(DEVICE + 0x64, 3).write_long(STATUS, 0);
    let code = code.read_long(STATUS).print_al().reset();
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut vm = code.vm(&host, folder.path(), |_| ());
    vm.run().unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("out")).unwrap(),
        [1, 3, 1, 0]
    );
    let counts = vm.report().exits;
    let device = counts.by_device.iter().find(|d| d.device == "virtio-rng");
    let device = device.unwrap();
    assert_eq!((device.reads, device.writes), (0, 5), "{counts:?}");
}

#[test]
fn a_guest_that_never_ends_is_stopped() {
    let Some(host) = kvm() else { return };
    for code in [Code::new().spin(), Code::new().halt().spin()] {
        let folder = tempfile::tempdir().unwrap();
        let mut vm = code.vm(&host, folder.path(), |config| config.cpus = Cpus(3));
        let stopper = vm.stopper();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            stopper.stop();
        });
        assert_eq!(vm.run().unwrap(), Exit::Stopped);
        thread.join().unwrap();
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
fn console_input_reaches_the_guest() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().echo_until_q().reset();
    let mut vm = code.vm(&host, folder.path(), |config| config.console = Console::Pty);
    let name = vm.pty().unwrap().to_owned();
    let peer = thread::spawn(move || {
        // Not as the controlling terminal, whose end would be a SIGHUP for the test program.
        let mut pty = File::options();
        pty.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let mut pty = pty.open(name).unwrap();
        // More than the port's FIFO of 64 bytes.
        let text: Vec<u8> = (0..300)
            .map(|n| b'a' + (n % 10) as u8)
            .chain([b'q'])
            .collect();
        pty.write_all(&text).unwrap();
        let mut echoed = vec![0; text.len()];
        pty.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, text);
    });
    assert_eq!(vm.run().unwrap(), Exit::Reset);
    peer.join().unwrap();
}

#[test]
fn the_largest_vm_can_be_built_and_ended() {
    let code = Code::new().print("big").reset();
    let big = run_with(code, |config| {
        config.cpus = Cpus(motevm::config::MAX_CPUS);
        config.memory = Size::gib(5).into();
    });
    let Some((exit, text)) = big else { return };
    assert_eq!((exit, text.as_str()), (Exit::Reset, "big"));
}

#[test]
fn memory_above_the_device_gap_is_there() {
    // Only 32 bits are reachable in this mode: the last long below the gap, and none in it.
    let code = Code::new()
        .write_long(0xbfff_fffc, u32::from_le_bytes(*b"okay"))
        .read_byte(0xbfff_fffd)
        .print_al()
        .write_long(0xc000_0000, 0)
        .read_byte(0xc000_0000)
        .print_al()
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
fn a_guest_cannot_hold_the_monitor_by_flooding_the_console() {
    // Nobody reads the pty: output is dropped in time, and the VM still ends.
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = (0..200)
        .fold(Code::new(), |code, _| code.print("xxxxxxxxxxxxxxxx"))
        .reset();
    let mut vm = code.vm(&host, folder.path(), |config| config.console = Console::Pty);
    assert_eq!(vm.run().unwrap(), Exit::Reset);
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

/// A defect of the monitor's.
struct Defect;

impl BusDevice for Defect {
    fn read(&mut self, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: u64, _: &[u8]) {
        panic!("this panic is part of the test");
    }
}

/// A vCPU thread in real mode at 0x1000, where `code` is; its memory, and what it says when it
/// stops.
fn vcpu_thread(host: &Host, code: &[u8]) -> (GuestRam, VcpuThread, mpsc::Receiver<Stop>) {
    vcpu_thread_with(host, code, Arc::new(|_| Ok(())))
}

fn vcpu_thread_with(
    host: &Host,
    code: &[u8],
    prepare: Prepare,
) -> (GuestRam, VcpuThread, mpsc::Receiver<Stop>) {
    let ram = GuestRam::new(&[(GuestAddress(0), 1 << 20)], Backing::Anonymous).unwrap();
    ram.memory()
        .write_slice(code, GuestAddress(0x1000))
        .unwrap();
    let fd = host.create_vm().unwrap();
    // SAFETY: `ram` is handed out with the thread, and dropped after it.
    unsafe { fd.set_memory(ram.memory()).unwrap() };
    let vcpu = fd.create_vcpu(0).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.regs().unwrap();
    (regs.rip, regs.rflags) = (0x1000, 2);
    vcpu.set_regs(&regs).unwrap();
    let mut ports = Bus::new();
    ports
        .insert("defect", 0x10, 1, Arc::new(Mutex::new(Defect)))
        .unwrap();
    let (send, stops) = mpsc::channel();
    let send = Mutex::new(send);
    let surroundings = Surroundings {
        mmio: Arc::new(Bus::new()),
        ports: Arc::new(ports),
        memory: ram.memory().clone(),
        read_only_memory: false,
        prepare,
        on_start: Arc::new(|| ()),
        on_stop: Arc::new(move |stop| send.lock().unwrap().send(stop).unwrap()),
    };
    let thread = VcpuThread::start(vcpu, surroundings, Arc::new(ExitCounters::default()));
    (ram, thread.unwrap(), stops)
}

#[test]
fn a_panic_on_a_vcpu_thread_is_told_and_the_thread_can_still_be_stopped() {
    let Some(host) = kvm() else { return };
    // out 0x10, al
    let (_ram, thread, stops) = vcpu_thread(&host, &[0xe6, 0x10]);
    let stop = stops.recv_timeout(PATIENCE).unwrap();
    assert_eq!(stop, Stop::Failed);
    // Time enough for the thread to unwind: its vCPU must still be there.
    thread::sleep(Duration::from_millis(100));
    thread.request_stop();
    thread.join();
}

#[test]
fn a_vcpu_that_cannot_be_set_up_ends_the_vm_and_never_runs() {
    let Some(host) = kvm() else { return };
    // An MSR that no processor has.
    let prepare = |vcpu: &Vcpu| vcpu.set_msrs(&[(0xdead_beef, 1)]);
    // out 0x10, al
    let (_ram, thread, stops) = vcpu_thread_with(&host, &[0xe6, 0x10], Arc::new(prepare));
    let stop = stops.recv_timeout(PATIENCE).unwrap();
    assert_eq!(stop, Stop::Failed);
    thread.join();
    // It would have panicked at the port, and said so.
    assert_eq!(stops.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}

#[test]
fn a_mapped_kernel_that_is_cut_short_is_told_by_its_name() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().print("never").reset();
    let mut vm = code.vm(&host, folder.path(), |config| {
        let kernel = folder.path().join("large");
        std::fs::write(&kernel, code.elf_of_size(0x4000)).unwrap();
        config.boot.kernel = Some(kernel);
        config.boot.load = KernelLoad::Map;
    });
    assert_eq!(vm.report().bytes_mapped, 0x4000);
    let kernel = File::options()
        .write(true)
        .open(folder.path().join("large"));
    kernel.unwrap().set_len(0x800).unwrap();
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

#[test]
fn a_vcpu_thread_that_is_dropped_has_ended() {
    let Some(host) = kvm() else { return };
    // jmp $
    let (_ram, thread, stops) = vcpu_thread(&host, &[0xeb, 0xfe]);
    drop(thread);
    // The thread's end of the channel is gone, with nothing said.
    assert_eq!(stops.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}
