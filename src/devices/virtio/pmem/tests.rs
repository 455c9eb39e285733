use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::*;
use crate::bus::BusDevice;
use crate::config::DaxMode;
use crate::devices::virtio::testing::{Buffer::*, *};
use crate::metrics::Registry;

const START: u64 = 0x1_0000_0000;
const LEN: u64 = 4 << 20;

fn config(path: impl Into<PathBuf>, mode: DaxMode) -> PmemConfig {
    PmemConfig {
        name: "pmem0".to_owned(),
        path: path.into(),
        mode,
    }
}

fn image(mode: DaxMode) -> Arc<DaxFile> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8192).unwrap();
    Arc::new(DaxFile::new(config("image", mode), file, 8192))
}

/// A file that can't be flushed: the end of a pipe (fsync(2), EINVAL).
fn unflushable() -> Arc<DaxFile> {
    let (_, end) = std::io::pipe().unwrap();
    let file = File::from(OwnedFd::from(end));
    Arc::new(DaxFile::new(config("pipe", DaxMode::Shared), file, 8192))
}

fn running(file: &Arc<DaxFile>) -> (FakeGuest, DriverQueue) {
    let device = PmemDevice::new(file.clone(), START, LEN);
    let (guest, mut queues) = FakeGuest::running(device, EVENT_IDX);
    (guest, queues.remove(0))
}

/// A request of `kind`, and what is answered.
fn ask(guest: &mut FakeGuest, queue: &mut DriverQueue, kind: u32) -> u32 {
    let request = guest.alloc_with(&kind.to_le_bytes());
    let answer = guest.alloc_with(&[0xaa; 4]);
    assert_eq!(
        guest.transact(queue, &[Read(request, 4), Write(answer, 4)]),
        4
    );
    u32::from_le_bytes(guest.load(answer, 4).try_into().unwrap())
}

fn metric(file: &Arc<DaxFile>, name: &str) -> String {
    let mut registry = Registry::new();
    registry.add(file.clone());
    let text = registry.render();
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn the_guest_is_told_where_the_drive_is() {
    let (mut guest, _) = running(&image(DaxMode::Shared));
    assert_eq!(guest.get(8), 27);
    assert_eq!(guest.config::<8>(0), START.to_le_bytes());
    assert_eq!(guest.config::<8>(8), LEN.to_le_bytes());
    assert_eq!(guest.config::<8>(16), [0; 8]);
}

#[test]
fn a_flush_succeeds_in_every_mode() {
    for mode in [DaxMode::Shared, DaxMode::ReadOnly, DaxMode::Private] {
        let file = image(mode);
        let (mut guest, mut queue) = running(&file);
        for _ in 0..100 {
            assert_eq!(ask(&mut guest, &mut queue, FLUSH), DONE);
        }
        assert_eq!(metric(&file, "mote_pmem_flushes_total"), "100");
        assert_eq!(metric(&file, "mote_pmem_flush_errors_total"), "0");
        assert_eq!(metric(&file, "mote_pmem_flush_seconds_count"), "100");
    }
}

#[test]
fn a_flush_that_fails_on_the_host_fails_in_the_guest() {
    let file = unflushable();
    let (mut guest, mut queue) = running(&file);
    assert_eq!(ask(&mut guest, &mut queue, FLUSH), FAILED);
    assert_eq!(ask(&mut guest, &mut queue, FLUSH), FAILED);
    assert_eq!(metric(&file, "mote_pmem_flush_errors_total"), "2");
}

#[test]
fn a_write_that_nothing_takes_makes_the_next_flush_fail() {
    for (mode, read_only) in [(DaxMode::ReadOnly, 0..LEN), (DaxMode::Shared, 8192..LEN)] {
        let file = image(mode);
        let mut beyond = Beyond::new(file.clone(), read_only);
        let (mut guest, mut queue) = running(&file);
        beyond.write(8192, &[1; 8]);
        beyond.write(LEN - 1, &[1]);
        assert_eq!(ask(&mut guest, &mut queue, FLUSH), FAILED);
        assert_eq!(ask(&mut guest, &mut queue, FLUSH), DONE);
        assert_eq!(metric(&file, "mote_pmem_ignored_writes_total"), "2");
        let mut data = [0; 4];
        beyond.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}

#[test]
fn an_unknown_request_or_half_of_one_is_an_error() {
    let file = image(DaxMode::Shared);
    let (mut guest, mut queue) = running(&file);
    for kind in [1, 2, u32::MAX] {
        assert_eq!(ask(&mut guest, &mut queue, kind), FAILED);
    }
    let answer = guest.alloc_with(&[0xaa; 4]);
    for len in 0..4 {
        let request = guest.alloc(4);
        let buffers = [Read(request, len), Write(answer, 4)];
        assert_eq!(guest.transact(&mut queue, &buffers), 4);
        assert_eq!(guest.load(answer, 4), FAILED.to_le_bytes());
    }
    assert_eq!(guest.transact(&mut queue, &[Write(answer, 4)]), 4);
    assert_eq!(metric(&file, "mote_pmem_flushes_total"), "0");
}

#[test]
fn request_and_answer_may_be_cut_anywhere_and_be_too_long() {
    let (mut guest, mut queue) = running(&image(DaxMode::Shared));
    let (request, answer) = (guest.alloc(64), guest.alloc_with(&[0xaa; 64]));
    let mut buffers: Vec<_> = (0..8).map(|n| Read(request + n, 1)).collect();
    buffers.extend((0..8).map(|n| Write(answer + 2 * n, 1)));
    assert_eq!(guest.transact(&mut queue, &buffers), 4);
    let bytes = guest.load(answer, 16);
    assert_eq!(bytes[..8], [0, 0xaa, 0, 0xaa, 0, 0xaa, 0, 0xaa]);
    assert_eq!(bytes[8..], [0xaa; 8]);
}

#[test]
fn no_room_for_an_answer_fails_the_device_and_a_reset_mends_it() {
    let file = image(DaxMode::Shared);
    let (mut guest, mut queue) = running(&file);
    for len in 0..4 {
        let request = guest.alloc(4);
        let head = queue.add(&[Read(request, 4), Write(request, len)]);
        guest.kick(&mut queue, &[head]);
        guest.expect_failure();
        queue = guest.start(EVENT_IDX).remove(0);
    }
    let head = queue.add(&[Read(NOWHERE, 4), Write(NOWHERE, 4)]);
    guest.kick(&mut queue, &[head]);
    guest.expect_failure();
    queue = guest.start(0).remove(0);
    assert_eq!(ask(&mut guest, &mut queue, FLUSH), DONE);
}

#[test]
fn many_flushes_at_once_are_all_answered() {
    let (mut guest, mut queue) = running(&image(DaxMode::Shared));
    let (request, answers) = (guest.alloc(4), guest.alloc_with(&[0xaa; 128]));
    let heads: Vec<_> = (0..32)
        .map(|n| queue.add(&[Read(request, 4), Write(answers + 4 * n, 4)]))
        .collect();
    guest.kick(&mut queue, &heads);
    for _ in 0..32 {
        guest.wait_used(&mut queue);
    }
    assert_eq!(guest.load(answers, 128), [0; 128]);
}

#[test]
fn what_cannot_be_mapped_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let message = |path: PathBuf, mode| match PmemDevice::open(&config(path, mode)) {
        Ok(_) => panic!("should be refused"),
        Err(error) => error.to_string(),
    };
    let (shared, ro) = (DaxMode::Shared, DaxMode::ReadOnly);
    for (path, mode, words) in [
        (file("empty", b""), ro, ["empty", "truncate"]),
        (
            file("qcow2", b"QFI\xfb0000"),
            ro,
            ["qcow2", "qemu-img convert"],
        ),
        (
            file("odd", &[0; 5000]),
            shared,
            ["5000 bytes", "truncate -s %4096"],
        ),
        (folder.path().to_owned(), ro, ["a directory", "raw image"]),
        ("/dev/null".into(), ro, ["a character device", "raw image"]),
        ("/nonexistent".into(), ro, ["/nonexistent", "opening"]),
    ] {
        let message = message(path, mode);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    for mode in [ro, DaxMode::Private] {
        PmemDevice::open(&config(file("odd", &[0; 5000]), mode)).unwrap();
    }
    let path = file("locked", &[0; 4096]);
    let _first = PmemDevice::open(&config(&path, ro)).unwrap();
    let _second = PmemDevice::open(&config(&path, DaxMode::Private)).unwrap();
    assert!(message(path, shared).contains("in use"));
}

#[test]
fn a_file_that_has_shrunk_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, [0; 8192]).unwrap();
    let file = PmemDevice::open(&config(&path, DaxMode::ReadOnly)).unwrap();
    assert_eq!(file.trouble(), None);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1)
        .unwrap();
    let trouble = file.trouble().unwrap();
    assert!(
        trouble.contains("image has shrunk") && trouble.contains("8192 to 1"),
        "{trouble}"
    );
    let full = image(DaxMode::Shared).trouble().unwrap();
    assert!(
        full.contains("no room") && full.contains("fallocate -l 8192"),
        "{full}"
    );
}
