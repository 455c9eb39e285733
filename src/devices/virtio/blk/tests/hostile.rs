//! Requests and register writes that no good driver makes.

use super::*;
use crate::bus::BusDevice;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

fn requests_that_make_no_sense_are_errors_for_the_guest_alone(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 16);
    let before = std::fs::read(&path).unwrap();
    let mut drive = Drive::new(&config(&path, engine), FLUSH);
    let data = drive.data;
    for (kind, sector, len) in [
        (VIRTIO_BLK_T_IN, 16, 512),
        (VIRTIO_BLK_T_IN, 15, 1024),
        (VIRTIO_BLK_T_IN, u64::MAX, 512),
        (VIRTIO_BLK_T_IN, 1 << 55, 512),
        (VIRTIO_BLK_T_IN, (1 << 55) - 1, 512),
        (VIRTIO_BLK_T_IN, 0, 511),
        (VIRTIO_BLK_T_IN, 0, 1),
        (VIRTIO_BLK_T_OUT, 16, 512),
        (VIRTIO_BLK_T_OUT, u64::MAX / 512, 512),
        (VIRTIO_BLK_T_OUT, 0, 513),
    ] {
        let (buffer, expected) = match kind {
            VIRTIO_BLK_T_IN => (Write(data, len), 0),
            _ => (Read(data, len), 1),
        };
        let result = drive.request(kind, sector, &[buffer]);
        assert_eq!(result, (IOERR, expected), "{kind} {sector} {len}");
    }
    // Half a header, but there's a place to say so.
    let chain = [Read(drive.header, 15), Write(drive.status, 1)];
    drive.guest.transact(&mut drive.queue, &chain);
    assert_eq!(drive.guest.load(drive.status, 1), [IOERR]);
    let chain = [Write(drive.status, 1)];
    assert_eq!(drive.guest.transact(&mut drive.queue, &chain), 1);
    assert_eq!(drive.read(15, 512), (OK, vec![15; 512]));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

fn chains_that_can_not_be_answered_stop_the_device(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 16);
    let mut drive = Drive::new(&config(&path, engine), FLUSH | EVENT_IDX);
    let (header, data, table) = (drive.header, drive.data, drive.guest.alloc(0x1000));
    type Prepare<'a> = &'a dyn Fn(&mut DriverQueue) -> u16;
    let cases: [(&str, Prepare); 9] = [
        ("no status", &|q| q.add(&[Read(header, 16)])),
        ("a status of zero bytes", &|q| {
            q.add(&[Read(header, 16), Write(data, 0)])
        }),
        ("status nowhere", &|q| {
            q.add(&[Read(header, 16), Write(NOWHERE, 1)])
        }),
        ("data nowhere", &|q| {
            q.add(&[Read(header, 16), Write(NOWHERE, 512), Write(data, 1)])
        }),
        ("data that wraps", &|q| {
            q.add(&[Read(header, 16), Write(u64::MAX, 512), Write(data, 1)])
        }),
        ("status before header", &|q| {
            q.add(&[Write(data, 1), Read(header, 16)])
        }),
        ("a loop", &|q| {
            q.set_descriptor(0, header, 16, NEXT, 1);
            q.set_descriptor(1, data, 512, NEXT | WRITE, 1);
            0
        }),
        ("indirect in indirect", &|q| {
            q.set_descriptor(0, table, 32, INDIRECT, 0);
            q.write_descriptor(table, 0, header, 16, NEXT, 1);
            q.write_descriptor(table, 1, table, 32, INDIRECT, 0);
            0
        }),
        ("a head beyond the queue", &|_| 256),
    ];
    for (what, prepare) in cases {
        drive.queue = drive.guest.start(FLUSH | EVENT_IDX).remove(0);
        drive.set_header(VIRTIO_BLK_T_IN, 0);
        let head = prepare(&mut drive.queue);
        drive.guest.kick(&mut drive.queue, &[head]);
        println!("{what}");
        drive.guest.expect_failure();
        assert_eq!(drive.queue.take_used(), None, "{what}");
    }
    // An available index that's further ahead than the queue is long.
    drive.queue = drive.guest.start(FLUSH).remove(0);
    drive.queue.set_available_index(300);
    drive.guest.notify(&drive.queue);
    drive.guest.expect_failure();
    // After a reset it's as good as new.
    drive.queue = drive.guest.start(FLUSH).remove(0);
    assert_eq!(drive.read(3, 512), (OK, vec![3; 512]));
}

fn reset_in_mid_request_leaves_nothing_running(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let mut drive = Drive::new(&config(&path, engine), FLUSH | EVENT_IDX);
    for round in 0..20 {
        drive.set_header(VIRTIO_BLK_T_IN, 0);
        // Large ones, so that some are under way.
        let chain = [
            Read(drive.header, 16),
            Write(BORDER, 16 << 20),
            Write(drive.status, 1),
        ];
        let heads: Vec<_> = (0..16).map(|_| drive.queue.add(&chain)).collect();
        drive.guest.kick(&mut drive.queue, &heads);
        std::thread::sleep(std::time::Duration::from_millis(round % 4));
        drive.guest.set(0x70, 0);
        assert_eq!(drive.guest.status(), 0);
        // From here on the memory is the guest's: nobody may write it.
        let pattern = vec![round as u8 + 1; 1 << 20];
        drive.guest.store(BORDER, &pattern);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(drive.guest.load(BORDER, 1 << 20), pattern);
        drive.queue = drive.guest.start(FLUSH | EVENT_IDX).remove(0);
    }
    assert_eq!(drive.read(0, 512), (OK, vec![0; 512]));
}

/// What a wild driver does.
#[derive(Clone, Debug)]
enum Step {
    /// A write of any width to any place.
    Write(u64, Vec<u8>),
    Read(u64, usize),
    /// A 32-bit write to a register that matters.
    Register(u32, u32),
    /// Proper set-up, to get further in.
    Start(bool),
    /// Random bytes somewhere in the rings or the buffers.
    Scribble(u64, Vec<u8>),
    /// A descriptor that is nearly right.
    Descriptor(u16, u64, u32, u16, u16),
    /// A request that is right, or nearly so: kind, sector, length and address of the data.
    Request(u32, u64, u32, u64),
    /// Makes chains available, by any index.
    Publish(Vec<u16>),
    AvailableIndex(u16),
    /// Notifies, and gives the device time to take it up.
    Notify,
}

fn step() -> impl Strategy<Value = Step> {
    let width = prop_oneof![Just(1usize), Just(2), Just(4), Just(8), 0usize..20];
    let register = prop::sample::select(vec![
        0x14u32, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4,
    ]);
    let value = prop_oneof![
        0u32..20,
        Just(0x1000),
        Just(BORDER as u32),
        Just(DRIVER_OK),
        any::<u32>()
    ];
    let address = prop_oneof![
        4 => 0u64..0x20000,
        1 => BORDER - 64..BORDER + 64,
        1 => Just(NOWHERE),
        1 => any::<u64>()
    ];
    let len = prop_oneof![Just(1u32), Just(16), Just(512), 0u32..8192, any::<u32>()];
    let (any_len, any_address) = (len.clone(), address.clone());
    prop_oneof![
        1 => (0u64..0x300, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(at, data)| Step::Write(at, data)),
        1 => (0u64..0x300, width).prop_map(|(at, len)| Step::Read(at, len)),
        4 => (register, value).prop_map(|(at, value)| Step::Register(at, value)),
        3 => any::<bool>().prop_map(Step::Start),
        1 => (0x1000u64..0x8000, prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, data)| Step::Scribble(at, data)),
        3 => (0u16..8, address, len, 0u16..8, 0u16..9)
            .prop_map(|(at, a, l, f, n)| Step::Descriptor(at, a, l, f, n)),
        6 => (0u32..15, prop_oneof![4 => 0u64..70, 1 => any::<u64>()], any_len, any_address)
            .prop_map(|(kind, sector, len, at)| Step::Request(kind, sector, len, at)),
        2 => prop::collection::vec(0u16..8, 1..6).prop_map(Step::Publish),
        1 => any::<u16>().prop_map(Step::AvailableIndex),
        3 => Just(Step::Notify),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the guest does: no panic, no hang, no wait, and after a reset the drive works.
    #[test]
    fn a_wild_driver_hurts_nobody(
        steps in prop::collection::vec(step(), 1..80),
        engine in prop::sample::select(vec![Engine::Threads, Engine::IoUring]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path(), 64);
        let mut guest = FakeGuest::new(BlkDevice::open(&config(&path, engine)).unwrap());
        // Descriptors point near here; a header that reads, for luck.
        let space = guest.alloc(0x4000);
        let mut queue = guest.queue(0, 8, false);
        for step in steps {
            match step {
                Step::Write(at, data) => guest.transport.write(at, &data),
                Step::Read(at, len) => guest.transport.read(at, &mut vec![0; len]),
                Step::Register(at, value) => guest.set(at, value),
                Step::Start(event_idx) => {
                    let features = if event_idx { EVENT_IDX } else { 0 } | FLUSH;
                    guest.negotiate(features);
                    guest.store(queue.available, &[0; 6 + 2 * 8]);
                    guest.store(queue.used, &[0; 6 + 8 * 8]);
                    queue.set_available_index(0);
                    guest.set_up(&queue);
                    guest.set(0x70, DRIVER_OK);
                }
                Step::Scribble(at, data) => {
                    guest.memory.write_slice(&data, GuestAddress(at)).unwrap();
                }
                Step::Descriptor(at, address, len, flags, next) => {
                    queue.set_descriptor(at, space.wrapping_add(address), len, flags, next);
                }
                Step::Request(kind, sector, len, at) => {
                    let header: Vec<u8> = [u64::from(kind), sector].map(u64::to_le_bytes).concat();
                    guest.store(space, &header);
                    let data = match kind {
                        VIRTIO_BLK_T_IN | VIRTIO_BLK_T_GET_ID => Write(space.wrapping_add(at), len),
                        _ => Read(space.wrapping_add(at), len),
                    };
                    let head = queue.add(&[Read(space, 16), data, Write(space + 32, 1)]);
                    queue.publish(&[head]);
                }
                Step::Publish(heads) => {
                    queue.publish(&heads);
                }
                Step::AvailableIndex(index) => queue.set_available_index(index),
                Step::Notify => {
                    guest.notify(&queue);
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            }
        }
        let mut queue = guest.start(EVENT_IDX | FLUSH).remove(0);
        let page = guest.alloc(0x1000);
        let chain = [Read(page, 16), Write(page + 512, 512), Write(page + 16, 1)];
        prop_assert_eq!(guest.transact(&mut queue, &chain), 513);
        prop_assert_eq!(guest.load(page + 16, 1)[0], OK);
        prop_assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 * 512);
    }
}

on_both_engines! {
    requests_that_make_no_sense_are_errors_for_the_guest_alone
    chains_that_can_not_be_answered_stop_the_device
    reset_in_mid_request_leaves_nothing_running
}
