//! Descriptor chains that make no sense, and requests of a drive that don't.

use crate::devices::{BALLOON, COUNT, drive, with_all_devices};
use crate::driver::{self, *};
use crate::kvm;
use crate::monitor::Monitor;
use crate::native::GAP;
use crate::queues::{QUEUES, RAM_END, bad_places};
use crate::random::Random;
use crate::script::Script;

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// Chains that are wrong, or only odd, as the first descriptors of the table; what they point at as a table of
/// their own is in [`BUFFER`] (see [`tables`]).
fn chains() -> Vec<Vec<Descriptor>> {
    let mut chains = vec![
        vec![(BUFFER, 16, NEXT, 0)],
        vec![(BUFFER, 16, NEXT | WRITE, 1), (BUFFER, 16, NEXT | WRITE, 0)],
        vec![
            (BUFFER, 16, NEXT, 1),
            (BUFFER, 16, NEXT, 2),
            (BUFFER, 16, NEXT, 1),
        ],
        vec![(BUFFER, !0, 0, 0)],
        vec![(BUFFER, !0, WRITE, 0)],
        // 4 GiB and more in all.
        vec![
            (BUFFER, !0, NEXT | WRITE, 1),
            (BUFFER, !0, NEXT | WRITE, 2),
            (BUFFER, !0, WRITE, 0),
        ],
        vec![
            (BUFFER, 16, NEXT, 1),
            (BUFFER, !0, NEXT | WRITE, 2),
            (BUFFER, 1, WRITE, 0),
        ],
        vec![(!0 - 15, 16, WRITE, 0)],
        vec![(!0, !0, WRITE, 0)],
        vec![(RAM_END - 8, 16, WRITE, 0)],
        vec![(BUFFER, 0, WRITE, 0)],
        vec![(BUFFER, 0, 0, 0)],
        vec![
            (BUFFER, 0, NEXT, 1),
            (BUFFER, 0, NEXT | WRITE, 2),
            (BUFFER, 0, WRITE, 0),
        ],
        vec![(BUFFER, 16, NEXT, 8)],
        vec![(BUFFER, 16, NEXT, 65535)],
        // What it may write before what it may read.
        vec![(BUFFER, 16, NEXT | WRITE, 1), (BUFFER, 16, 0, 0)],
        vec![
            (BUFFER, 16, NEXT, 1),
            (BUFFER, 512, NEXT | WRITE, 2),
            (BUFFER, 16, NEXT, 3),
            (BUFFER, 1, WRITE, 0),
        ],
        // All flags, and flags that nobody knows.
        vec![(BUFFER, 16, 0xffff, 1)],
        vec![(BUFFER, 16, 0xfff8, 0)],
    ];
    // Tables elsewhere: good, odd in length, empty, huge, misaligned, nested, of themselves, in the middle of a
    // chain, writable, nowhere.
    for (address, length) in [
        (BUFFER, 64),
        (BUFFER, 63),
        (BUFFER, 0),
        (BUFFER, 15),
        (BUFFER, 16),
        (BUFFER, 1 << 20),
        (BUFFER, !0),
        (BUFFER, !15),
        (BUFFER + 1, 64),
        (BUFFER + 0x1000, 64),
        (BUFFER + 0x2000, 64),
        (Ring::number(0).descriptors, 128),
        (RAM_END - 16, 32),
        (GAP.start, 64),
        (!0 - 31, 64),
    ] {
        chains.push(vec![(address, length, NESTED, 0)]);
        chains.push(vec![
            (address, length, NESTED | NEXT, 1),
            (BUFFER, 16, WRITE, 0),
        ]);
        chains.push(vec![(address, length, NESTED | WRITE, 0)]);
        chains.push(vec![(BUFFER, 16, NEXT, 1), (address, length, NESTED, 0)]);
    }
    for place in bad_places() {
        chains.push(vec![(place, 32, WRITE, 0)]);
        chains.push(vec![
            (BUFFER, 16, NEXT, 1),
            (place, 512, NEXT | WRITE, 2),
            (BUFFER, 1, WRITE, 0),
        ]);
        chains.push(vec![
            (place, 16, NEXT, 1),
            (BUFFER, 512, NEXT | WRITE, 2),
            (place, 1, WRITE, 0),
        ]);
    }
    chains
}

/// Tables for indirect descriptors: a good one, one that nests, one that goes round.
fn tables(script: &mut Script) {
    script.descriptor(BUFFER, 0, (BUFFER + 0x3000, 16, NEXT, 1));
    script.descriptor(BUFFER, 1, (BUFFER + 0x3000, 512, NEXT | WRITE, 2));
    script.descriptor(BUFFER, 2, (BUFFER + 0x3000, 1, WRITE, 0));
    script.descriptor(BUFFER, 3, (BUFFER + 0x3000, 1, WRITE, 0));
    script.descriptor(BUFFER + 0x1000, 0, (BUFFER + 0x1000, 64, NESTED, 0));
    script.descriptor(BUFFER + 0x2000, 0, (BUFFER, 16, NEXT | WRITE, 0));
}

#[test]
fn chains_go_round_reach_too_far_and_nest() {
    if !kvm() {
        return;
    }
    let ring = Ring::number(0);
    let mut script = Script::new();
    for chain in Random::new().some(chains()) {
        tables(&mut script);
        for (index, descriptor) in (0..).zip(&chain) {
            script.descriptor(ring.descriptors, index, *descriptor);
        }
        // To the balloon, what is in a chain's buffers are the guest's own pages: see `memory`.
        for device in (0..COUNT).filter(|n| *n != BALLOON).map(driver::device) {
            // All queues are the same one: each kind of queue gets it.
            script.write64(ring.available, 0).write64(ring.used, 0);
            script.greet(device, VERSION_1 | INDIRECT | EVENT_IDX);
            for queue in 0..QUEUES {
                script.queue(device, queue, ring);
            }
            script.drive(device).offer(ring, &[0], 1);
            for queue in 0..QUEUES {
                script.notify(device, queue);
            }
            script.wait_a_little(ring.used + 2, 1);
        }
    }
    script.prove_entropy(driver::device(COUNT - 1)).end();
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), &script, false).run();
    assert_eq!(ended.survived().out[0], 1);
}

#[test]
fn requests_of_a_drive_say_anything() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let ring = Ring::number(0);
    let mut script = Script::new();
    for kind in random.some(vec![0, 1, 4, 8, 11, 13, 1 << 31, !0]) {
        for sector in [0, 2047, 2048, 1 << 55, !0, random.next()] {
            for length in [0, 511, 512, 1 << 20] {
                script.bring_up(driver::device(0), VERSION_1, 1);
                script.write64(BUFFER, kind).write64(BUFFER + 8, sector);
                let write = if kind == 1 { 0 } else { WRITE };
                script.descriptor(ring.descriptors, 0, (BUFFER, 16, NEXT, 1));
                script.descriptor(ring.descriptors, 1, (BUFFER + 512, length, NEXT | write, 2));
                script.descriptor(ring.descriptors, 2, (BUFFER + 32, 1, WRITE, 0));
                script.offer(ring, &[0], 1).notify(driver::device(0), 0);
                script.wait(ring.used + 2, 1, 1000);
            }
        }
    }
    script.end();
    for engine in ["threads", "io_uring"] {
        let folder = tempfile::tempdir().unwrap();
        let disk = drive(folder.path(), "disk", 1 << 20, &format!(",engine={engine}"));
        let ended = Monitor::of(folder.path(), &script)
            .with(&["--disk", &disk])
            .run();
        ended.survived();
        let size = std::fs::metadata(folder.path().join("disk")).unwrap().len();
        assert_eq!(size, 1 << 20, "the image is as large as before");
    }
}
