//! Drives: what the guest writes is on the host, what it may not write is not.

use super::*;

#[test]
fn what_the_guest_writes_is_on_the_hosts_image() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "data.img", 64 << 20);
    assert!(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4"])
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
    let drive = format!("path={},id=DATA-1", path(&disk));
    let out = in_guest(
        &["--disk", &drive],
        "cat /sys/block/vdb/serial; echo; mkdir -p /tmp/m; mount /dev/vdb /tmp/m; \
         dd if=/dev/urandom of=/tmp/m/f bs=64k count=160 2>/dev/null; \
         md5sum < /tmp/m/f; umount /tmp/m",
    );
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("DATA-1"), "{out}");
    let expected = lines.next().unwrap();
    let copy = folder.path().join("copy");
    let dump = format!("dump /f {}", path(&copy));
    assert!(
        Command::new("debugfs")
            .args(["-R", &dump])
            .arg(&disk)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(fs::metadata(&copy).unwrap().len(), 160 << 16);
    let sum = Command::new("md5sum")
        .stdin(File::open(&copy).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&sum.stdout).trim(), expected);
    let check = Command::new("e2fsck")
        .args(["-fn"])
        .arg(&disk)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// Whether the drive's engine was the one that was asked for; said aloud if not.
fn rings(engine: &str, ended: &Ended) -> bool {
    let refused = ended.err.lines().find(|line| line.contains("io_uring is"));
    let refused = refused.filter(|_| engine == "io_uring");
    can_run("io_uring", refused.map(str::to_owned))
}

#[test]
fn a_drive_holds_byte_for_byte_what_it_is_given_with_and_without_the_page_cache() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir_in(".")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    for (cache, engine) in [
        ("writeback", "threads"),
        ("none", "threads"),
        ("none", "io_uring"),
        ("unsafe", "io_uring"),
    ] {
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        let bytes = noise(8 << 20);
        fs::write(&source, &bytes).unwrap();
        fs::write(&target, noise(8 << 20)).unwrap();
        let drives = [
            format!("path={},ro,cache={cache},engine={engine}", path(&source)),
            format!("path={},cache={cache},engine={engine}", path(&target)),
        ];
        let more = ["--disk", &drives[0], "--disk", &drives[1]];
        let ended = boot(
            &more,
            "dd if=/dev/vdb of=/dev/vdc bs=256k 2>/dev/null; sync",
        );
        if cache == "none" && ended.err.contains("O_DIRECT") {
            // tmpfs has no O_DIRECT on older kernels: refused in words, which is right too.
            can_run("o_direct", Some(ended.err.trim().to_owned()));
            continue;
        }
        if !rings(engine, &ended) {
            continue;
        }
        ended.success();
        assert!(
            fs::read(&target).unwrap() == bytes,
            "cache={cache}, engine={engine}: the copy differs"
        );
    }
}

#[test]
fn many_requests_at_once_arrive_intact() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (engine, queues) in [("threads", 1), ("io_uring", 2)] {
        let target = image(folder.path(), &format!("{engine}{queues}"), 16 << 20);
        let drive = format!("path={},engine={engine},queues={queues}", path(&target));
        // Eight writers side by side, each to its own part, past the guest's page cache.
        let ended = boot(
            &["--cpus", "2", "--disk", &drive],
            "for i in 0 1 2 3 4 5 6 7; do (yes line-$i | head -c 2097152 > /tmp/$i; \
             dd if=/tmp/$i of=/dev/vdb bs=64k seek=$((i*32)) conv=notrunc oflag=direct \
             2>/dev/null) & done; wait; cat /sys/block/vdb/inflight; ls /sys/block/vdb/mq",
        );
        rings(engine, &ended);
        let out = ended.success();
        let mut expected = vec!["0", "0", "0", "1"];
        expected.truncate(2 + queues);
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), expected);
        let bytes = fs::read(&target).unwrap();
        for (index, part) in bytes.chunks(2 << 20).enumerate() {
            let line = format!("line-{index}\n");
            let expected: Vec<u8> = line.bytes().cycle().take(2 << 20).collect();
            assert!(part == expected, "{engine}, {queues}: part {index} differs");
        }
    }
}

#[test]
fn a_read_only_drive_refuses_writes() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "ro.img", 1 << 20);
    let drive = format!("path={},ro", path(&disk));
    let script = "cat /sys/block/vdb/ro; echo x > /dev/vdb && echo written || echo refused";
    let out = in_guest(&["--disk", &drive], script);
    assert!(
        out.starts_with("1\n") && out.ends_with("refused\n"),
        "{out}"
    );
    assert!(fs::read(&disk).unwrap().iter().all(|&b| b == 0));
}

#[test]
fn discard_gives_space_back_to_the_host() {
    use std::os::unix::fs::MetadataExt;
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disks = ["threads", "io_uring"].map(|engine| {
        let disk = folder.path().join(engine);
        fs::write(&disk, noise(8 << 20)).unwrap();
        let before = fs::metadata(&disk).unwrap().blocks();
        let drive = format!("path={},engine={engine}", path(&disk));
        (disk, drive, before)
    });
    let [(_, threads, _), (_, ring, _)] = &disks;
    in_guest(
        &["--disk", threads, "--disk", ring],
        "blkdiscard /dev/vdb; blkdiscard /dev/vdc",
    );
    for (disk, _, before) in disks {
        let after = fs::metadata(&disk).unwrap();
        assert!(
            after.blocks() * 4 < before,
            "{before} blocks before, {} after",
            after.blocks()
        );
        assert_eq!(after.len(), 8 << 20);
    }
}

#[test]
fn a_full_host_disk_is_an_io_error_in_the_guest_and_no_more() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(folder.path())
        .status()
        .is_ok_and(|status| status.success());
    if !can_run(
        "mount",
        (!mounted).then(|| "a tmpfs can't be mounted (not root?)".to_owned()),
    ) {
        return;
    }
    let drives = ["threads", "io_uring"].map(|engine| {
        let disk = image(folder.path(), &format!("big-{engine}.img"), 16 << 20);
        format!("path={},engine={engine}", path(&disk))
    });
    let ended = boot(
        &["--disk", &drives[0], "--disk", &drives[1]],
        "for d in vdb vdc; do \
         dd if=/dev/zero of=/dev/$d bs=64k oflag=direct 2>/dev/null && echo wrote || echo failed; \
         dd if=/dev/$d of=/dev/null bs=64k count=4 2>/dev/null && echo reads; \
         blkdiscard /dev/$d; done",
    );
    unmount(folder.path());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let of_dd = |line: &&str| !line.starts_with('[');
    let lines: Vec<_> = ended.out.lines().filter(of_dd).collect();
    assert_eq!(lines, ["failed", "reads"].repeat(2), "{ended:?}");
    for image in ["big-threads.img", "big-io_uring.img"] {
        assert!(
            ended.err.contains(image),
            "the host's log names the file: {ended:?}"
        );
    }
}

#[test]
fn a_limited_drive_takes_its_time() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (bytes, ops) = (
        image(folder.path(), "bytes", 8 << 20),
        image(folder.path(), "ops", 8 << 20),
    );
    let drives = [
        format!("path={},bw=2M,bw-burst=64K,engine=io_uring", path(&bytes)),
        format!("path={},iops=40,iops-burst=4", path(&ops)),
    ];
    // 2 MiB at 2 MiB a second; 40 requests at 40 a second.
    let out = in_guest(
        &["--disk", &drives[0], "--disk", &drives[1]],
        "cat /proc/uptime; \
         dd if=/dev/zero of=/dev/vdb bs=64k count=32 oflag=direct 2>/dev/null; cat /proc/uptime; \
         dd if=/dev/zero of=/dev/vdc bs=4k count=40 oflag=direct 2>/dev/null; cat /proc/uptime",
    );
    let times: Vec<f64> = out
        .lines()
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    let [start, middle, end] = times[..] else {
        panic!("{out}")
    };
    // Less the burst, and what the first probes of the drive have left of it.
    assert!(middle - start >= 0.9, "{times:?}");
    assert!(end - middle >= 0.85, "{times:?}");
}

/// Each block that the guest has flushed, and said so, is in the image after mote was killed.
#[test]
fn nothing_flushed_is_lost_when_mote_is_killed_in_mid_write() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::FileExt;
    const ENOUGH: usize = 40;
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    for engine in ["threads", "io_uring"] {
        let disk = image(folder.path(), engine, 64 << 20);
        let drive = format!("path={},engine={engine}", path(&disk));
        // Writer w writes blocks w, w+4, w+8, ..., each with its number all over it.
        let script = "for w in 0 1 2 3; do (i=$w; while yes block-$i | head -c 65536 | \
             dd of=/dev/vdb bs=64k seek=$i conv=notrunc,fsync iflag=fullblock 2>/dev/null; \
             do echo flushed $i; i=$((i+4)); done) & done; wait";
        let cmdline = format!("mote.run=\"{script}\"");
        let mut child = mote(&["--disk", &drive, "--cmdline", &cmdline])
            .spawn()
            .unwrap();
        let mut flushed = Vec::new();
        let mut console = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // What is in the pipe counts, too, but for a last line that was cut.
        while console.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            let number = line.trim().strip_prefix("flushed ");
            if let Some(Ok(number)) = number.map(str::parse::<u64>) {
                flushed.push(number);
                if flushed.len() == ENOUGH {
                    child.kill().unwrap();
                }
            }
            line.clear();
        }
        child.wait().unwrap();
        assert!(flushed.len() >= ENOUGH, "{engine}: {flushed:?}");
        let file = File::open(&disk).unwrap();
        for number in flushed {
            let line = format!("block-{number}\n");
            let expected: Vec<u8> = line.bytes().cycle().take(65536).collect();
            let mut block = vec![0; 65536];
            file.read_exact_at(&mut block, number * 65536).unwrap();
            assert!(block == expected, "{engine}: block {number} is lost");
        }
    }
}
