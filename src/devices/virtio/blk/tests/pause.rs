//! A drive while the VM is paused, and a drive whose medium or limits change.

use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::config::{Rate, RateLimit};

on_both_engines! {
    requests_in_flight_end_and_no_other_is_taken_until_the_gate_opens
    a_request_that_waits_for_its_time_holds_no_pause_up
    another_medium_has_another_capacity_and_other_bytes
}

fn quiet() -> Arc<EventFd> {
    Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())
}

fn requests_in_flight_end_and_no_other_is_taken_until_the_gate_opens(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let mut drive = Drive::new(&config(&image(folder.path(), 64), engine), FLUSH);
    let interrupt = drive.guest.transport.interrupt().clone();
    assert_eq!(drive.read(3, 512).0, OK);
    for round in 0..20 {
        let sector = 1 + round % 60;
        drive.set_header(VIRTIO_BLK_T_IN, sector);
        drive.guest.store(drive.data, &[0xee; 512]);
        let chain = [
            Read(drive.header, 16),
            Write(drive.data, 512),
            Write(drive.status, 1),
        ];
        let head = drive.queue.add(&chain);
        // Under way or not taken, as it comes.
        if round % 2 == 0 {
            drive.guest.kick(&mut drive.queue, &[head]);
        }
        interrupt.gate().close(&quiet());
        wait_until("a quiet gate", || interrupt.gate().is_quiet());
        if round % 2 == 1 {
            drive.guest.kick(&mut drive.queue, &[head]);
        }
        let look = |drive: &Drive| {
            let status = drive.guest.load(drive.status, 1);
            (drive.guest.load(drive.data, 512), status)
        };
        let before = look(&drive);
        if round % 2 == 1 {
            assert_eq!(before.1, [0xff], "taken behind a closed gate");
        }
        thread::sleep(Duration::from_millis(3));
        assert_eq!(look(&drive), before);
        interrupt.gate().open();
        drive.guest.wait_used(&mut drive.queue);
        assert_eq!(look(&drive), (vec![sector as u8; 512], vec![OK]));
    }
}

fn a_request_that_waits_for_its_time_holds_no_pause_up(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let one = Rate {
        per_second: 2,
        burst: 1,
    };
    let limit = RateLimit {
        ops: Some(one),
        bytes: None,
    };
    let config = BlkConfig {
        limit,
        ..config(&image(folder.path(), 64), engine)
    };
    let device = BlkDevice::open(&config).unwrap();
    let end = device.drive();
    let (guest, queues) = FakeGuest::running(device, FLUSH);
    let mut drive = super::Drive::of(guest, queues);
    let interrupt = drive.guest.transport.interrupt().clone();
    assert_eq!(drive.read(1, 512).0, OK);
    drive.set_header(VIRTIO_BLK_T_IN, 2);
    let chain = [
        Read(drive.header, 16),
        Write(drive.data, 512),
        Write(drive.status, 1),
    ];
    let head = drive.queue.add(&chain);
    drive.guest.kick(&mut drive.queue, &[head]);
    thread::sleep(Duration::from_millis(50));
    interrupt.gate().close(&quiet());
    wait_until("a quiet gate", || interrupt.gate().is_quiet());
    // Its time comes, and nothing happens.
    thread::sleep(Duration::from_millis(700));
    assert_eq!(drive.guest.load(drive.status, 1), [0xff]);
    interrupt.gate().open();
    drive.guest.wait_used(&mut drive.queue);
    assert_eq!(drive.guest.load(drive.status, 1), [OK]);
    // Without limits there is nothing to wait for.
    assert!(end.set_limits(&RateLimit::default()));
    let start = Instant::now();
    (0..20).for_each(|_| assert_eq!(drive.read(1, 512).0, OK));
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn another_medium_has_another_capacity_and_other_bytes(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let device = BlkDevice::open(&config(&image(folder.path(), 8), engine)).unwrap();
    let end = device.drive();
    let other = folder.path().join("other");
    std::fs::write(&other, [0x77; 16 * 512]).unwrap();
    let (mut guest, queues) = FakeGuest::running(device, FLUSH);
    let capacity = |guest: &mut FakeGuest| u64::from_le_bytes(guest.config(0));
    assert_eq!(capacity(&mut guest), 8);
    let mut drive = super::Drive::of(guest, queues);
    assert_eq!(drive.read(7, 512).1, [7; 512]);
    assert_eq!(drive.read(12, 512).0, IOERR);
    assert_eq!(end.replace(&other).unwrap().unwrap(), 16 * 512);
    assert_eq!(capacity(&mut drive.guest), 16);
    assert_eq!(drive.read(12, 512), (OK, vec![0x77; 512]));
    // What can't be used changes nothing.
    assert!(end.replace(&folder.path().join("none")).unwrap().is_err());
    assert_eq!(drive.read(12, 512), (OK, vec![0x77; 512]));
    // The same one, which has grown: it is locked by this drive itself.
    let grown = std::fs::File::options().write(true).open(&other).unwrap();
    grown.set_len(32 * 512).unwrap();
    assert_eq!(end.replace(&other).unwrap().unwrap(), 32 * 512);
    assert_eq!(
        (capacity(&mut drive.guest), drive.read(31, 512).0),
        (32, OK)
    );
    // The first is free, and the second isn't.
    let locked = |path: &Path| {
        matches!(
            BlkDevice::open(&config(path, engine)),
            Err(BlkError::Locked { .. })
        )
    };
    assert!(!locked(&folder.path().join("disk.img")) && locked(&other));
    drop(drive);
    assert!(end.replace(&other).is_none() && !end.set_limits(&RateLimit::default()));
}
