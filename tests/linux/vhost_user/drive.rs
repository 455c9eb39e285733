//! Drives served by qemu-storage-daemon.

use std::io::Write;

use super::*;

#[test]
fn a_drive_of_qemu_storage_daemon_is_read_and_written() {
    let (Some(_), Some(daemon)) = (guests(), peer("qemu-storage-daemon")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (disk, socket) = (folder.path().join("d.img"), folder.path().join("s"));
    let plain = image(folder.path(), "plain.img", 4 << 20);
    let data = noise(8 << 20);
    fs::write(&disk, &data).unwrap();
    let _daemon = storage_daemon(&daemon, &disk, &socket, 2);
    let drive = format!("vhost-user={},queues=2", path(&socket));
    let out = boot(
        &["--disk", path(&plain), "--disk", &drive],
        "cat /sys/block/vdb/size /sys/block/vdc/size; sha256sum /dev/vdc; \
         dd if=/dev/vdc of=/dev/vdc bs=1M count=4 seek=4 conv=notrunc 2>/dev/null; sync; \
         blkdiscard -o 0 -l 1048576 /dev/vdc && echo discarded",
    )
    .success();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("8192"), "{out}");
    assert_eq!(lines.next(), Some("16384"), "{out}");
    let after = fs::read(&disk).unwrap();
    assert!(after[4 << 20..] == data[..4 << 20], "the copy differs");
    assert!(out.contains("discarded"), "{out}");
    assert!(after[..1 << 20].iter().all(|b| *b == 0));
    assert!(after[1 << 20..4 << 20] == data[1 << 20..4 << 20]);
}

#[test]
fn a_root_file_system_can_be_served_too() {
    let (Some(guests), Some(daemon)) = (guests(), peer("qemu-storage-daemon")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (root, socket) = (folder.path().join("r.img"), folder.path().join("s"));
    fs::copy(&guests.rootfs, &root).unwrap();
    let _daemon = storage_daemon(&daemon, &root, &socket, 1);
    let rootfs = format!("vhost-user={}", path(&socket));
    let out = boot(
        &["--kernel", path(&guests.kernel), "--rootfs", &rootfs],
        "grep /dev/root /proc/mounts || mount; echo x > /written; cat /written; sync",
    );
    assert!(out.success().ends_with("x\n"));
}

#[test]
fn a_back_end_that_is_killed_in_mid_write_loses_nothing() {
    let (Some(_), Some(daemon)) = (guests(), peer("qemu-storage-daemon")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "d.img", 32 << 20);
    let (socket, output) = (folder.path().join("s"), folder.path().join("out"));
    let mut running = storage_daemon(&daemon, &disk, &socket, 1);
    // Each round has data of its own. What the guest says is written is then on the disk; several
    // write at a time, so that requests are done out of order. It goes on to the end when it is told to.
    let script = script_disk(
        folder.path(),
        "mount -t tmpfs none /mnt
         dd if=/dev/urandom of=/mnt/r bs=1M count=2 2>/dev/null
         round() { dd if=/mnt/r of=/dev/vdc bs=16k seek=$(($1 * 128)) oflag=direct 2>/dev/null; }
         for i in 0 3 6 9 12; do
           round $i & round $((i + 1)) & round $((i + 2)) & wait
           echo written $i
         done
         read line
         round 15
         dd if=/dev/vdc bs=1M iflag=direct 2>/dev/null | sha256sum
         for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do cat /mnt/r; done | sha256sum",
    );
    let drive = format!("vhost-user={}", path(&socket));
    let mut command = mote(&[
        "--cmdline",
        "mote.run=\"mount -o ro /dev/vdb /home; sh /home/run\"",
        "--disk",
        &format!("{},ro", path(&script)),
        "--disk",
        &drive,
        "--log",
        "info",
    ]);
    command.stdout(File::create(&output).unwrap());
    let said = |text: &str| fs::read_to_string(&output).unwrap().contains(text);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut kills = 0;
    for round in [0, 3, 6, 9] {
        wait_until("a round", || said(&format!("written {round}")));
        std::thread::sleep(Duration::from_millis(30 * round)); // in the middle of the next
        running.kill();
        running = storage_daemon(&daemon, &disk, &socket, 1);
        kills += 1;
    }
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go on\n").unwrap();
    assert!(child.wait().unwrap().success());
    let mut err = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut err).unwrap();
    let out = fs::read_to_string(&output).unwrap();
    let sums: Vec<&str> = out.lines().filter(|l| l.ends_with("  -")).collect();
    assert_eq!(sums.len(), 2, "{out}");
    assert_eq!(sums[0], sums[1], "{out}");
    assert_eq!(
        err.matches("a back-end is there again").count(),
        kills,
        "{err}"
    );
}

#[test]
fn a_back_end_that_is_gone_ends_the_vm_where_that_is_wanted() {
    let (Some(_), Some(daemon)) = (guests(), peer("qemu-storage-daemon")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "d.img", 1 << 20);
    let (socket, output) = (folder.path().join("s"), folder.path().join("out"));
    let mut running = storage_daemon(&daemon, &disk, &socket, 1);
    let drive = format!("vhost-user={},on-disconnect=exit", path(&socket));
    let mut command = mote(&[
        "--cmdline",
        "mote.run=\"echo up; sleep 1000\"",
        "--disk",
        &drive,
    ]);
    command.stdout(File::create(&output).unwrap());
    let mut child = command.spawn().unwrap();
    wait_until("the guest", || {
        fs::read_to_string(&output).unwrap().contains("up")
    });
    running.kill();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}
