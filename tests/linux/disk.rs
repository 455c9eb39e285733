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

#[test]
fn a_drive_holds_byte_for_byte_what_it_is_given_with_and_without_the_page_cache() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir_in(".")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    for cache in ["writeback", "none"] {
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        let bytes = noise(8 << 20);
        fs::write(&source, &bytes).unwrap();
        fs::write(&target, noise(8 << 20)).unwrap();
        let drives = [
            format!("path={},ro,cache={cache}", path(&source)),
            format!("path={},cache={cache}", path(&target)),
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
        ended.success();
        assert!(
            fs::read(&target).unwrap() == bytes,
            "cache={cache}: the copy differs"
        );
    }
}

#[test]
fn many_requests_at_once_arrive_intact() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = image(folder.path(), "target", 16 << 20);
    let drive = format!("path={}", path(&target));
    // Eight writers side by side, each to its own part, past the guest's page cache.
    let out = in_guest(
        &["--cpus", "2", "--disk", &drive],
        "for i in 0 1 2 3 4 5 6 7; do (yes line-$i | head -c 2097152 > /tmp/$i; \
         dd if=/tmp/$i of=/dev/vdb bs=64k seek=$((i*32)) conv=notrunc oflag=direct 2>/dev/null) & \
         done; wait; cat /sys/block/vdb/inflight",
    );
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
    let bytes = fs::read(&target).unwrap();
    for (index, part) in bytes.chunks(2 << 20).enumerate() {
        let line = format!("line-{index}\n");
        let expected: Vec<u8> = line.bytes().cycle().take(2 << 20).collect();
        assert!(part == expected, "part {index} differs");
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
    let disk = folder.path().join("disk");
    fs::write(&disk, noise(8 << 20)).unwrap();
    let before = fs::metadata(&disk).unwrap().blocks();
    let drive = format!("path={}", path(&disk));
    in_guest(&["--disk", &drive], "blkdiscard /dev/vdb");
    let after = fs::metadata(&disk).unwrap();
    assert!(
        after.blocks() * 4 < before,
        "{before} blocks before, {} after",
        after.blocks()
    );
    assert_eq!(after.len(), 8 << 20);
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
    let disk = image(folder.path(), "big.img", 16 << 20);
    let drive = format!("path={}", path(&disk));
    let ended = boot(
        &["--disk", &drive],
        "dd if=/dev/zero of=/dev/vdb bs=64k oflag=direct 2>/dev/null && echo wrote || echo failed; \
         dd if=/dev/vdb of=/dev/null bs=64k count=4 2>/dev/null && echo reads",
    );
    assert!(
        Command::new("umount")
            .arg(folder.path())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.out.contains("failed\n") && ended.out.contains("reads\n"),
        "{ended:?}"
    );
    assert!(
        ended.err.contains("big.img"),
        "the host's log names the file: {ended:?}"
    );
}
