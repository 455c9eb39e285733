//! What can go wrong on the host's side: full, shrunk, locked, not an image, O_DIRECT.

use super::*;
use crate::config::Cache;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

fn message(config: &BlkConfig) -> String {
    match BlkDevice::open(config) {
        Ok(_) => panic!("{config:?} should be refused"),
        Err(error) => error.to_string(),
    }
}

/// Runs `test` in a folder that is a file system of its own, of the given type and options.
/// Where that's not allowed, says so loudly.
fn in_own_filesystem(kind: &str, options: &str, test: impl FnOnce(&Path) + Send + 'static) {
    mounted("none", kind, options, test);
}

/// The same, with a device.
fn mounted(source: &str, kind: &str, options: &str, test: impl FnOnce(&Path) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let c = |s: &[u8]| CString::new(s).unwrap();
    let target = dir.path().to_owned();
    let (kind, options) = (c(kind.as_bytes()), c(options.as_bytes()));
    let source = c(source.as_bytes());
    // A thread of its own: the mount exists in its namespace only.
    let thread = std::thread::spawn(move || {
        let check = |result| match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        let place = c(target.as_os_str().as_bytes());
        let (root, none) = (c"/".as_ptr(), c"none".as_ptr());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: changes this thread only, which ends after the test.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        // SAFETY: all strings have terminators, and live through the call.
        check(unsafe { libc::mount(none, root, none, private, none.cast()) })?;
        let options = options.as_ptr().cast();
        // SAFETY: as above.
        check(unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options) })?;
        test(&target);
        Ok::<_, std::io::Error>(())
    });
    if let Err(error) = thread.join().unwrap() {
        not_run(
            "root",
            &format!(
                "mounting a file system of its own: {error}; run the tests as root, and not in a chroot"
            ),
        );
    }
}

fn a_full_host_disk_is_an_error_for_the_guest(engine: Engine) {
    in_own_filesystem("tmpfs", "size=64k", move |dir| {
        let path = dir.join("disk.img");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let mut drive = Drive::new(&config(&path, engine), FLUSH);
        assert_eq!(drive.write(0, &[1; 4096]), OK);
        assert_eq!(drive.write(1024, &vec![2; 256 << 10]), IOERR);
        assert_eq!(drive.write(1024, &vec![2; 256 << 10]), IOERR);
        assert_eq!(drive.read(0, 4096), (OK, vec![1; 4096]));
        // With room again it goes on.
        assert_eq!(drive.ranges(VIRTIO_BLK_T_DISCARD, &[(1024, 1024, 0)]), OK);
        assert_eq!(drive.write(8, &[3; 4096]), OK);
        // No ZERO_RANGE on a tmpfs: zeros are written.
        assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 3, 0)]), OK);
        let expected = [&[0; 3 * 512][..], &[1; 5 * 512], &[3; 512]].concat();
        assert_eq!(drive.read(0, 9 * 512), (OK, expected));
    });
}

fn an_image_that_shrinks_gives_errors_not_zeros(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 64);
    let mut drive = Drive::new(&config(&path, engine), FLUSH);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(32 * 512 + 100)
        .unwrap();
    assert_eq!(drive.read(40, 512).0, IOERR);
    // Part of it is there: the data up to the end is told by `len`.
    let (data, result) = (drive.data, (IOERR, 1024 + 100));
    assert_eq!(
        drive.request(VIRTIO_BLK_T_IN, 30, &[Write(data, 2048)]),
        result
    );
    assert_eq!(drive.read(31, 512), (OK, vec![31; 512]));
    assert_eq!(drive.write(40, &[7; 512]), OK);
    assert_eq!(drive.read(40, 512), (OK, vec![7; 512]));
}

fn direct_io_takes_any_buffer(engine: Engine) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = image(dir.path(), 4096);
    let config = BlkConfig {
        cache: Cache::None,
        ..config(&path, engine)
    };
    let mut drive = Drive::new(&config, FLUSH);
    let block = u64::from(u32::from_le_bytes(drive.guest.config(20)));
    println!("block size with O_DIRECT: {block}");
    let sector = block / 512;
    let bytes = |first: u64, count: u64| -> Vec<u8> {
        (first..first + count)
            .flat_map(|s| [s as u8; 512])
            .collect()
    };
    for shift in [0, 1, 8, 100, 511] {
        let data = drive.data + shift;
        let buffers = [Write(data, 700), Write(data + 4000, block as u32 * 8 - 700)];
        let result = drive.request(VIRTIO_BLK_T_IN, sector, &buffers);
        assert_eq!(result, (OK, block as u32 * 8 + 1));
        let mut read = drive.guest.load(data, 700);
        read.extend(drive.guest.load(data + 4000, block as usize * 8 - 700));
        assert_eq!(read, bytes(sector, sector * 8));

        let written: Vec<u8> = (0..block * 4).map(|i| (i * 3 + shift) as u8).collect();
        drive.guest.store(data, &written);
        let result = drive.request(VIRTIO_BLK_T_OUT, 0, &[Read(data, block as u32 * 4)]);
        assert_eq!(result, (OK, 1));
        assert_eq!(std::fs::read(&path).unwrap()[..written.len()], written);
        assert_eq!(drive.write(0, &bytes(0, sector * 4)), OK);
    }
    // More than the bounce buffer holds.
    let (data, len) = (BORDER + 1, 2 << 20);
    let result = drive.request(VIRTIO_BLK_T_IN, 0, &[Write(data, len)]);
    assert_eq!(result, (OK, len + 1));
    assert_eq!(drive.guest.load(data, len as usize), bytes(0, 4096));
    assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]), OK);
    assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
}

#[test]
fn a_filesystem_without_direct_io_is_named() {
    in_own_filesystem("ramfs", "", |dir| {
        let path = image(dir, 16);
        let config = BlkConfig {
            cache: Cache::None,
            ..config(&path, Engine::Threads)
        };
        let message = message(&config);
        assert!(
            message.contains("O_DIRECT") && message.contains("cache=writeback"),
            "{message}"
        );
    });
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 16);
    let writer = config(&path, Engine::Threads);
    let reader = BlkConfig {
        read_only: true,
        ..writer.clone()
    };
    let first = BlkDevice::open(&writer).unwrap();
    for config in [&writer, &reader] {
        let message = message(config);
        assert!(message.contains("disk.img is in use"), "{message}");
    }
    drop(first);
    // A process that another test starts has the file, too, until its own program runs.
    let opened = |config: &BlkConfig| {
        let mut device = None;
        wait_until("the lock", || {
            device = BlkDevice::open(config).ok();
            device.is_some()
        });
        device
    };
    let readers = [&reader, &reader].map(opened);
    assert!(message(&writer).contains("disk.img is in use"));
    drop(readers);
    opened(&writer);
}

#[test]
fn what_is_not_an_image_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let check = |path: &Path, parts: &[&str]| {
        for read_only in [false, true] {
            let config = BlkConfig {
                read_only,
                ..config(path, Engine::Threads)
            };
            let message = message(&config);
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    };
    check(dir.path(), &["is a directory", "raw image file"]);
    check(&at("nothing"), &["nothing", "No such file"]);
    check(Path::new("/dev/null"), &["/dev/null is a character device"]);
    let fifo = CString::new(at("fifo").as_os_str().as_bytes()).unwrap();
    // SAFETY: the path has a terminator.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    check(&at("fifo"), &["fifo is a named pipe"]);
    File::create(at("empty")).unwrap();
    check(&at("empty"), &["is empty", "truncate -s"]);
    std::fs::write(at("odd"), [0; 1000]).unwrap();
    check(&at("odd"), &["1000 bytes", "truncate -s %512"]);
    std::fs::write(at("tiny"), [0; 3]).unwrap();
    check(&at("tiny"), &["3 bytes", "truncate -s %512"]);
    for (start, name) in [
        (&b"QFI\xfb"[..], "qcow2"),
        (b"KDMV", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"QED\0", "QED"),
        (b"conectix", "VHD"),
    ] {
        let mut bytes = start.to_vec();
        bytes.resize(512, 0);
        std::fs::write(at("image"), bytes).unwrap();
        check(&at("image"), &[name, "qemu-img convert -O raw"]);
    }
    let long_id = BlkConfig {
        id: Some("123456789012345678901".into()),
        ..config(&image(dir.path(), 1), Engine::Threads)
    };
    assert!(message(&long_id).contains("longer than 20 bytes"));
}

/// A loop device, taken away again at the end.
struct Loop(PathBuf);

impl Loop {
    fn new(image: &Path, sector: u32) -> Option<Self> {
        let output = std::process::Command::new("losetup")
            .args(["-f", "--show", "-b", &sector.to_string()])
            .arg(image)
            .output()
            .ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .arg("-d")
            .arg(&self.0)
            .status();
    }
}

fn a_file_has_sectors_of_512_bytes_on_any_storage(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("below.img");
    File::create(&below).unwrap().set_len(64 << 20).unwrap();
    let Some(device) = Loop::new(&below, 4096) else {
        not_run(
            "root",
            "a loop device needs root and losetup; run the tests as root",
        );
        return;
    };
    let made = std::process::Command::new("mke2fs")
        .args(["-q", "-b", "4096"])
        .arg(&device.0)
        .status();
    assert!(made.unwrap().success());
    let source = device.0.to_str().unwrap().to_owned();
    mounted(&source, "ext4", "", move |dir| {
        // Half a block at the end.
        let path = image(dir, 4096 + 4);
        let config = BlkConfig {
            cache: Cache::None,
            ..config(&path, engine)
        };
        let mut drive = Drive::new(&config, FLUSH);
        assert_eq!(u32::from_le_bytes(drive.guest.config(20)), 512);
        assert_eq!(drive.guest.config(24), [3], "8 sectors in a physical block");
        let mut expected = std::fs::read(&path).unwrap();
        for (round, (sector, sectors)) in (1u8..).zip([
            (8u64, 8usize),
            (3, 1),
            (5, 9),
            (16, 16),
            (4095, 2),
            (4099, 1),
        ]) {
            let (at, len) = (sector as usize * 512, sectors * 512);
            assert_eq!(drive.read(sector, len as u32).1, expected[at..at + len]);
            expected[at..at + len].fill(round);
            assert_eq!(drive.write(sector, &vec![round; len]), OK);
            // And the blocks around it, past the page cache.
            let first = sector & !7;
            let at = first as usize * 512;
            let len = (expected.len() - at).min(3 * 4096) & !4095;
            assert_eq!(drive.read(first, len as u32).1, expected[at..at + len]);
        }
        let zeroes = [(1, 3, 0), (100, 50, 1)];
        assert_eq!(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &zeroes), OK);
        expected[512..4 * 512].fill(0);
        expected[100 * 512..150 * 512].fill(0);
        assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
        drop(drive);
        assert!(std::fs::read(&path).unwrap() == expected);
    });
}

fn block_devices_are_drives_too(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 512);
    let Some(device) = Loop::new(&path, 512) else {
        not_run(
            "root",
            "a loop device needs root and losetup; run the tests as root",
        );
        return;
    };
    for cache in [Cache::Writeback, Cache::None] {
        let config = BlkConfig {
            cache,
            ..config(&device.0, engine)
        };
        let mut drive = Drive::new(&config, FLUSH);
        assert_eq!(u64::from_le_bytes(drive.guest.config(0)), 512);
        assert_eq!(drive.read(9, 512), (OK, vec![9; 512]));
        assert_eq!(drive.write(300, &[5; 4096]), OK);
        assert_eq!(drive.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(drive.read(300, 4096), (OK, vec![5; 4096]));
        assert_eq!(
            drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(304, 2, 0), (400, 8, 1)]),
            OK
        );
        assert_eq!(drive.read(303, 1024).1, [[5; 512], [0; 512]].concat());
        assert_eq!(drive.ranges(VIRTIO_BLK_T_DISCARD, &[(128, 64, 0)]), OK);
        assert_eq!(drive.read(512, 512).0, IOERR);
    }
    let blocks = std::fs::metadata(&path).unwrap().blocks();
    assert!(
        blocks <= 512 - 64,
        "discard did not reach the image: {blocks} sectors"
    );
}

on_both_engines! {
    a_full_host_disk_is_an_error_for_the_guest
    an_image_that_shrinks_gives_errors_not_zeros
    direct_io_takes_any_buffer
    block_devices_are_drives_too
    a_file_has_sectors_of_512_bytes_on_any_storage
}
