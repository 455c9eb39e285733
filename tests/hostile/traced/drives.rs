//! Drives of each engine, with each kind of request.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use motevm::sandbox::ThreadKind;

use super::lives::{Seen, seen};
use super::trace;
use crate::devices::drive;
use crate::driver::{self, *};
use crate::monitor::Monitor;
use crate::native;
use crate::script::Script;

/// The requests of a drive (virtio 1.3 §5.2.6), each by itself.
fn requests(script: &mut Script, device: u64, features: u64, data: u64) {
    const SECTORS: u64 = 8;
    let ring = Ring::number(0);
    script.bring_up(device, VERSION_1 | features, 1);
    script.write64(BUFFER + 8, SECTORS);
    // A range of the drive, for those that name one.
    let range = |script: &mut Script| {
        script.write64(data, SECTORS).write64(data + 8, 8);
    };
    let [read, write, flush, id, discard, zeroes] = [0, 1, 4, 8, 11, 13];
    let chains = [
        (write, 512, 0),
        (write, 512, 0),
        (read, 512, WRITE),
        (flush, 0, 0),
        (id, 20, WRITE),
        (discard, 16, 0),
        (zeroes, 16, 0),
        (write, 512, 0),
    ];
    for (count, (kind, length, flags)) in (1..).zip(chains) {
        range(script);
        let table = ring.descriptors;
        script.write32(BUFFER, kind);
        let next = if length > 0 { 1 } else { 2 };
        script.descriptor(table, 0, (BUFFER, 16, NEXT, next));
        script.descriptor(table, 1, (data, length, NEXT | flags, 2));
        script.descriptor(table, 2, (BUFFER + 32, 1, WRITE, 0));
        script.write16(ring.available + 4 + 2 * (count - 1) % 16, 0);
        script
            .write16(ring.available + 2, count as u16)
            .notify(device, 0);
        script.wait(ring.used + 2, count as u16, 20_000);
    }
}

/// VIRTIO_BLK_F_FLUSH, _DISCARD, _WRITE_ZEROES.
const DRIVE: u64 = 1 << 9 | 1 << 13 | 1 << 14;
const NO_FLUSH: u64 = DRIVE & !(1 << 9);

fn drives(folder: &Path, engine: &str, serves: ThreadKind) -> Seen {
    let options = [
        (engine.to_owned(), DRIVE),
        (format!("{engine},iops=100"), NO_FLUSH),
        (format!("{engine},cache=none"), DRIVE),
    ];
    let mut script = Script::new();
    for ((_, features), device) in options.iter().zip((0..).map(driver::device)) {
        requests(&mut script, device, *features, BUFFER + 4096);
        // And again, after a reset, with a buffer that O_DIRECT can't take.
        requests(&mut script, device, *features, BUFFER + 4096 + 16);
    }
    script.end();
    let mut monitor = Monitor::of(folder, &script).with(&["--rng", "off", "--io-cpus", "0"]);
    for (n, (options, _)) in options.iter().enumerate() {
        let drive = drive(
            folder,
            &format!("drive{n}"),
            1 << 20,
            &format!(",{options}"),
        );
        monitor = monitor.with(&["--disk", &drive]);
    }
    let (monitor, trace) = trace::under_strace(monitor);
    monitor.run().survived();
    seen(trace, serves)
}

pub fn drives_by_threads(folder: &Path) -> Seen {
    drives(folder, "engine=threads", ThreadKind::Drive)
}

pub fn drives_by_rings(folder: &Path) -> Seen {
    drives(folder, "engine=io_uring", ThreadKind::Ring)
}

/// Files that the guest maps; one of them shrinks, and a device meets it.
pub fn mapped_drives(folder: &Path) -> Seen {
    let mut script = Script::new();
    script.bring_up(driver::device(1), VERSION_1, 1);
    let gone = Ring {
        available: native::DRIVES + (2 << 20),
        ..Ring::number(0)
    };
    script
        .greet(driver::device(0), VERSION_1)
        .queue(driver::device(0), 0, gone)
        .drive(driver::device(0));
    script
        .print("up")
        .wait(native::DRIVES, 1, 100_000_000)
        .notify(driver::device(0), 0)
        .spin(1_000_000)
        .end();
    let drive = drive(folder, "mapped", 4 << 20, ",dax");
    let monitor = Monitor::of(folder, &script)
        .with(&["--disk", &drive])
        .unread();
    let (monitor, trace) = trace::under_strace(monitor);
    let mut running = monitor.start();
    running.hear(b"up");
    let file = File::options().write(true).open(folder.join("mapped"));
    let file = file.unwrap();
    file.set_len(2 << 20).unwrap();
    file.write_all_at(&[1, 0], 0).unwrap(); // which the guest sees
    let ended = running.end();
    assert!(
        ended.err.contains("mapped"),
        "{}: {}",
        ended.status,
        ended.err
    );
    seen(trace, ThreadKind::Drive)
}

/// In a jail, with what is made there.
pub fn jailed(folder: &Path) -> Seen {
    let mut script = Script::new();
    requests(&mut script, driver::device(0), DRIVE, BUFFER + 4096);
    let drive = drive(folder, "drive", 1 << 20, "");
    let jail = format!(
        "id=traced,uid=64123,root={}",
        folder.join("jails").display()
    );
    let monitor = Monitor::of(folder, script.end()).with(&["--disk", &drive, "--jail", &jail]);
    let monitor = monitor.with(&["--vsock", "cid=3,socket=v", "--metrics", "file=m"]);
    let (monitor, trace) = trace::under_strace(monitor);
    monitor.run().survived();
    seen(trace, ThreadKind::Drive)
}
