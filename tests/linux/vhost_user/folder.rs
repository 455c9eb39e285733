//! Folders served by virtiofsd, and what passes through mote of either.

use super::*;

#[test]
fn a_folder_of_virtiofsd_stands_a_storm() {
    let (Some(_), Some(program)) = (guests(), peer("virtiofsd")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (shared, socket) = (folder.path().join("shared"), folder.path().join("s"));
    fs::create_dir(&shared).unwrap();
    let data = noise(16 << 20);
    fs::write(shared.join("data"), &data).unwrap();
    let _daemon = virtiofsd(&program, &shared, &socket);
    let script = script_disk(
        folder.path(),
        "mount -t virtiofs data /mnt && cd /mnt || exit 1
         cp data copy; sha256sum < data; sha256sum < copy
         mkdir storm; cd storm
         for i in $(seq 500); do
           echo $i > a$i; mv a$i b$i; [ -s b$i ] || echo lost $i
         done
         ls | wc -l; cat b* | wc -l
         rm b1*; ls | wc -l; cd ..; rm -r storm; ln -s copy link; chmod 600 copy; ls -l copy link",
    );
    let out = boot(
        &[
            "--disk",
            &format!("{},ro", path(&script)),
            "--fs",
            &format!("tag=data,socket={}", path(&socket)),
        ],
        "mount -o ro /dev/vdb /home; sh /home/run",
    )
    .success();
    assert!(
        fs::read(shared.join("copy")).unwrap() == data,
        "the copy differs"
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], lines[1], "{out}");
    assert_eq!(lines[2..5], ["500", "500", "389"], "{out}");
    assert_eq!(
        fs::read_link(shared.join("link")).unwrap(),
        Path::new("copy")
    );
    assert!(!shared.join("storm").exists());
}

#[test]
fn a_folder_is_there_again_after_virtiofsd_was_killed() {
    let (Some(_), Some(program)) = (guests(), peer("virtiofsd")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (shared, socket) = (folder.path().join("shared"), folder.path().join("s"));
    let output = folder.path().join("out");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("data"), "first\n").unwrap();
    let mut running = virtiofsd(&program, &shared, &socket);
    let run = "mount -t virtiofs data /mnt; cat /mnt/data; while [ ! -s /mnt/go ]; do sleep 1; \
               cat /mnt/data > /dev/null 2>&1 || break; done; umount /mnt; \
               mount -t virtiofs data /mnt; cat /mnt/data";
    let cmdline = format!("mote.run=\"{run}\"");
    let socket_option = format!("tag=data,socket={}", path(&socket));
    let mut command = mote(&["--cmdline", &cmdline, "--fs", &socket_option]);
    command.stdout(File::create(&output).unwrap());
    let mut child = command.spawn().unwrap();
    wait_until("the guest", || {
        fs::read_to_string(&output).unwrap().contains("first")
    });
    running.kill();
    fs::write(shared.join("data"), "second\n").unwrap();
    fs::write(shared.join("go"), "go\n").unwrap();
    let _second = virtiofsd(&program, &shared, &socket);
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "{:?}", {
            let _ = child.kill();
            fs::read_to_string(&output)
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    let out = fs::read_to_string(&output).unwrap();
    assert!(out.contains("second"), "{out}");
}

/// The exits of a guest that copies so many MiB from a served drive to a served folder and back.
fn exits_of_a_copy(guests: &Guests, folder: &Path, peers: [&Path; 2], mib: u64) -> u64 {
    let disk = image(folder, "d.img", 64 << 20);
    let (shared, output) = (folder.join("shared"), folder.join(format!("out{mib}")));
    fs::create_dir_all(&shared).unwrap();
    let (blk, fs_socket) = (folder.join("blk"), folder.join("fs"));
    let _blk = storage_daemon(peers[0], &disk, &blk, 1);
    let _fs = virtiofsd(peers[1], &shared, &fs_socket);
    let config = VmConfig {
        console: Console::File(output.clone()),
        boot: Boot {
            kernel: Some(guests.kernel.clone()),
            cmdline: Some(format!(
                "quiet mote.run=\"mount -t virtiofs data /mnt; \
                 dd if=/dev/vdb of=/mnt/x bs=1M count={mib} iflag=direct 2>/dev/null; \
                 dd if=/mnt/x of=/dev/vdb bs=1M oflag=direct 2>/dev/null; ls -s /mnt/x\""
            )),
            ..Boot::default()
        },
        rootfs: Some(Disk {
            read_only: true,
            ..Disk::at(&guests.rootfs)
        }),
        disks: vec![Disk {
            vhost_user: Some(blk),
            ..Disk::default()
        }],
        fs: vec![Fs {
            tag: "data".to_owned(),
            socket: fs_socket,
            server: false,
            queues: None,
            on_disconnect: Default::default(),
        }],
        ..VmConfig::default()
    };
    let host = Host::open().unwrap();
    let mut vm = build(&host, &config, BuildOptions::default()).unwrap();
    assert_eq!(vm.run().unwrap(), Exit::Reset);
    let text = fs::read_to_string(&output).unwrap();
    assert!(text.contains(&(mib * 1024).to_string()), "{text}");
    let exits = vm.exits();
    // What remains is the console and set-up; each of the devices is written to at set-up only.
    exits
        .by_device
        .iter()
        .filter(|d| d.device == "virtio-vdb" || d.device == "virtio-fs0")
        .map(|d| d.reads + d.writes)
        .sum()
}

#[test]
fn nothing_of_the_data_passes_through_mote() {
    let Some(guests) = guests() else { return };
    let (Some(blk), Some(fs)) = (peer("qemu-storage-daemon"), peer("virtiofsd")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [few, many] = [1, 32].map(|mib| exits_of_a_copy(&guests, folder.path(), [&blk, &fs], mib));
    eprintln!("exits for set-up, and 2 MiB: {few}; and 64 MiB: {many}");
    assert_eq!(few, many);
}
