use super::*;
use crate::devices::virtio::queue::{QueueRegisters, pop};
use crate::devices::virtio::rng::RngDevice;
use crate::devices::virtio::testing::{Buffer::*, *};
use virtio_queue::Queue;

fn queue() -> (FakeGuest, DriverQueue, Queue) {
    let mut guest = FakeGuest::new(RngDevice::new());
    let driver = guest.queue(0, 16, false);
    let registers = QueueRegisters {
        descriptors: driver.descriptors,
        available: driver.available,
        used: driver.used,
        ..QueueRegisters::new(16)
    };
    let device = registers.build(&guest.memory, false).unwrap();
    (guest, driver, device)
}

/// Loads the chain that starts at `head`.
fn load(
    guest: &FakeGuest,
    driver: &mut DriverQueue,
    device: &mut Queue,
    head: u16,
) -> (Buffers, Result<(), ChainError>) {
    driver.publish(&[head]);
    let mut buffers = Buffers::new(&guest.memory);
    let (chain, more) = pop(device, &guest.memory).unwrap().unwrap();
    assert!(!more);
    let result = buffers.load(chain);
    (buffers, result)
}

#[test]
fn streams_ignore_how_buffers_are_cut() {
    let (mut guest, mut driver, mut device) = queue();
    let input = guest.alloc_with(b"hello, world");
    let output = guest.alloc(0x100);
    let head = driver.add(&[
        Read(input, 1),
        Read(input + 1, 0),
        Read(input + 1, 6),
        Read(input + 7, 5),
        Write(output, 0),
        Write(output, 2),
        Write(output + 0x10, 3),
    ]);
    let (mut buffers, result) = load(&guest, &mut driver, &mut device, head);
    result.unwrap();
    assert_eq!((buffers.readable.len(), buffers.writable.len()), (12, 5));
    let mut data = [0; 5];
    assert_eq!(buffers.readable.read(&mut data), 5);
    assert_eq!(&data, b"hello");
    buffers.readable.advance(2);
    let mut data = [0; 9];
    assert_eq!(buffers.readable.read(&mut data), 5);
    assert_eq!(&data[..5], b"world");
    assert!(buffers.readable.is_empty() && buffers.readable.iovecs().is_empty());

    assert!(buffers.split_tail(4));
    assert!(!buffers.split_tail(2));
    assert_eq!(buffers.tail.write(b"bcde!"), 4);
    assert_eq!(buffers.writable.write(b"aX"), 1);
    assert_eq!(guest.load(output, 2), b"ab");
    assert_eq!(guest.load(output + 0x10, 4), b"cde\0");
}

#[test]
fn a_buffer_may_cross_from_region_to_region() {
    let (guest, mut driver, mut device) = queue();
    guest.store(BORDER - 2, b"abcd");
    let head = driver.add(&[Read(BORDER - 2, 4)]);
    let (mut buffers, result) = load(&guest, &mut driver, &mut device, head);
    result.unwrap();
    assert_eq!(buffers.readable.iovecs().len(), 2);
    let mut data = [0; 4];
    buffers.readable.read(&mut data);
    assert_eq!(&data, b"abcd");
}

#[test]
fn alignment_is_that_of_every_piece() {
    let (mut guest, mut driver, mut device) = queue();
    let page = guest.alloc(0x2000);
    let head = driver.add(&[Read(page, 512), Read(page + 0x1000, 1024)]);
    let (buffers, result) = load(&guest, &mut driver, &mut device, head);
    result.unwrap();
    assert!(buffers.readable.is_aligned(4096, 512));
    assert!(!buffers.readable.is_aligned(4096, 1024));
    let head = driver.add(&[Read(page, 512), Read(page + 8, 512)]);
    let (buffers, _) = load(&guest, &mut driver, &mut device, head);
    assert!(!buffers.readable.is_aligned(512, 512));
    assert!(buffers.readable.is_aligned(8, 512));
}

#[test]
fn indirect_tables_are_followed() {
    let (mut guest, mut driver, mut device) = queue();
    let data = guest.alloc_with(b"xyz");
    let table = guest.alloc(0x1000);
    let head = driver.add_indirect(table, &[Read(data, 1), Read(data + 1, 2), Write(data, 3)]);
    let (buffers, result) = load(&guest, &mut driver, &mut device, head);
    result.unwrap();
    assert_eq!((buffers.readable.len(), buffers.writable.len()), (3, 3));
}

#[test]
fn broken_chains_are_refused() {
    let (mut guest, mut driver, mut device) = queue();
    let page = guest.alloc(0x1000);
    let table = guest.alloc(0x20000);
    let mut check = |what: &str, head: u16, prepare: &dyn Fn(&DriverQueue)| {
        prepare(&driver);
        let (_, result) = load(&guest, &mut driver, &mut device, head);
        result.expect_err(what)
    };
    let broken = |error| matches!(error, ChainError::Broken { .. });
    assert!(broken(check("loop", 0, &|q| {
        q.set_descriptor(0, page, 8, NEXT, 1);
        q.set_descriptor(1, page, 8, NEXT, 0);
    })));
    assert!(broken(check("loop to itself", 0, &|q| q
        .set_descriptor(0, page, 8, NEXT, 0))));
    assert!(broken(check("next beyond the table", 0, &|q| q
        .set_descriptor(0, page, 8, NEXT, 16))));
    assert!(broken(check("head beyond the table", 16, &|_| ())));
    assert!(broken(check("head far beyond", 0xffff, &|_| ())));
    assert!(broken(check("indirect in indirect", 0, &|q| {
        q.set_descriptor(0, table, 32, INDIRECT, 0);
        q.write_descriptor(table, 0, page, 8, NEXT, 1);
        q.write_descriptor(table, 1, table, 32, INDIRECT, 0);
    })));
    assert!(broken(check("loop in an indirect table", 0, &|q| {
        q.set_descriptor(0, table, 32, INDIRECT, 0);
        q.write_descriptor(table, 0, page, 8, NEXT, 1);
        q.write_descriptor(table, 1, page, 8, NEXT, 0);
    })));
    for (what, address, len) in [
        ("indirect table of zero bytes", table, 0),
        ("indirect table of half a descriptor", table, 8),
        ("indirect table nowhere", NOWHERE, 32),
        ("indirect table at the end of addresses", u64::MAX - 15, 32),
        ("indirect table of 4 GiB", table, 0xffff_fff0),
    ] {
        // The last one has no end: its first descriptor chains to one nowhere in memory.
        let error = check(what, 0, &|q| {
            q.set_descriptor(0, address, len, INDIRECT, 0);
            q.write_descriptor(table, 0, page, 8, NEXT, 0xfff0);
        });
        assert!(broken(error), "{what}");
    }
    assert!(broken(check("4 GiB in total", 0, &|q| {
        q.set_descriptor(0, 0, 24 << 20, NEXT, 1);
        for i in 1..3 {
            q.set_descriptor(i, 0, 32 << 20, NEXT, i + 1);
        }
        q.set_descriptor(3, 0, u32::MAX, 0, 0);
    })));
    assert!(matches!(
        check("readable after writable", 0, &|q| {
            q.set_descriptor(0, page, 8, WRITE | NEXT, 1);
            q.set_descriptor(1, page, 8, 0, 0);
        }),
        ChainError::Order { head: 0 }
    ));
    for (address, len) in [
        (NOWHERE, 8),
        (NOWHERE - 4, 8),
        (u64::MAX - 3, 8),
        (REGIONS[2].0.0 + (1 << 20) - 4, 8),
        (0, u32::MAX),
    ] {
        let error = check("memory", 0, &|q| {
            q.set_descriptor(0, address, len, WRITE, 0)
        });
        assert!(
            matches!(error, ChainError::Memory { head: 0, .. }),
            "{error}"
        );
    }
    assert!(matches!(
        check("long chain", 0, &|q| {
            let count = MAX_CHAIN as u16 + 1;
            q.set_descriptor(0, table, 16 * u32::from(count), INDIRECT, 0);
            for i in 0..count {
                let next = if i + 1 < count { NEXT } else { 0 };
                q.write_descriptor(table, i, page, 1, next, i + 1);
            }
        }),
        ChainError::TooLong { head: 0 }
    ));
    // Nothing of this has spoilt the queue.
    let head = driver.add(&[Read(page, 8)]);
    load(&guest, &mut driver, &mut device, head).1.unwrap();
}

#[test]
fn an_available_index_too_far_ahead_is_refused() {
    let (guest, mut driver, mut device) = queue();
    driver.set_available_index(17);
    assert!(pop(&mut device, &guest.memory).is_err());
    driver.set_available_index(16);
    assert!(pop(&mut device, &guest.memory).unwrap().unwrap().1);
}

#[test]
fn a_part_is_lent_and_nothing_consumed() {
    let (mut guest, mut driver, mut device) = queue();
    let page = guest.alloc(0x100);
    let cut = [Read(page, 4), Read(page + 8, 0), Read(page + 16, 6)];
    let head = driver.add(&cut);
    let (mut buffers, result) = load(&guest, &mut driver, &mut device, head);
    result.unwrap();
    let bytes = &mut buffers.readable;
    let lengths = |pieces: &[libc::iovec]| pieces.iter().map(|p| p.iov_len).collect::<Vec<_>>();
    for (limit, expected) in [
        (0, vec![]),
        (1, vec![1]),
        (4, vec![4]),
        (5, vec![4, 1]),
        (10, vec![4, 6]),
        (11, vec![4, 6]),
        (usize::MAX, vec![4, 6]),
    ] {
        assert_eq!(bytes.lend(limit, lengths), expected, "{limit}");
        assert_eq!(lengths(bytes.iovecs()), [4, 6]);
    }
    bytes.advance(5);
    assert_eq!(bytes.lend(3, lengths), [3]);
    assert_eq!((bytes.len(), lengths(bytes.iovecs())), (5, vec![5]));
}
