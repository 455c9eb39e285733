//! Devices that other processes serve: qemu-storage-daemon, virtiofsd, passt.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use motevm::config::{Boot, Console, Disk, Fs};
use motevm::{BuildOptions, Exit, Host, VmConfig, build};

use crate::common::can_run;
use crate::peers::peer;
use crate::{Guests, PATIENCE, boot, finish, guests, image, mote, noise, path};

/// A program that runs until this is dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Running(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A drive served by qemu-storage-daemon.
fn storage_daemon(program: &Path, image: &Path, socket: &Path, queues: u16) -> Running {
    let _ = fs::remove_file(socket); // left by one that was killed
    let mut command = Command::new(program);
    command.arg("--blockdev").arg(format!(
        "driver=file,node-name=f0,filename={},discard=unmap",
        path(image)
    ));
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={},writable=on,\
         num-queues={queues}",
        path(socket)
    ));
    let daemon = Running::start(command);
    wait_until("qemu-storage-daemon", || socket.exists());
    daemon
}

fn virtiofsd(program: &Path, folder: &Path, socket: &Path) -> Running {
    let mut command = Command::new(program);
    command.arg(format!("--socket-path={}", path(socket)));
    command.args(["--shared-dir", path(folder), "--sandbox", "none"]);
    command.stderr(Stdio::null());
    let _ = fs::remove_file(socket);
    let daemon = Running::start(command);
    wait_until("virtiofsd", || socket.exists());
    daemon
}

/// A disk with a script on it, which may have quotes: `sh /home/run`.
fn script_disk(folder: &Path, script: &str) -> PathBuf {
    let (tree, disk) = (folder.join("tree"), folder.join("script.img"));
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("run"), script).unwrap();
    let made = Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-d",
            path(&tree),
            path(&disk),
            "2M",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    disk
}

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
        &["--kernel", path(&guests.vmlinux), "--rootfs", &rootfs],
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
    // write at a time, so that requests are done out of order.
    let script = script_disk(
        folder.path(),
        "mount -t tmpfs none /mnt
         dd if=/dev/urandom of=/mnt/r bs=1M count=2 2>/dev/null
         round() { dd if=/mnt/r of=/dev/vdc bs=16k seek=$(($1 * 128)) oflag=direct 2>/dev/null; }
         for i in 0 3 6 9 12; do
           round $i & round $((i + 1)) & round $((i + 2)) & wait
           echo written $i
         done
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
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut kills = 0;
    for round in [0, 3, 6, 9] {
        wait_until("a round", || said(&format!("written {round}")));
        std::thread::sleep(Duration::from_millis(30 * round)); // in the middle of the next
        running.kill();
        running = storage_daemon(&daemon, &disk, &socket, 1);
        kills += 1;
    }
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
            kernel: Some(guests.vmlinux.clone()),
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

/// Two network namespaces with a cable between them: one for mote and passt, and one outside, which
/// only passt leads to.
struct Networks {
    inside: String,
    outside: String,
}

impl Networks {
    /// `None` (said aloud) where they can't be had.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = [format!("mote-in-{id}"), format!("mote-out-{id}")];
        let added = Command::new("ip")
            .args(["netns", "add", &names[0]])
            .output();
        let obstacle = match added {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(format!("ip: {error}")),
        };
        if !can_run("peers", obstacle) {
            return None;
        }
        let [inside, outside] = names;
        for line in [
            format!("netns add {outside}"),
            format!("-n {inside} link add v0 type veth peer name v1 netns {outside}"),
            format!("-n {inside} addr add 192.168.77.2/24 dev v0"),
            format!("-n {inside} link set v0 up"),
            format!("-n {inside} link set lo up"),
            format!("-n {outside} addr add 192.168.77.1/24 dev v1"),
            format!("-n {outside} link set v1 up"),
            format!("-n {inside} route add default via 192.168.77.1"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "ip {line}: {err}");
        }
        Some(Networks { inside, outside })
    }

    fn command(namespace: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in [&self.inside, &self.outside] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task"))
        .into_iter()
        .flatten();
    let texts =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let numbers = |text: String| -> Vec<u32> {
        text.split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    texts.flat_map(numbers).collect()
}

#[test]
fn a_user_mode_network_needs_only_passt() {
    let (Some(_), Some(passt), Some(socat)) = (guests(), peer("passt"), peer("socat")) else {
        return;
    };
    let Some(networks) = Networks::new() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (blob, back) = (folder.path().join("blob"), folder.path().join("back"));
    let output = folder.path().join("out");
    let data = noise(32 << 20);
    fs::write(&blob, &data).unwrap();
    let serve = |from: &str, to: &str| {
        let mut command = Networks::command(&networks.outside, &socat);
        command.args(["-u", from, to]);
        Running::start(command)
    };
    let listen = |port: u16| format!("TCP-LISTEN:{port},reuseaddr");
    let _give = serve(&format!("OPEN:{}", path(&blob)), &listen(5000));
    let _take = serve(&listen(5001), &format!("CREATE:{}", path(&back)));
    let _more = serve(&listen(5002), "OPEN:/dev/null");
    let script = script_disk(
        folder.path(),
        "mount -t tmpfs none /mnt
         cat > /mnt/dhcp <<'END'
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo bound $ip $router
END
         chmod +x /mnt/dhcp
         ip link set eth0 up
         udhcpc -i eth0 -n -q -f -s /mnt/dhcp 2>/dev/null
         nc 192.168.77.1 5000 > /mnt/blob; sha256sum < /mnt/blob
         nc 192.168.77.1 5001 < /mnt/blob; echo transferred
         while [ $(cat /sys/class/net/eth0/carrier_changes) -lt 4 ]; do sleep 1; done
         until echo x | nc 192.168.77.1 5002; do sleep 1; done
         echo again",
    );
    let mut command = Networks::command(&networks.inside, Path::new(env!("CARGO_BIN_EXE_mote")));
    command.args(["run", "--cmdline"]);
    command.arg("quiet mote.run=\"mount -o ro /dev/vdb /home; sh /home/run\"");
    command.args(["--disk", &format!("{},ro", path(&script))]);
    command.args(["--net", &format!("user,passt={}", path(&passt))]);
    command.stdout(File::create(&output).unwrap());
    let mut child = command.spawn().unwrap();
    let text = || fs::read_to_string(&output).unwrap();
    let mut wait_for = |what: &str| {
        wait_until(what, || {
            let over = child.try_wait().unwrap().is_some();
            assert!(!over || text().contains(what), "{}", text());
            text().contains(what)
        });
    };
    wait_for("transferred");
    assert!(
        text().contains("bound 192.168.77.2 192.168.77.1"),
        "{}",
        text()
    );
    let passts = children(child.id());
    assert_eq!(passts.len(), 1);
    // A passt that dies is replaced.
    let killed = Command::new("kill")
        .args(["-9", &passts[0].to_string()])
        .status();
    assert!(killed.unwrap().success());
    wait_until("another passt", || {
        children(child.id()).iter().any(|pid| *pid != passts[0])
    });
    let second = children(child.id())[0];
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{}", text());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(text().contains("again"), "{}", text());
    assert!(fs::read(&back).unwrap() == data, "what came back differs");
    assert!(
        !Path::new(&format!("/proc/{second}")).exists(),
        "passt is left"
    );
}

#[test]
fn without_passt_there_is_no_user_mode_network() {
    if guests().is_none() {
        return;
    }
    let mut command = mote(&["--net", "user"]);
    command.env("PATH", "/nowhere").env_remove("MOTE_PASST");
    let ended = finish(command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("apt install passt"), "{ended:?}");
    // What isn't a passt, or is too old.
    let ended = finish(mote(&["--net", "user,passt=/bin/false"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("/bin/false can't be used"), "{ended:?}");
}
