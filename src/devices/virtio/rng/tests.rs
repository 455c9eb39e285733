use super::*;
use crate::devices::virtio::testing::{Buffer::*, *};

#[test]
fn gives_random_bytes() {
    let (mut guest, mut queues) = FakeGuest::running(RngDevice::new(), EVENT_IDX);
    let queue = &mut queues[0];
    let page = guest.alloc(0x1000);
    assert_eq!(guest.get(8), 4);
    assert_eq!(guest.transact(queue, &[Write(page, 64)]), 64);
    let first = guest.load(page, 65);
    assert!(first[..64].iter().any(|b| *b != 0) && first[64] == 0);
    // Cut into pieces, some of them empty.
    let pieces = [
        Write(page, 0),
        Write(page, 32),
        Write(page + 32, 0),
        Write(page + 32, 32),
    ];
    assert_eq!(guest.transact(queue, &pieces), 64);
    assert_ne!(guest.load(page, 64), first[..64]);
}

#[test]
fn a_request_has_an_upper_limit() {
    let (mut guest, mut queues) = FakeGuest::running(RngDevice::new(), 0);
    let len = guest.transact(&mut queues[0], &[Write(BORDER - 16, 1 << 20)]);
    assert_eq!(len as usize, MAX_BYTES);
    assert!(
        guest
            .load(BORDER - 16 + MAX_BYTES as u64, 4096)
            .iter()
            .all(|b| *b == 0)
    );
}

#[test]
fn nothing_to_write_is_answered_with_nothing() {
    let (mut guest, mut queues) = FakeGuest::running(RngDevice::new(), 0);
    let page = guest.alloc(16);
    assert_eq!(guest.transact(&mut queues[0], &[Read(page, 16)]), 0);
    assert_eq!(guest.transact(&mut queues[0], &[Write(page, 0)]), 0);
}

#[test]
fn an_address_nowhere_fails_the_device() {
    let (mut guest, mut queues) = FakeGuest::running(RngDevice::new(), 0);
    let head = queues[0].add(&[Write(NOWHERE, 16)]);
    guest.kick(&mut queues[0], &[head]);
    guest.expect_failure();
}
