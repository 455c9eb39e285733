//! vsock, with socat at both ends.

use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::thread;

use super::peers::{peer, test_rootfs};
use super::*;

/// The guest waits here until the host has seen what it wanted to.
const UNTIL_THE_END: &str = "socat -u VSOCK-CONNECT:2:9 -";

/// What these tests need: a guest with socat in it, and socat here.
fn ready() -> Option<String> {
    guests()?;
    peer("socat")?;
    Some(format!("{},ro", path(&test_rootfs()?)))
}

/// A connection to the guest's port, as soon as someone listens there.
fn connect(socket: &Path, port: u32) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            writeln!(stream, "CONNECT {port}").unwrap();
            // Byte by byte: what comes behind the line is someone else's.
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => line.push(byte[0]),
                    _ => break,
                }
            }
            if line.starts_with(b"OK ") && line.ends_with(b"\n") {
                return stream;
            }
            assert!(line.is_empty(), "{line:?}");
        }
        assert!(Instant::now() < deadline, "nobody listens on port {port}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn socat(arguments: &[&str]) -> Child {
    let mut command = Command::new(peer("socat").unwrap());
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn md5sum(file: &Path) -> String {
    let output = Command::new("md5sum")
        .stdin(File::open(file).unwrap())
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// 64 MiB each way between socat and socat, each of them an exchange with a half-close, while one
/// program on the host never reads what the guest sends it without end.
#[test]
fn streams_arrive_whole_and_half_closed_while_another_program_never_reads() {
    let Some(rootfs) = ready() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    fs::write(&data, noise(64 << 20)).unwrap();
    let socket = folder.path().join("v");
    let at = |port: u32| format!("{}_{port}", path(&socket));
    let (end, lazy) = (at(9), at(60));
    let (end, lazy) = (
        UnixListener::bind(end).unwrap(),
        UnixListener::bind(lazy).unwrap(),
    );
    let into_copy = socat(&[
        "-u",
        &format!("UNIX-LISTEN:{}", at(1234)),
        &format!("CREATE:{}", path(&copy)),
    ]);
    let sum = socat(&[&format!("UNIX-LISTEN:{}", at(53)), "EXEC:md5sum"]);
    for port in [1234, 53] {
        until("socat to listen", || listens(at(port).as_ref()));
    }
    // A new driver finds the device as the first did.
    let script = format!(
        "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport; v=$(ls | grep virtio.); \
         echo $v > unbind; echo $v > bind; cd /; \
         socat -u /dev/zero VSOCK-CONNECT:2:60 & socat -t 100 VSOCK-LISTEN:52,fork EXEC:md5sum & \
         socat -u FILE:/dev/vdb VSOCK-CONNECT:2:1234; \
         echo -n question | socat -t 100 - VSOCK-CONNECT:2:53; {UNTIL_THE_END}"
    );
    let (vsock, disk) = (
        format!("cid=42,socket={}", path(&socket)),
        format!("path={},ro", path(&data)),
    );
    let out = thread::scope(|scope| {
        let guest = scope.spawn(|| {
            in_guest(
                &["--rootfs", &rootfs, "--vsock", &vsock, "--disk", &disk],
                &script,
            )
        });
        let (_never_read, _) = lazy.accept().unwrap();
        // Nothing in, and the sum of nothing out.
        let mut nothing = connect(&socket, 52);
        nothing.shutdown(Shutdown::Write).unwrap();
        nothing.read_to_string(&mut String::new()).unwrap();
        // The line and the data behind it in one go, as a shell does it.
        let command = "(echo CONNECT 52; cat $0) | socat -t 100 - UNIX-CONNECT:$1";
        let there = Command::new("sh")
            .args(["-c", command])
            .arg(&data)
            .arg(&socket)
            .output();
        let there = String::from_utf8(there.unwrap().stdout).unwrap();
        let (ok, answer) = there.split_once('\n').unwrap();
        assert!(ok.starts_with("OK "), "{there}");
        assert_eq!(answer, md5sum(&data));
        let (until_here, _) = end.accept().unwrap();
        drop(until_here);
        guest.join().unwrap()
    });
    output(into_copy);
    output(sum);
    assert_eq!(md5sum(&copy), md5sum(&data));
    // md5sum of "question", which it says only once the guest has sent its end.
    assert_eq!(out, "5494af1f14a8c19939968c3e9e2d4f79  -\n");
    assert!(!socket.exists());
}

/// The program of tests/linux/vsock.c on an image of its own; `None` (said aloud) without a compiler.
fn helper(folder: &Path) -> Option<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir(&tree).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux/vsock.c");
    let built = Command::new("cc")
        .args(["-O1", "-static", "-o"])
        .arg(tree.join("vsock"))
        .arg(source)
        .status();
    let built = built.is_ok_and(|status| status.success());
    let obstacle = || "there's no C compiler (cc) with a static C library".to_owned();
    if !can_run("peers", (!built).then(obstacle)) {
        return None;
    }
    let disk = image(folder, "helper.img", 4 << 20);
    let made = Command::new("mke2fs")
        .args(["-q", "-d"])
        .arg(&tree)
        .arg(&disk)
        .status();
    assert!(made.unwrap().success());
    Some(disk)
}

#[test]
fn a_thousand_connections_at_once_each_way() {
    let Some(rootfs) = ready() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(helper) = helper(folder.path()) else {
        return;
    };
    raise_open_files();
    let socket = folder.path().join("v");
    let at = |port: u32| UnixListener::bind(format!("{}_{port}", path(&socket))).unwrap();
    let (end, many) = (at(9), at(80));
    let script = format!(
        "mkdir -p /tmp/m; mount /dev/vdb /tmp/m; /tmp/m/vsock echo 52 & sleep 1; \
         /tmp/m/vsock many 80 1000; {UNTIL_THE_END}"
    );
    let (vsock, disk) = (
        format!("cid=42,socket={}", path(&socket)),
        format!("path={},ro", path(&helper)),
    );
    let out = thread::scope(|scope| {
        let guest = scope.spawn(|| {
            in_guest(
                &[
                    "--rootfs", &rootfs, "--vsock", &vsock, "--disk", &disk, "--memory", "256M",
                ],
                &script,
            )
        });
        // The guest's: all are there before the first line comes.
        let from_guest: Vec<_> = (0..1000).map(|_| many.accept().unwrap().0).collect();
        for stream in &from_guest {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            let mut stream = stream;
            stream.write_all(line.as_bytes()).unwrap();
        }
        let (until_here, _) = end.accept().unwrap();
        drop(from_guest);
        // And the host's.
        let to_guest: Vec<_> = (0..1000).map(|_| connect(&socket, 52)).collect();
        for (index, mut stream) in to_guest.iter().enumerate() {
            writeln!(stream, "line {index}").unwrap();
        }
        for (index, stream) in to_guest.iter().enumerate() {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            assert_eq!(line, format!("line {index}\n"));
        }
        drop(until_here);
        guest.join().unwrap()
    });
    assert_eq!(out, "1000 connections\n");
}

fn raise_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a struct that lives through both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    assert!(
        limit.rlim_cur > 2100,
        "too few open files: {}",
        limit.rlim_cur
    );
}

/// The host's kernel serves: AF_VSOCK at both ends.
#[test]
fn vhost_lets_the_hosts_programs_use_vsock_themselves() {
    let Some(rootfs) = ready() else { return };
    let opened = File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-vsock");
    let obstacle = opened.err().map(|e| format!("/dev/vhost-vsock: {e}"));
    if !can_run("vhost", obstacle) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::write(&data, noise(16 << 20)).unwrap();
    let disk = format!("path={},ro", path(&data));
    // One after another: the guest gives up a connection that isn't there within two seconds.
    let mut sum = socat(&["VSOCK-LISTEN:7053,fork", "EXEC:md5sum"]);
    let script = "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport; v=$(ls | grep virtio.); \
         echo $v > unbind; echo $v > bind; cd /; \
         socat -t 100 VSOCK-LISTEN:52,fork EXEC:md5sum & \
         until socat -t 100 FILE:/dev/vdb,rdonly!!- VSOCK-CONNECT:2:7053 2>/dev/null; \
         do sleep 1; done; \
         socat -u VSOCK-LISTEN:9 -";
    let all = [
        "--rootfs",
        &rootfs,
        "--disk",
        &disk,
        "--vsock",
        "cid=77,vhost",
    ];
    let out = thread::scope(|scope| {
        let guest = scope.spawn(|| in_guest(&all, script));
        let command = "socat -t 100 FILE:$0!!- VSOCK-CONNECT:77:52";
        let mut there = Vec::new();
        until("the guest to listen", || {
            assert!(!guest.is_finished());
            let socat = Command::new("sh").args(["-c", command]).arg(&data).output();
            there = socat.unwrap().stdout;
            !there.is_empty()
        });
        assert_eq!(String::from_utf8_lossy(&there), md5sum(&data));
        // While it runs, its CID is taken.
        let second = finish(mote(&["--vsock", "cid=77,vhost"]));
        assert_eq!(second.code, Some(2), "{second:?}");
        assert!(second.err.contains("--vsock cid=77: in use"), "{second:?}");
        let end = ["-u", "/dev/null", "VSOCK-CONNECT:77:9"];
        until("the guest to have sent all", || {
            guest.is_finished() || socat(&end).wait().unwrap().success()
        });
        guest.join().unwrap()
    });
    sum.kill().unwrap();
    sum.wait().unwrap();
    assert_eq!(out, md5sum(&data));
}

#[test]
fn a_socket_is_one_vms_and_goes_with_it() {
    let Some(rootfs) = ready() else { return };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("v");
    let end = UnixListener::bind(format!("{}_9", path(&socket))).unwrap();
    // As if another had been killed.
    drop(UnixListener::bind(&socket).unwrap());
    let vsock = format!("cid=42,socket={}", path(&socket));
    let cmdline = format!("mote.run=\"{UNTIL_THE_END}\"");
    let all = [
        "--cmdline",
        &cmdline,
        "--rootfs",
        &rootfs,
        "--vsock",
        &vsock,
    ];
    let mut child = mote(&all).spawn().unwrap();
    let (_until_here, _) = end.accept().unwrap();
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let second = finish(mote(&all));
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.err.contains("in use"), "{second:?}");
    // SAFETY: a signal to a child that hasn't been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!socket.exists());
}

/// Exits to user space of a whole run in which the guest sends `count` blocks of 64 KiB to the host
/// and gets as many.
fn exits(rootfs: &str, count: u32) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let (socket, report) = (folder.path().join("v"), folder.path().join("report"));
    let sink = UnixListener::bind(format!("{}_80", path(&socket))).unwrap();
    let vsock = format!("cid=42,socket={}", path(&socket));
    let timings = format!("json={}", path(&report));
    // Not the default guest's init, whose signal ends the counting.
    let cmdline = format!(
        "quiet init=/bin/sh -- -c \"dd if=/dev/zero bs=64k count={count} | \
         socat -t 100 - VSOCK-CONNECT:2:80 | wc -c; reboot -f\""
    );
    let ended = thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let (mut stream, _) = sink.accept().unwrap();
            let mut answer = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut answer).unwrap();
        });
        let ended = finish(mote(&[
            "--console",
            "none",
            "--rootfs",
            rootfs,
            "--vsock",
            &vsock,
            "--timings",
            &timings,
            "--cmdline",
            &cmdline,
        ]));
        echo.join().unwrap();
        ended
    });
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = fs::read_to_string(&report).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    println!("{count} blocks: {}", report["exits"]);
    report["exits"]["total"].as_u64().unwrap()
}

#[test]
fn packets_cost_no_exit() {
    let Some(rootfs) = ready() else { return };
    let (few, many) = (exits(&rootfs, 1), exits(&rootfs, 100));
    assert!(many < few + 20, "{few} exits for one block, {many} for 100");
}
