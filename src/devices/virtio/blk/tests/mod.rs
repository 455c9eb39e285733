//! - here: a drive with a driver, and what each request does
//! - [`hostile`]: requests and register writes that no good driver makes
//! - [`host`]: what can go wrong on the host's side: full, shrunk, locked, O_DIRECT
//! - [`options`]: what the user says of a drive, and what it counts
//!
//! Nearly all of them are for any engine.

/// Makes two tests of each function, which takes the engine to try.
macro_rules! on_both_engines {
    ($($name:ident)*) => {
        mod threads {
            use crate::config::Engine;
            $(#[test] fn $name() { super::$name(Engine::Threads) })*
        }
        mod io_uring {
            use crate::config::Engine;
            $(#[test] fn $name() { super::$name(Engine::IoUring) })*
        }
    };
}

mod host;
mod hostile;
mod options;
mod pause;

use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::config::Engine;
use crate::devices::virtio::testing::{Buffer::*, *};
use virtio_bindings::virtio_blk::*;

const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// Said straight to the stream: the test harness would swallow what a passing test prints.
fn not_run(kind: &str, why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "NOT RUN (kind {kind}): {test}: {why}");
}

fn config(path: &Path, engine: Engine) -> BlkConfig {
    BlkConfig {
        id: Some("serial-1".into()),
        engine,
        ..BlkConfig::new("vda", path)
    }
}

/// An image with a different byte in each sector.
fn image(dir: &Path, sectors: usize) -> PathBuf {
    let path = dir.join("disk.img");
    let mut file = std::fs::File::create(&path).unwrap();
    for sector in 0..sectors {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    path
}

/// A guest with a drive.
struct Drive {
    guest: FakeGuest,
    queue: DriverQueue,
    header: u64,
    data: u64,
    status: u64,
}

impl Drive {
    fn new(config: &BlkConfig, features: u64) -> Self {
        let device = BlkDevice::open(config).unwrap();
        let (guest, queues) = FakeGuest::running(device, features);
        Self::of(guest, queues)
    }

    fn of(mut guest: FakeGuest, mut queues: Vec<DriverQueue>) -> Self {
        Self {
            queue: queues.remove(0),
            header: guest.alloc(64),
            data: guest.alloc(1 << 20),
            status: guest.alloc(64),
            guest,
        }
    }

    fn set_header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.guest.store(self.header, &header);
        self.guest.store(self.status, &[0xff]);
    }

    /// A request with `data` between header and status; the status and `len`.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.set_header(kind, sector);
        let mut chain = vec![Read(self.header, 16)];
        chain.extend(data);
        chain.push(Write(self.status, 1));
        let len = self.guest.transact(&mut self.queue, &chain);
        (self.guest.load(self.status, 1)[0], len)
    }

    fn read(&mut self, sector: u64, len: u32) -> (u8, Vec<u8>) {
        let (status, _) = self.request(VIRTIO_BLK_T_IN, sector, &[Write(self.data, len)]);
        (status, self.guest.load(self.data, len as usize))
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.guest.store(self.data, data);
        let buffer = Read(self.data, data.len() as u32);
        let (status, len) = self.request(VIRTIO_BLK_T_OUT, sector, &[buffer]);
        assert_eq!(len, 1);
        status
    }

    /// Discards or zeroes ranges of (sector, sectors, flags).
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut data = Vec::new();
        for (sector, sectors, flags) in ranges {
            data.extend(sector.to_le_bytes());
            data.extend(sectors.to_le_bytes());
            data.extend(flags.to_le_bytes());
        }
        self.guest.store(self.data, &data);
        self.request(kind, 0, &[Read(self.data, data.len() as u32)])
            .0
    }
}

#[test]
fn describes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 24);
    let mut drive = Drive::new(&config(&path, Engine::Threads), FLUSH | EVENT_IDX);
    assert_eq!(drive.guest.get(8), 2);
    let features = drive.guest.offered();
    for bit in [2, 6, 9, 13, 14, 28, 29, 32] {
        assert_ne!(features & (1 << bit), 0, "feature {bit}");
    }
    assert_eq!(features & (1 << VIRTIO_BLK_F_RO), 0);
    assert_eq!(u64::from_le_bytes(drive.guest.config(0)), 24);
    assert_eq!(u32::from_le_bytes(drive.guest.config(12)), 254);
    assert_eq!(u32::from_le_bytes(drive.guest.config(20)), 512);
    assert_eq!(drive.guest.config(56), [1, 0, 0, 0, 0, 0, 0, 0]);
    let (status, len) = drive.request(VIRTIO_BLK_T_GET_ID, 0, &[Write(drive.data, 20)]);
    assert_eq!((status, len), (OK, 21));
    let id = drive.guest.load(drive.data, 20);
    assert_eq!(id, b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    let data = drive.data;
    assert_eq!(
        drive.request(VIRTIO_BLK_T_GET_ID, 0, &[Write(data, 8)]),
        (OK, 9)
    );
    assert_eq!(
        drive.request(VIRTIO_BLK_T_GET_ID, 0, &[Write(data, 64)]),
        (OK, 20)
    );
    assert_eq!(drive.request(0x1234_5678, 0, &[]), (UNSUPP, 1));
    assert_eq!(drive.request(VIRTIO_BLK_T_SCSI_CMD, 0, &[]), (UNSUPP, 1));
}

fn what_is_written_is_read_back(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    for features in [0, EVENT_IDX, FLUSH, FLUSH | EVENT_IDX] {
        let mut drive = Drive::new(&config(&path, engine), features);
        assert_eq!(drive.read(5, 1024), (OK, [[5; 512], [6; 512]].concat()));
        let data: Vec<u8> = (0..2048u32)
            .map(|i| (i * 7 + features as u32) as u8)
            .collect();
        assert_eq!(drive.write(60, &data), OK);
        let mut on_host = vec![0; 2048];
        std::fs::File::open(&path)
            .unwrap()
            .read_exact_at(&mut on_host, 60 * 512)
            .unwrap();
        assert_eq!(on_host, data);
        assert_eq!(drive.read(60, 2048), (OK, data));
        assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(drive.read(0, 0).0, OK);
    }
}

fn buffers_may_be_cut_anywhere(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let mut drive = Drive::new(&config(&image(dir.path(), 64), engine), FLUSH);
    let (header, data, status) = (drive.header, drive.data, drive.status);
    // Header in three pieces, data in five, one of them empty and one across regions.
    drive.set_header(VIRTIO_BLK_T_IN, 3);
    let chain = [
        Read(header, 3),
        Read(header + 3, 1),
        Read(header + 4, 12),
        Write(data, 1),
        Write(data + 1, 0),
        Write(data + 1, 500),
        Write(BORDER - 100, 500),
        Write(data + 501, 23),
        Write(status, 1),
    ];
    assert_eq!(drive.guest.transact(&mut drive.queue, &chain), 1025);
    assert_eq!(drive.guest.load(status, 1), [OK]);
    assert_eq!(drive.guest.load(data, 501), [3; 501]);
    let middle = [[3; 11].as_slice(), &[4; 489]].concat();
    assert_eq!(drive.guest.load(BORDER - 100, 500), middle);
    assert_eq!(drive.guest.load(data + 501, 23), [4; 23]);
    // Header and data in one buffer; data and status in one buffer.
    drive.set_header(VIRTIO_BLK_T_OUT, 9);
    drive.guest.store(header + 16, &[0x77; 48]);
    drive.guest.store(data, &[0x77; 464]);
    let chain = [Read(header, 64), Read(data, 464), Write(status, 1)];
    assert_eq!(drive.guest.transact(&mut drive.queue, &chain), 1);
    drive.set_header(VIRTIO_BLK_T_IN, 9);
    let chain = [Read(header, 16), Write(data, 513)];
    assert_eq!(drive.guest.transact(&mut drive.queue, &chain), 513);
    assert_eq!(
        drive.guest.load(data, 513),
        [&[0x77; 512][..], &[OK]].concat()
    );
}

fn more_pieces_than_a_system_call_takes(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let mut drive = Drive::new(&config(&image(dir.path(), 64), engine), FLUSH);
    let table = drive.guest.alloc(16 * 1024);
    drive.set_header(VIRTIO_BLK_T_IN, 0);
    // 1,018 pieces of 8 bytes and some more, of which every fourth crosses a region's border
    // and so becomes two: more than IOV_MAX.
    let mut chain = vec![Read(drive.header, 16)];
    let mut len = 0;
    for i in 0..1018u64 {
        chain.push(if i % 4 == 0 {
            Write(BORDER - 4, 8)
        } else {
            Write(drive.data + 8 * i, 8)
        });
        len += 8;
    }
    chain.push(Write(drive.data + 0x10000, 8192 - len));
    chain.push(Write(drive.status, 1));
    let head = drive.queue.add_indirect(table, &chain);
    drive.guest.kick(&mut drive.queue, &[head]);
    assert_eq!(drive.guest.wait_used(&mut drive.queue).1, 8193);
    assert_eq!(drive.guest.load(drive.status, 1), [OK]);
    assert_eq!(drive.guest.load(drive.data + 8 * 1017, 8), [15; 8]);
    assert_eq!(drive.guest.load(drive.data + 0x10000, 48), [15; 48]);
}

fn many_requests_at_once_keep_their_data(engine: Engine) {
    const SLOTS: usize = 32;
    const EACH: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let mut drive = Drive::new(&config(&path, engine), FLUSH | EVENT_IDX);
    let memory = drive.guest.alloc(SLOTS * 0x2000);
    // Each slot writes and then reads back regions of its own, all slots at the same time.
    let fill = |slot: usize, round: usize| (slot * 31 + round * 7 + 1) as u8;
    let mut most_threads = 0;
    let submit = |drive: &mut Drive, slot: usize, round: usize, reading: bool| {
        let (at, base) = ((slot * 3) as u16, memory + slot as u64 * 0x2000);
        let mut header = [0; 16];
        let kind = if reading {
            VIRTIO_BLK_T_IN
        } else {
            VIRTIO_BLK_T_OUT
        };
        header[..4].copy_from_slice(&kind.to_le_bytes());
        let sector = ((slot * EACH + round) * 8) as u64;
        header[8..].copy_from_slice(&sector.to_le_bytes());
        drive.guest.store(base, &header);
        drive.guest.store(base + 16, &[0xff]);
        let byte = if reading { 0 } else { fill(slot, round) };
        drive.guest.store(base + 0x1000, &[byte; 4096]);
        let direction = if reading { WRITE } else { 0 };
        drive.queue.set_descriptor(at, base, 16, NEXT, at + 1);
        drive
            .queue
            .set_descriptor(at + 1, base + 0x1000, 4096, NEXT | direction, at + 2);
        drive.queue.set_descriptor(at + 2, base + 16, 1, WRITE, 0);
        drive.guest.kick(&mut drive.queue, &[at]);
    };
    let mut progress = [(0, false); SLOTS];
    for slot in 0..SLOTS {
        submit(&mut drive, slot, 0, false);
    }
    let mut done = 0;
    while done < SLOTS * EACH {
        let (id, len) = drive.guest.wait_used(&mut drive.queue);
        let slot = id as usize / 3;
        let (round, reading) = progress[slot];
        let base = memory + slot as u64 * 0x2000;
        assert_eq!(drive.guest.load(base + 16, 1), [OK]);
        assert_eq!(len, if reading { 4097 } else { 1 });
        assert_eq!(
            drive.guest.load(base + 0x1000, 4096),
            [fill(slot, round); 4096]
        );
        progress[slot] = if reading {
            (round + 1, false)
        } else {
            (round, true)
        };
        if reading {
            done += 1;
        }
        if progress[slot].0 < EACH {
            submit(&mut drive, slot, progress[slot].0, progress[slot].1);
        }
        most_threads = most_threads.max(std::fs::read_dir("/proc/self/task").unwrap().count());
    }
    drop(drive);
    let on_host = std::fs::read(&path).unwrap();
    for (i, block) in on_host[..SLOTS * EACH * 4096].chunks(4096).enumerate() {
        assert_eq!(block, [fill(i / EACH, i % EACH); 4096], "block {i}");
    }
    println!("{most_threads} threads at most in the test's process");
}

fn discard_frees_blocks_and_zeroes_are_zeroes(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 512);
    let mut drive = Drive::new(&config(&path, engine), FLUSH);
    let blocks = || {
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        std::fs::metadata(&path).unwrap().blocks()
    };
    let before = blocks();
    assert_eq!(
        drive.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 64, 0), (128, 64, 0)]),
        OK
    );
    let freed = before - blocks();
    assert!(freed >= 128, "{freed} sectors freed");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 512 * 512);
    // A part of a block, without and with leave to free it, and nothing at all.
    let zeroes = [(200, 3, 0), (256, 64, 1), (0, 0, 0), (511, 1, 0)];
    assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &zeroes), OK);
    assert_eq!(
        drive.read(199, 512 * 5).1,
        [[199; 512], [0; 512], [0; 512], [0; 512], [203; 512]].concat()
    );
    assert_eq!(drive.read(256, 64 * 512).1, [0; 64 * 512]);
    assert_eq!(drive.read(510, 1024).1, [[254; 512], [0; 512]].concat());

    let max_ranges = [(0, 1, 0); MAX_RANGES as usize];
    assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &max_ranges), OK);
    for (what, kind, ranges, status) in [
        (
            "beyond the end",
            VIRTIO_BLK_T_DISCARD,
            vec![(511, 2, 0)],
            IOERR,
        ),
        (
            "overflow",
            VIRTIO_BLK_T_DISCARD,
            vec![(u64::MAX, 2, 0)],
            IOERR,
        ),
        (
            "overflow",
            VIRTIO_BLK_T_WRITE_ZEROES,
            vec![(1 << 55, 1, 0)],
            IOERR,
        ),
        (
            "too large",
            VIRTIO_BLK_T_DISCARD,
            vec![(0, u32::MAX, 0)],
            IOERR,
        ),
        ("no ranges", VIRTIO_BLK_T_DISCARD, vec![], IOERR),
        (
            "too many",
            VIRTIO_BLK_T_DISCARD,
            vec![(0, 1, 0); MAX_RANGES as usize + 1],
            IOERR,
        ),
        (
            "flag in a discard",
            VIRTIO_BLK_T_DISCARD,
            vec![(0, 1, 1)],
            UNSUPP,
        ),
        (
            "unknown flag",
            VIRTIO_BLK_T_WRITE_ZEROES,
            vec![(0, 1, 2)],
            UNSUPP,
        ),
        (
            "second is bad",
            VIRTIO_BLK_T_WRITE_ZEROES,
            vec![(0, 1, 0), (512, 1, 0)],
            IOERR,
        ),
    ] {
        assert_eq!(drive.ranges(kind, &ranges), status, "{what}");
    }
    let data = drive.data;
    assert_eq!(
        drive.request(VIRTIO_BLK_T_DISCARD, 0, &[Read(data, 15)]).0,
        IOERR
    );
}

fn a_read_only_drive_refuses_to_change(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 16);
    let config = BlkConfig {
        read_only: true,
        ..config(&path, engine)
    };
    let before = std::fs::read(&path).unwrap();
    let mut drive = Drive::new(&config, FLUSH);
    let features = drive.guest.offered();
    assert_ne!(features & (1 << VIRTIO_BLK_F_RO), 0);
    assert_eq!(
        features & (1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES),
        0
    );
    assert_eq!(drive.write(0, &[9; 512]), IOERR);
    assert_eq!(drive.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), IOERR);
    assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]), IOERR);
    assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert_eq!(drive.read(1, 512), (OK, vec![1; 512]));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

on_both_engines! {
    what_is_written_is_read_back
    buffers_may_be_cut_anywhere
    more_pieces_than_a_system_call_takes
    many_requests_at_once_keep_their_data
    discard_frees_blocks_and_zeroes_are_zeroes
    a_read_only_drive_refuses_to_change
}
