//! What the user says of a drive: what a flush does, queues, limits; and what it counts.

use super::*;
use crate::config::{Cache, Queues, Rate, RateLimit};
use crate::metrics::Registry;
use std::time::{Duration, Instant};

/// Has a system call fail with EIO, in this thread and those that it starts from here on.
fn break_call(number: libc::c_long) {
    fail_call(number, libc::EIO);
}

pub(super) fn fail_call(number: libc::c_long, error: i32) {
    let op = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = [
        op(load, 0, 0, 0), // seccomp_data.nr
        op(equal, 0, 1, number as u32),
        op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: takes no pointer.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    // SAFETY: the program and its filter live through the call. Only this thread and its children
    // have it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn cache_modes_flush_as_they_say(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    // A flush that reaches the host fails.
    break_call(libc::SYS_fdatasync);
    for (cache, status) in [(Cache::Writeback, IOERR), (Cache::Unsafe, OK)] {
        let config = BlkConfig {
            cache,
            ..config(&path, engine)
        };
        if engine == Engine::IoUring && cache == Cache::Writeback {
            continue; // io_uring has no system call to break
        }
        let mut drive = Drive::new(&config, FLUSH);
        assert_eq!(drive.write(3, &[7; 512]), OK);
        assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, status);
        assert_eq!(drive.read(3, 512), (OK, vec![7; 512]));
    }
}

#[test]
fn a_write_cache_that_is_off_makes_each_write_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    // A durable write fails.
    break_call(libc::SYS_pwritev2);
    let wce = 1 << VIRTIO_BLK_F_CONFIG_WCE;
    let mut drive = Drive::new(&config(&path, Engine::Threads), FLUSH | wce);
    assert_eq!(drive.guest.config(32), [1]);
    assert_eq!(drive.write(0, &[1; 512]), OK);
    let writeback = |drive: &mut Drive, value: &[u8]| {
        use crate::bus::BusDevice;
        drive.guest.transport.write(0x100 + 32, value);
        drive.guest.config::<1>(32)[0]
    };
    assert_eq!(writeback(&mut drive, &[0]), 0);
    assert_eq!(drive.write(0, &[2; 512]), IOERR);
    // Not a byte, or not a truth value.
    for nonsense in [&[1, 1][..], &[2], &[1, 0, 0, 0], &[]] {
        assert_eq!(writeback(&mut drive, nonsense), 0);
    }
    assert_eq!(writeback(&mut drive, &[1]), 1);
    assert_eq!(drive.write(0, &[3; 512]), OK);
    // A driver that can't flush; and as it was after a reset.
    drive.queue = drive.guest.start(wce).remove(0);
    assert_eq!(drive.write(0, &[4; 512]), IOERR);
    drive.queue = drive.guest.start(FLUSH | wce).remove(0);
    assert_eq!(drive.guest.config(32), [1]);
    assert_eq!(drive.write(0, &[5; 512]), OK);
}

fn every_queue_serves(engine: Engine) {
    const MQ: u64 = 1 << VIRTIO_BLK_F_MQ;
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    let config = BlkConfig {
        queues: Queues(3),
        ..config(&path, engine)
    };
    let device = BlkDevice::open(&config).unwrap();
    let (mut guest, queues) = FakeGuest::running(device, FLUSH | MQ | EVENT_IDX);
    assert_eq!(guest.config(34), 3u16.to_le_bytes());
    assert_eq!(queues.len(), 3);
    let header = guest.alloc(16);
    let data = guest.alloc(0x1000);
    for (number, mut queue) in (0u8..).zip(queues) {
        let request = [u64::from(VIRTIO_BLK_T_IN), number.into()].map(u64::to_le_bytes);
        guest.store(header, &request.concat());
        let chain = [Read(header, 16), Write(data, 513)];
        assert_eq!(guest.transact(&mut queue, &chain), 513);
        assert_eq!(guest.load(data, 512), [number; 512]);
    }
    // One queue of three is set up, and it isn't the first.
    guest.negotiate(FLUSH | MQ);
    let mut queue = guest.queue(1, 16, false);
    guest.set_up(&queue);
    guest.set(0x70, DRIVER_OK);
    assert_eq!(
        guest.transact(&mut queue, &[Read(header, 16), Write(data, 513)]),
        513
    );
}

fn limited(path: &Path, engine: Engine, ops: Option<Rate>, bytes: Option<Rate>) -> Drive {
    let config = BlkConfig {
        limit: RateLimit { ops, bytes },
        ..config(path, engine)
    };
    Drive::new(&config, FLUSH | EVENT_IDX)
}

fn a_limit_is_kept(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let start = Instant::now();
    let mut drive = limited(&path, engine, rate(100, 2), None);
    for _ in 0..12 {
        assert_eq!(drive.read(5, 512), (OK, vec![5; 512]));
    }
    let time = start.elapsed();
    assert!(time >= Duration::from_millis(100), "{time:?}");
    drop(drive);

    let start = Instant::now();
    let mut drive = limited(&path, engine, None, rate(100 << 10, 4 << 10));
    // Several at once: 8 of 2 KiB; and what moves no data is free.
    let status = drive.guest.alloc(8);
    drive.set_header(VIRTIO_BLK_T_OUT, 8);
    let heads: Vec<_> = (0..8)
        .map(|i| {
            let chain = [
                Read(drive.header, 16),
                Read(drive.data, 2048),
                Write(status + i, 1),
            ];
            drive.queue.add(&chain)
        })
        .collect();
    drive.guest.kick(&mut drive.queue, &heads);
    for _ in heads {
        assert_eq!(drive.guest.wait_used(&mut drive.queue).1, 1);
    }
    let time = start.elapsed();
    assert!(time >= Duration::from_millis(120), "{time:?}");
    assert_eq!(drive.guest.load(status, 8), [OK; 8]);
    let none = drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]);
    assert_eq!(none, (OK, 1));
}

fn reset_does_not_wait_for_a_limit(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    let rate = Some(Rate {
        per_second: 1,
        burst: 1,
    });
    let start = Instant::now();
    let mut drive = limited(&path, engine, None, rate);
    // The first may pass; those after it wait for minutes.
    drive.set_header(VIRTIO_BLK_T_OUT, 0);
    let chain = [
        Read(drive.header, 16),
        Read(drive.data, 512),
        Write(drive.status, 1),
    ];
    let heads: Vec<_> = (0..9).map(|_| drive.queue.add(&chain)).collect();
    drive.guest.kick(&mut drive.queue, &heads);
    assert_eq!(drive.guest.wait_used(&mut drive.queue).1, 1);
    drive.guest.set(0x70, 0);
    assert_eq!(drive.guest.status(), 0);
    assert_eq!(drive.queue.take_used(), None);
    // The limit outlives the reset, and so does its effect.
    drive.queue = drive.guest.start(FLUSH).remove(0);
    drive.set_header(VIRTIO_BLK_T_OUT, 0);
    let head = drive.queue.add(&chain);
    drive.guest.kick(&mut drive.queue, &[head]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(drive.queue.take_used(), None);
    drop(drive);
    // Each of them would have waited for 512 s.
    assert!(start.elapsed() < Duration::from_secs(400));
}

fn requests_are_counted(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    let device = BlkDevice::open(&config(&path, engine)).unwrap();
    let mut registry = Registry::new();
    registry.add(device.metrics().unwrap());
    let (guest, queues) = FakeGuest::running(device, FLUSH);
    let mut drive = Drive::of(guest, queues);
    assert_eq!(drive.read(0, 1024).0, OK);
    assert_eq!(drive.read(64, 512).0, IOERR);
    assert_eq!(drive.write(0, &[1; 512]), OK);
    assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
    assert_eq!(drive.ranges(VIRTIO_BLK_T_DISCARD, &[(8, 8, 0)]), OK);
    assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(8, 2, 0)]), OK);
    let text = registry.render();
    for line in [
        "mote_blk_requests_total{device=\"vda\",op=\"read\"} 2",
        "mote_blk_errors_total{device=\"vda\",op=\"read\"} 1",
        "mote_blk_bytes_total{device=\"vda\",op=\"read\"} 1024",
        "mote_blk_bytes_total{device=\"vda\",op=\"write\"} 512",
        "mote_blk_requests_total{device=\"vda\",op=\"flush\"} 1",
        "mote_blk_bytes_total{device=\"vda\",op=\"discard\"} 4096",
        "mote_blk_bytes_total{device=\"vda\",op=\"write_zeroes\"} 1024",
        "mote_blk_request_seconds_count{device=\"vda\",op=\"write\"} 1",
        "mote_blk_throttled_total{device=\"vda\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
}

/// The io_urings that this process has.
fn rings() -> usize {
    let names = std::fs::read_dir("/proc/self/fd").unwrap();
    names
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter(|name| name.as_os_str() == "anon_inode:[io_uring]")
        .count()
}

#[test]
fn an_io_uring_is_made_where_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let mut drive = Drive::new(&config(&image(dir.path(), 64), Engine::IoUring), FLUSH);
    assert_eq!(drive.read(5, 512), (OK, vec![5; 512]));
    if rings() == 0 {
        not_run("io_uring", "this host forbids io_uring");
    }
}

/// In a process of its own, as the other tests here have rings.
#[test]
fn without_an_io_uring_threads_serve() {
    const NAME: &str = "devices::virtio::blk::tests::options::without_an_io_uring_threads_serve";
    const INNER: &str = "MOTE_TEST_INNER";
    if std::env::var_os(INNER).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--test-threads=1"])
            .env(INNER, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    fail_call(libc::SYS_io_uring_setup, libc::EPERM);
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    let mut drive = Drive::new(&config(&path, Engine::IoUring), FLUSH | EVENT_IDX);
    for round in 0..3 {
        assert_eq!(drive.read(5, 512), (OK, vec![5; 512]));
        assert_eq!(drive.write(7, &[round; 4096]), OK);
        assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(rings(), 0);
        drive.queue = drive.guest.start(FLUSH | EVENT_IDX).remove(0);
    }
}

on_both_engines! {
    cache_modes_flush_as_they_say
    every_queue_serves
    a_limit_is_kept
    reset_does_not_wait_for_a_limit
    requests_are_counted
}
