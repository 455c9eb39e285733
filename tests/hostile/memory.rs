//! Memory that a guest gives back by its balloon: what it doesn't have, what it needs itself, all of it; and
//! touches again.

use crate::driver::*;
use crate::kvm;
use crate::monitor::{Ended, MEMORY_KIB, Monitor};
use crate::native::{BOOT_TIMER, DRIVES, GAP, KERNEL, RAM, VIRTIO};
use crate::random::Random;
use crate::script::Script;

/// The balloon of a VM that has nothing else.
const DEVICE: u64 = VIRTIO;
const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;

fn run(script: &Script, balloon: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let monitor = Monitor::of(folder.path(), script).with(&["--rng", "off"]);
    monitor.with(&["--balloon", balloon]).run()
}

/// Has a queue take the page numbers in the buffer: so many bytes of them.
fn offer_pages(script: &mut Script, queue: u32, bytes: u32) {
    let ring = Ring::number(queue.into());
    script.bring_up(DEVICE, VERSION_1, 3);
    script.descriptor(ring.descriptors, 0, (BUFFER, bytes, 0, 0));
    script
        .offer(ring, &[0], 1)
        .notify(DEVICE, queue)
        .wait(ring.used + 2, 1, 200_000);
}

#[test]
fn pages_that_are_not_memory_are_not_given_back() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let end = RAM + (MEMORY_KIB << 10);
    let mut places = vec![GAP.start, BOOT_TIMER, VIRTIO, end, end + (1 << 30), DRIVES];
    places.extend([0xffff_ffff << 12, 0x8000_0000 << 12, (1 << 40) - 4096]);
    places.extend((0..20).map(|_| end + (random.below(1 << 30) << 12)));
    places.retain(|place| !(RAM..end).contains(place));
    let mut script = Script::new();
    script.write64(BUFFER + 0x1_0000, 0x6565);
    for queue in [INFLATE, DEFLATE] {
        for (n, place) in (0..).zip(&places) {
            script.write32(BUFFER + n * 4, (place >> 12) as u32);
            // One alone; all so far, and a part of a number.
            offer_pages(&mut script, queue, 4);
            offer_pages(&mut script, queue, n as u32 * 4 + 3);
        }
    }
    script.show(BUFFER + 0x1_0000).end();
    let ended = run(&script, "1M");
    assert_eq!(String::from_utf8_lossy(&ended.survived().out), "ealive");
}

#[test]
fn memory_that_was_given_back_is_there_when_it_is_touched_again() {
    if !kvm() {
        return;
    }
    const PLACE: u64 = RAM + (24 << 20);
    const PAGES: u64 = 1024;
    let mut script = Script::new();
    for _ in 0..3 {
        script
            .write64(PLACE, 0x6161_6161_6161_6161)
            .along(PAGES, 4096);
        script
            .write32(BUFFER, (PLACE >> 12) as u32)
            .times_by(PAGES, 4, 1);
        offer_pages(&mut script, INFLATE, PAGES as u32 * 4);
        // The same again, while it is touched.
        let ring = Ring::number(0);
        script.offer(ring, &[0, 0], 2).notify(DEVICE, INFLATE);
        script
            .write64(PLACE, 0x6262_6262_6262_6262)
            .along(PAGES, 4096);
        script.wait(ring.used + 2, 2, 200_000);
        script
            .write64(PLACE, 0x6363_6363_6363_6363)
            .along(PAGES, 4096);
        offer_pages(&mut script, DEFLATE, PAGES as u32 * 4);
        script.show(PLACE + 4096 * (PAGES - 1));
    }
    let ended = run(script.end(), "4M,stats=1");
    assert_eq!(String::from_utf8_lossy(&ended.survived().out), "cccalive");
}

#[test]
fn free_pages_are_reported_wherever_they_are() {
    if !kvm() {
        return;
    }
    // Reports are descriptors of what is free; each queue gets them.
    let ring = Ring::number(0);
    let mut script = Script::new();
    for (address, length) in [
        (RAM + (24 << 20), 4 << 20),
        (RAM + (24 << 20) + 1, 4095),
        (RAM + (24 << 20), !0),
        (RAM + (MEMORY_KIB << 10) - 4096, 8192),
        (GAP.start, 4096),
        (VIRTIO, 4096),
        (DRIVES, 2 << 20),
        (!0 - 4095, 4096),
        (!0, !0),
    ] {
        for flags in [0, WRITE] {
            for queue in 2..5 {
                script.write64(ring.available, 0).write64(ring.used, 0);
                script.greet(DEVICE, VERSION_1 | 1 << 5 | 1 << 1);
                for index in 0..5 {
                    script.queue(DEVICE, index, ring);
                }
                script.drive(DEVICE);
                script.descriptor(ring.descriptors, 0, (address, length, flags, 0));
                script
                    .offer(ring, &[0], 1)
                    .notify(DEVICE, queue)
                    .wait_a_little(ring.used + 2, 1);
            }
        }
    }
    run(script.end(), "stats=1").survived();
}

#[test]
fn a_guest_that_gives_away_what_it_runs_in_harms_itself_alone() {
    if !kvm() {
        return;
    }
    for (first, pages) in [(0, MEMORY_KIB / 4), (KERNEL - RAM, 512)] {
        let mut script = Script::new();
        script
            .write32(BUFFER, ((RAM + first) >> 12) as u32)
            .times_by(pages, 4, 1);
        offer_pages(&mut script, INFLATE, pages as u32 * 4);
        script.print("still here").end();
        let folder = tempfile::tempdir().unwrap();
        let monitor = Monitor::of(folder.path(), &script).with(&["--rng", "off"]);
        let running = monitor.with(&["--balloon", "1M"]).start();
        // It is without code, so it may do anything, also nothing any more.
        let ended = running.end_soon();
        let expected = matches!(ended.status.code(), None | Some(0 | 5 | 143));
        assert!(expected, "{}: {}", ended.status, ended.err);
    }
}
