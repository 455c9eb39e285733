//! Devices as a guest meets them: through real exits, with what is counted of those.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;

use motevm::Exit;
use motevm::arch::layout::REGISTERS_AS_MEMORY;
use motevm::config::{Console, Disk};

use crate::common::{BOOT_TIMER, Code, NOWHERE, VIRTIO, kvm};

#[test]
fn the_boot_timer_marks_init_and_counts_are_exact() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new()
        .print("ab")
        .read_byte(NOWHERE)
        .write_byte(BOOT_TIMER, 123)
        .print("after")
        .reset();
    let mut vm = code.vm(&host, folder.path(), |_| ());
    vm.run().unwrap();
    let report = vm.report();
    let reasons = report.exits.by_reason;
    let written = reasons.pio_out + reasons.mmio_write;
    let read = reasons.pio_in + reasons.mmio_read;
    assert_eq!((written, read, report.exits.total), (3, 1, 4));
    let devices = report.exits.by_device.iter();
    let devices: BTreeSet<_> = devices.map(|d| d.device.as_str()).collect();
    assert!(
        devices
            .iter()
            .eq(&["boot-timer", "serial", "unclaimed MMIO"])
    );
    let run = report.exec_to_first_run_us.unwrap();
    let init = report.first_run_to_init_us.unwrap();
    assert!(report.exec_to_init_us.unwrap().abs_diff(run + init) <= 1);
    assert!(report.process.guest_kib > 0 && report.process.resident_kib > 0);
    assert_eq!(vm.hint(), None);
}

#[test]
fn nobody_home_reads_as_ones() {
    let code = Code::new()
        .read_byte(NOWHERE)
        .print_read()
        .read_long(NOWHERE)
        .print_read()
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
fn virtio_devices_are_where_the_command_line_says() {
    let code = [0, 8, 16, 24].into_iter().fold(Code::new(), |code, shift| {
        code.read_long(VIRTIO).shift(shift).print_read()
    });
    let device_type = code
        .read_long(VIRTIO + 8)
        .print_read()
        .read_long(VIRTIO + 0x1008)
        .print_read();
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
fn a_driver_acknowledges_interrupts_without_an_exit_and_reads_registers_that_are_memory() {
    const DEVICE: u64 = VIRTIO;
    const FEATURES: u64 = DEVICE + 0x10;
    const SELECT: u64 = DEVICE + 0x14;
    const STATUS: u64 = DEVICE + 0x70;
    let code = Code::new()
        .write_long(STATUS, 1) // ACKNOWLEDGE
        .read_long(STATUS)
        .print_read()
        .write_long(STATUS, 3) // and DRIVER: the next read has it
        .read_long(STATUS)
        .print_read()
        .write_long(SELECT, 1)
        .read_long(FEATURES) // VIRTIO_F_VERSION_1 is bit 32
        .print_read();
    // 100 more reads, 100 acknowledgements of used buffers, and one of something else.
    let code = (0..100).fold(code, |code, _| {
        code.read_long(STATUS).write_long(DEVICE + 0x64, 1)
    });
    let code = code.write_long(DEVICE + 0x64, 3).write_long(STATUS, 0);
    let code = code.read_long(STATUS).print_read().reset();
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
    let reads = if REGISTERS_AS_MEMORY { 0 } else { 104 };
    assert_eq!((device.reads, device.writes), (reads, 5), "{counts:?}");
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
