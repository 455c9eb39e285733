//! Floods: notifications, interrupts, resets, output with readers that stall or are gone, the boot timer.

use std::process::Stdio;

use crate::devices::{COUNT, drive, with_all_devices};
use crate::driver::{self, *};
use crate::kvm;
use crate::monitor::Monitor;
use crate::native::{self, BOOT_TIMER};
use crate::script::{Script, Width};

#[test]
fn notifications_of_queues_with_nothing_in_them() {
    if !kvm() {
        return;
    }
    let mut script = Script::new();
    for device in (0..COUNT).map(driver::device) {
        script.bring_up(device, VERSION_1, 3);
        // By ioeventfd; by the transport, where there is no such queue; not a notification at all.
        for (value, width) in [
            (0, Width::Four),
            (1, Width::Four),
            (0xffff, Width::Four),
            (0, Width::Two),
            (0, Width::Eight),
        ] {
            script
                .write(width, device + QUEUE_NOTIFY, value)
                .times(2000 / ONE_OF);
        }
    }
    script.prove_entropy(driver::device(COUNT - 1)).end();
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), &script, false).run();
    assert_eq!(ended.survived().out[0], 1);
}

const ONE_OF: u64 = native::ONE_OF as u64;
const REQUESTS: u64 = 3000 / ONE_OF;

#[test]
fn interrupts_that_nobody_acknowledges() {
    if !kvm() {
        return;
    }
    let device = driver::device(0);
    let ring = Ring::number(0);
    let mut script = Script::new();
    script.bring_up(device, VERSION_1, 1);
    script.descriptor(ring.descriptors, 0, (BUFFER, 8, WRITE, 0));
    // Each with an interrupt of its own; the guest takes none.
    script.repeat(REQUESTS, |script, n| {
        script
            .write16(ring.available + 2, n as u16 + 1)
            .notify(device, 0);
        script.wait(ring.used + 2, n as u16 + 1, 100_000);
    });
    script.show(ring.used + 2).show(ring.used + 3).end();
    let folder = tempfile::tempdir().unwrap();
    let ended = Monitor::of(folder.path(), &script).run();
    let expected = [&(REQUESTS as u16).to_le_bytes()[..], b"alive"].concat();
    assert_eq!(ended.survived().out, expected);
}

#[test]
fn what_is_done_wrong_after_each_reset_is_told_once() {
    if !kvm() {
        return;
    }
    let ring = Ring::number(0);
    let mut script = Script::new();
    for _ in 0..100 / ONE_OF {
        for device in (0..COUNT).map(driver::device) {
            script
                .write32(device + STATUS, 0x80)
                .write32(device + STATUS, 0);
            script.write64(ring.available, 0).write64(ring.used, 0);
            script.descriptor(ring.descriptors, 0, (BUFFER, 16, 0, 0));
            script.greet(device, VERSION_1);
            for queue in 0..3 {
                script.queue(device, queue, ring);
            }
            script.drive(device).offer(ring, &[0], 1);
            for queue in 0..3 {
                script.notify(device, queue);
            }
            script.wait_a_little(ring.used + 2, 1);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), script.end(), false).run();
    ended.survived();
    // A device, its driver and its muxer have a line each.
    let lines = ended.err.lines().count();
    assert!(lines <= 3 * COUNT as usize, "{lines} lines: {}", ended.err);
}

#[test]
fn the_boot_timer_is_written_for_ever() {
    if !kvm() {
        return;
    }
    let mut script = Script::new();
    script
        .write(Width::One, BOOT_TIMER, 123)
        .times(20_000 / ONE_OF);
    script
        .write(Width::One, BOOT_TIMER, 0)
        .times_by(2000 / ONE_OF, 0, 1);
    let folder = tempfile::tempdir().unwrap();
    let (mut lines, writer) = std::io::pipe().unwrap();
    let monitor = Monitor::of(folder.path(), script.end()).with(&["--notify-fd", "0"]);
    let monitor = monitor.change(|command| {
        command.stdin(writer);
    });
    monitor.run().survived();
    // The writer is the command's own and the child's: both are gone.
    let mut told = String::new();
    std::io::Read::read_to_string(&mut lines, &mut told).unwrap();
    assert_eq!(told.lines().count(), 2, "{told}");
}

/// So many lines' ends are printed on the serial port.
const LINES: u64 = 30_000 / ONE_OF;

fn flood() -> Script {
    let mut script = Script::new();
    script.ops.push(native::print(b'\n'));
    script.times(LINES).end();
    script
}

#[test]
fn serial_output_with_a_reader() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ended = Monitor::of(folder.path(), &flood()).run();
    assert_eq!(ended.survived().out.len() as u64, LINES + 5);
}

#[test]
fn serial_output_that_nobody_reads() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // More than the pipe holds (see `unread`).
    let mut script = Script::new();
    script.ops.push(native::print(b'x'));
    script.times(10_000);
    script.code(native::power_off());
    let ended = Monitor::of(folder.path(), &script).unread().run();
    ended.has_status(0);
    assert!(ended.err.contains("output were lost"), "{}", ended.err);
}

#[test]
fn serial_output_whose_reader_is_gone_or_full() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full");
    for output in [Stdio::from(gone), Stdio::from(full.unwrap())] {
        let monitor = Monitor::of(folder.path(), &flood()).change(|command| {
            command.stdout(output).stderr(Stdio::piped());
        });
        monitor.start_as_it_is().end().has_status(0);
    }
}

#[test]
fn output_of_a_virtio_console() {
    if !kvm() {
        return;
    }
    let device = driver::device(0);
    let ring = Ring::number(1);
    let mut script = Script::new();
    script.bring_up(device, VERSION_1, 2);
    // 8 buffers of 64 KiB, 100 times: 50 MiB.
    for index in 0..8 {
        script.descriptor(ring.descriptors, index, (BUFFER, 1 << 16, 0, 0));
        script.write16(ring.available + 4 + 2 * index, index as u16);
    }
    script.repeat(100, |script, n| {
        script
            .write16(ring.available + 2, (n as u16 + 1) * 8)
            .notify(device, 1);
        script.wait(ring.used + 2, (n as u16 + 1) * 8, 20_000);
    });
    script.code(native::power_off());
    for unread in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Monitor::of(folder.path(), &script);
        let monitor = monitor.with(&["--console", "hvc", "--rng", "off"]);
        let monitor = if unread { monitor.unread() } else { monitor };
        monitor.run().has_status(0);
    }
}

#[test]
fn requests_to_a_drive_with_a_limit() {
    if !kvm() {
        return;
    }
    let device = driver::device(0);
    let ring = Ring::number(0);
    let mut script = Script::new();
    // Each waits, and a reset doesn't wait for them.
    for _ in 0..20 {
        script.bring_up(device, VERSION_1, 1);
        script.write64(BUFFER, 0).write64(BUFFER + 8, 0);
        script.descriptor(ring.descriptors, 0, (BUFFER, 16, NEXT, 1));
        script.descriptor(ring.descriptors, 1, (BUFFER + 4096, 512, NEXT | WRITE, 2));
        script.descriptor(ring.descriptors, 2, (BUFFER + 32, 1, WRITE, 0));
        script.offer(ring, &[0; 8], 8).notify(device, 0).spin(5000);
    }
    for engine in ["threads", "io_uring"] {
        let folder = tempfile::tempdir().unwrap();
        let limit = format!(",iops=1,engine={engine}");
        let disk = drive(folder.path(), "disk", 1 << 20, &limit);
        Monitor::of(folder.path(), script.end())
            .with(&["--disk", &disk])
            .run()
            .survived();
        script.ops.truncate(script.ops.len() - 6);
    }
}
