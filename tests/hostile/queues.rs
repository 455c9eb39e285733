//! Queues where there is no room for them, and indexes that lie.

use crate::devices::{COUNT, with_all_devices};
use crate::driver::{self, *};
use crate::kvm;
use crate::monitor::MEMORY_KIB;
use crate::native::{BOOT_TIMER, CONTROLLERS, DRIVES, GAP, KERNEL, RAM, VIRTIO};
use crate::random::Random;
use crate::script::Script;

pub const RAM_END: u64 = RAM + (MEMORY_KIB << 10);

/// Where a ring or a buffer shouldn't be; a driver's own code is spared, but not what is beside it.
pub fn bad_places() -> Vec<u64> {
    let mut places = vec![
        0,
        1,
        RAM,
        KERNEL - 0x1000,
        RAM_END - 1,
        RAM_END - 16,
        RAM_END - 64,
        RAM_END,
        RAM_END + 0x1000,
        GAP.start,
        GAP.end - 16,
        BOOT_TIMER,
        // Registers, which the guest may read as memory.
        VIRTIO,
        VIRTIO + 0x100,
        VIRTIO + (COUNT << 12),
        DRIVES,                  // writable
        DRIVES + (128 << 20),    // read-only
        DRIVES + (256 << 20),    // its own copy
        DRIVES + (2 << 20) - 16, // its end
        DRIVES + (3 << 20),
        1 << 40,
        1 << 52,
        1 << 63,
        !0,
        !0 - 15,
        !0 - 0xfff,
    ];
    places.extend(CONTROLLERS);
    // Not aligned.
    places.extend([ARENA + 1, ARENA + 2, ARENA + 4, ARENA + 8]);
    places
}

/// The number of queues to set up for every kind of device: those past its last are nobody's.
pub const QUEUES: u32 = 4;

#[test]
fn queues_lie_anywhere_and_have_any_size() {
    if !kvm() {
        return;
    }
    let good = Ring::number(0);
    let mut rings = Vec::new();
    for place in bad_places() {
        rings.push(Ring {
            descriptors: place,
            ..good
        });
        rings.push(Ring {
            available: place,
            ..good
        });
        rings.push(Ring {
            used: place,
            ..good
        });
        rings.push(Ring {
            descriptors: place,
            available: place,
            used: place,
            ..good
        });
    }
    for size in [
        0,
        1,
        2,
        3,
        7,
        255,
        256,
        257,
        1024,
        32768,
        65535,
        65536,
        1 << 31,
        !0,
    ] {
        rings.push(Ring { size, ..good });
    }
    // Over each other, wholly and by a little.
    rings.push(Ring {
        available: good.descriptors,
        ..good
    });
    rings.push(Ring {
        used: good.available,
        ..good
    });
    rings.push(Ring {
        used: good.available + 4,
        ..good
    });
    rings.push(Ring {
        used: good.descriptors + 64,
        available: good.descriptors + 64,
        ..good
    });
    let mut script = Script::new();
    for ring in Random::new().some(rings) {
        // One chain for whoever looks; the read-only places say otherwise.
        script.write64(good.available, 0).write64(good.used, 0);
        script.descriptor(good.descriptors, 0, (BUFFER, 64, WRITE, 0));
        script.offer(good, &[0], 1);
        for device in (0..COUNT).map(driver::device) {
            script.greet(device, VERSION_1);
            for queue in 0..QUEUES {
                script.queue(device, queue, ring);
            }
            script.drive(device);
            for queue in 0..QUEUES {
                script.notify(device, queue);
            }
        }
    }
    script.prove_entropy(driver::device(COUNT - 1)).end();
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), &script, false).run();
    // Used rings went over the guest's memory wherever it was allowed, but it still works.
    assert_eq!(ended.survived().out[0], 1);
}

#[test]
fn indexes_jump_and_events_lie() {
    if !kvm() {
        return;
    }
    let ring = Ring::number(0);
    let mut random = Random::new();
    let mut script = Script::new();
    for (device, features) in (0..COUNT)
        .map(driver::device)
        .flat_map(|d| [(d, VERSION_1), (d, VERSION_1 | EVENT_IDX)])
    {
        for index in random.some(vec![1, 2, 8, 9, 255, 32767, 32768, 65534, 65535]) {
            script.bring_up(device, features, 1);
            script.descriptor(ring.descriptors, 0, (BUFFER, 8, WRITE, 0));
            // Heads past the table, and the same one again and again.
            script.offer(ring, &[0, 0, 8, 65535, 0, 7, 0, 0], index);
            // used_event, after the ring's entries; avail_event, and the used index itself.
            script.write16(ring.available + 4 + 16, index.wrapping_sub(1));
            script.write16(ring.used + 4 + 64, index);
            script.notify(device, 0).wait_a_little(ring.used + 2, index);
            script.write16(ring.used + 2, index.wrapping_add(7));
            script.write16(ring.available, 0xffff);
            script.write16(ring.available + 2, index.wrapping_add(65535));
            script.notify(device, 0);
        }
    }
    script.prove_entropy(driver::device(COUNT - 1)).end();
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), &script, false).run();
    assert_eq!(ended.survived().out[0], 1);
}
