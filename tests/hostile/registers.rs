//! The registers of all devices, in every width, with any value, in any order.

use crate::devices::{COUNT, with_all_devices};
use crate::driver::{self, *};
use crate::kvm;
use crate::native::{BOOT_TIMER, ONE_OF, VIRTIO};
use crate::random::Random;
use crate::script::{Script, WIDTHS, Width};

/// Runs the script in a VM with all devices, once with a serial port and once with a virtio console. The last
/// device, which is the entropy device, must work at its end.
fn all_survive(script: &mut Script) {
    script.prove_entropy(driver::device(COUNT - 1)).end();
    for hvc in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let ended = with_all_devices(folder.path(), script, hvc).run();
        if hvc {
            ended.has_status(0);
        } else {
            assert_eq!(ended.survived().out.split_at(1).0, [1]);
        }
    }
}

/// Values with each bit by itself, and those that many things go wrong with.
fn patterns(random: &mut Random) -> Vec<u64> {
    let mut patterns = vec![0, !0, 0x5555_5555_5555_5555, 0x8000_0000_0000_0000];
    patterns.extend((0..64).step_by(7).map(|bit| 1 << bit));
    patterns.extend((0..4).map(|_| random.next()));
    patterns
}

#[test]
fn every_register_takes_every_width_at_every_place() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = Script::new();
    let pages = (0..COUNT).map(driver::device).chain([BOOT_TIMER]);
    let attacks = pages.flat_map(|page| WIDTHS.map(|width| (page, width)));
    for (page, width) in random.some(attacks.collect()) {
        // All that there is in the first 512 bytes, aligned and not; the rest of the page here and there.
        script.read(width, page).along(512, 1);
        script.read(width, page + 512).along(4096 / 56, 49);
        script.write(width, page, 0).along(512, 1);
        script
            .write(width, page, random.next())
            .times_by(512, 1, random.next());
        script.write(width, page + 512, !0).along(4096 / 56, 49);
        // Past the page's end, half of it in the next one.
        script
            .write(width, page + 0xfff, !0)
            .read(width, page + 0xfff);
    }
    all_survive(&mut script);
}

#[test]
fn every_register_takes_every_pattern_at_every_status() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let patterns = patterns(&mut random);
    let mut script = Script::new();
    for device in (0..COUNT).map(driver::device) {
        for status in [0, 3, 11, 15] {
            for pattern in random.some(patterns.clone()) {
                script
                    .greet(device, VERSION_1)
                    .write32(device + STATUS, status);
                // Not Status itself, which would be the end of this.
                script
                    .write(Width::Four, device, pattern)
                    .along(0x70 / 4, 4);
                script
                    .write(Width::Four, device + 0x80, pattern)
                    .along(0x80 / 4, 4);
                script
                    .write(Width::Eight, device + CONFIG, pattern)
                    .along(16, 8);
            }
        }
    }
    all_survive(&mut script);
}

#[test]
fn status_goes_in_every_order() {
    if !kvm() {
        return;
    }
    let values = [0, 1, 2, 3, 7, 8, 11, 15, 0x4f, 0x80, !0];
    let mut random = Random::new();
    let mut script = Script::new();
    for device in (0..COUNT).map(driver::device) {
        for first in values {
            for second in random.some(values.to_vec()) {
                // A queue before, between and after; each is at its time somewhere.
                script.queue(device, 0, Ring::number(0));
                script.write32(device + STATUS, first);
                script.write32(device + DRIVER_FEATURES_SEL, 1);
                script.write32(device + DRIVER_FEATURES, second & 1);
                script.queue(device, 1, Ring::number(1));
                script.write32(device + STATUS, second);
                script.queue(device, 0, Ring::number(2));
                script
                    .notify(device, 0)
                    .write32(device + STATUS, first | second);
                script.notify(device, 1);
            }
        }
    }
    all_survive(&mut script);
}

#[test]
fn features_that_are_refused_do_not_start_a_device() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = Script::new();
    for device in (0..COUNT).map(driver::device) {
        let bits = (0..64).map(|bit| VERSION_1 | 1 << bit);
        for features in random.some(bits.chain([0, !0, INDIRECT, !VERSION_1]).collect()) {
            script.greet(device, features);
            // Past the 64 that there are, too.
            script
                .write32(device + DRIVER_FEATURES_SEL, 2)
                .write32(device + DRIVER_FEATURES, 1);
            script
                .queue(device, 0, Ring::number(0))
                .drive(device)
                .notify(device, 0);
        }
    }
    all_survive(&mut script);
}

#[test]
fn drivers_that_do_anything_at_any_time() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = Script::new();
    let places = [
        ARENA,
        ARENA + 0x1000,
        ARENA + 8,
        BUFFER,
        0,
        !0,
        VIRTIO,
        1 << 40,
    ];
    for _ in 0..6000 / ONE_OF {
        let device = driver::device(random.below(COUNT));
        let queue = random.of(&[0, 0, 1, 2, 3, 7, 0xffff]);
        match random.below(12) {
            0 => script.greet(device, VERSION_1 | random.of(&[0, INDIRECT, EVENT_IDX])),
            1 => script.write32(device + STATUS, random.of(&[0, 1, 3, 11, 15, 15, 0x80])),
            2 => {
                let ring = Ring {
                    size: random.of(&[0, 1, 2, 8, 256, 7, 32768, 65535, 65536]),
                    descriptors: random.of(&places),
                    available: random.of(&places),
                    used: random.of(&places),
                };
                script.queue(device, queue, ring)
            }
            3 => script.queue(device, queue, Ring::number(random.below(4))),
            4..6 => script.drive(device),
            6..8 => script.notify(device, queue),
            8 => {
                let at = device + CONFIG + random.below(64);
                script.write(random.of(&WIDTHS), at, random.next())
            }
            9 => script.write32(device + INTERRUPT_ACK, random.next() as u32),
            // Rings and buffers come to hold anything.
            10 => script.write64(ARENA + random.below(0x2000) * 8, random.next()),
            _ => script.bring_up(device, VERSION_1, 1 + random.below(3)),
        };
    }
    all_survive(&mut script);
}

#[test]
fn a_reset_in_the_middle_of_requests_ends_them_all() {
    if !kvm() {
        return;
    }
    const READS: u16 = 8;
    let ring = Ring::number(0);
    let mut script = Script::new();
    // Reads of a whole 64 KiB each, in the first drive; and the same of the entropy device.
    for (device, queues) in [(driver::device(0), 4), (driver::device(COUNT - 1), 1)] {
        for _ in 0..60 / ONE_OF {
            script.bring_up(device, VERSION_1, queues);
            for head in 0..2 {
                script.descriptor(
                    ring.descriptors,
                    3 * head,
                    (BUFFER, 16, NEXT, 3 * head as u16 + 1),
                );
                script.descriptor(
                    ring.descriptors,
                    3 * head + 1,
                    (BUFFER + 0x1000, 1 << 16, NEXT | WRITE, 3 * head as u16 + 2),
                );
                script.descriptor(
                    ring.descriptors,
                    3 * head + 2,
                    (BUFFER + 0x800, 1, WRITE, 0),
                );
            }
            script.write64(BUFFER, 0).write64(BUFFER + 8, 0);
            script
                .offer(ring, &[0, 3, 0, 3, 0, 3, 0, 3], READS)
                .notify(device, 0);
            script.write32(device + STATUS, 0);
            // What a device still writes now, it writes to memory that is the guest's again.
            script
                .write64(ring.used, 0)
                .write64(BUFFER + 0x1000, 0x2e2e_2e2e_2e2e_2e2e);
        }
        script
            .spin(20_000)
            .show(ring.used + 2)
            .show(BUFFER + 0x1000);
    }
    script.end();
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), &script, false).run();
    assert_eq!(
        String::from_utf8_lossy(&ended.survived().out),
        "\0.\0.alive"
    );
}
