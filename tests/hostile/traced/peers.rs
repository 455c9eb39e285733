//! Devices with somebody at the other end: a network, sockets, metrics, a back-end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use motevm::sandbox::ThreadKind;

use super::lives::{Seen, seen, wait_until};
use super::trace;
use crate::backend::{Backend, SET_VRING_ENABLE};
use crate::common::PATIENCE;
use crate::devices::drive;
use crate::driver::{self, *};
use crate::monitor::Monitor;
use crate::native;
use crate::peers;
use crate::script::Script;
use crate::vsock::{self, Packet};

/// A tap with two pairs of queues, of which the driver uses one and then both.
pub fn network(folder: &Path) -> Seen {
    let device = driver::device(0);
    let control = Ring::number(4);
    let mut script = Script::new();
    // VIRTIO_NET_F_GUEST_CSUM, _CTRL_GUEST_OFFLOADS, _CTRL_VQ and _MQ.
    script.bring_up(device, VERSION_1 | 1 << 1 | 1 << 2 | 1 << 17 | 1 << 22, 5);
    let receive = Ring::number(0);
    script.descriptor(receive.descriptors, 0, (BUFFER + 8192, 4096, WRITE, 0));
    script.offer(receive, &[0], 1).notify(device, 0);
    // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: two of them.
    script.write32(BUFFER, 0x2_0004);
    script.descriptor(control.descriptors, 0, (BUFFER, 4, NEXT, 1));
    script.descriptor(control.descriptors, 1, (BUFFER + 8, 1, WRITE, 0));
    script
        .offer(control, &[0], 1)
        .notify(device, 4)
        .wait(control.used + 2, 1, 20_000);
    // VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: checksums.
    script.write32(BUFFER, 0x2_0005).write64(BUFFER + 2, 2);
    script.descriptor(control.descriptors, 0, (BUFFER, 10, NEXT, 1));
    script.descriptor(control.descriptors, 1, (BUFFER + 16, 1, WRITE, 0));
    script
        .offer(control, &[0, 0], 2)
        .notify(device, 4)
        .wait(control.used + 2, 2, 20_000);
    let send = Ring::number(1);
    script.descriptor(send.descriptors, 0, (BUFFER + 4096, 12 + 60, 0, 0));
    script
        .offer(send, &[0], 1)
        .notify(device, 1)
        .wait(send.used + 2, 1, 20_000);
    script.print("up").wait(receive.used + 2, 1, 100_000_000);
    script.print("got").code(native::spin_for_ever());
    let alone = || {
        // SAFETY: a call with no pointers.
        unsafe { libc::unshare(libc::CLONE_NEWNET) };
    };
    let monitor = Monitor::of(folder, &script).before(alone);
    let monitor = monitor
        .with(&["--rng", "off", "--net", "tap=traced0,queues=2"])
        .unread();
    let (monitor, trace) = trace::under_strace(monitor);
    let mut running = monitor.start();
    running.hear(b"up");
    // The host's kernel greets whoever is there.
    let pid = running.pid().to_string();
    let up = ["-t", &pid, "-n", "ip", "link", "set", "traced0", "up"];
    assert!(Command::new("nsenter").args(up).status().unwrap().success());
    running.hear(b"got");
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
    seen(trace, ThreadKind::Net)
}

/// vsock in both directions, and metrics on a socket and in a file.
pub fn sockets(folder: &Path) -> Seen {
    let mut script = Script::new();
    script.vsock_up().packet_buffers(true);
    let mut data = Packet::new(vsock::RW, (1, 5000));
    data.length = 8;
    let sent = Ring::number(1).used + 2;
    script
        .packet(0, Packet::new(vsock::REQUEST, (1, 5000)))
        .wait(sent, 1, 100_000);
    script.packet(1, data).wait(sent, 2, 100_000).print("up");
    // VSOCK_SHUTDOWN_SEND.
    let mut done = Packet::new(vsock::SHUTDOWN, (1, 5000));
    done.flags = 2;
    script
        .packet(2, done)
        .wait(sent, 3, 100_000)
        .code(native::spin_for_ever());
    let listener = UnixListener::bind(folder.join("v_5000")).unwrap();
    let metrics = format!("unix={0}/m,file={0}/f,interval=1", folder.display());
    let monitor = vsock::monitor(folder, &script).with(&["--metrics", &metrics]);
    let (monitor, trace) = trace::under_strace(monitor.unread());
    let mut running = monitor.start();
    let (mut program, _) = listener.accept().unwrap();
    program.set_read_timeout(Some(PATIENCE)).unwrap();
    running.hear(b"up");
    program.write_all(b"to the guest").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    program.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), 8);
    let mut other = UnixStream::connect(folder.join("v")).unwrap();
    other.write_all(b"CONNECT 6000\n").unwrap();
    let mut client = UnixStream::connect(folder.join("m")).unwrap();
    client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.contains("mote_"), "{text}");
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
    seen(trace, ThreadKind::Drive)
}

/// A VM that is paused, and gets other media into its drive, by its API.
pub fn controlled(folder: &Path) -> Seen {
    let mut script = Script::new();
    script.print("up").code(native::spin_for_ever());
    let [first, second] = ["a", "b"].map(|name| drive(folder, name, 1 << 20, ""));
    let socket = folder.join("api");
    let monitor = Monitor::of(folder, &script)
        .with(&["--disk", &first, "--api", socket.to_str().unwrap()])
        .unread();
    let (monitor, trace) = trace::under_strace(monitor);
    let mut running = monitor.start();
    running.hear(b"up");
    let mut client = UnixStream::connect(&socket).unwrap();
    let paused = r#"{"state":"Paused"}"#;
    let resumed = r#"{"state":"Resumed"}"#;
    let medium = format!(
        r#"{{"drive_id":"vda","path_on_host":"{}"}}"#,
        second.trim_start_matches("path=")
    );
    for (method, path, body) in [
        ("GET", "/mote/v1/metrics", ""),
        ("PATCH", "/vm", paused),
        ("PATCH", "/vm", resumed),
        ("PATCH", "/drives/vda", &medium),
        ("PATCH", "/drives/vda", &medium), // it may have grown
    ] {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 20"), "{path}: {answer}");
        // The rest of it; a connection more would be as good.
        client = UnixStream::connect(&socket).unwrap();
    }
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
    seen(trace, ThreadKind::Drive)
}

/// Metrics in a file that was opened by whoever started the VM.
pub fn file_handed_over(folder: &Path) -> Seen {
    let file = File::create(folder.join("metrics")).unwrap();
    let fd = file.as_raw_fd();
    let monitor = Monitor::of(folder, Script::new().end()).with(&["--metrics", "file=fd=60"]);
    let monitor = monitor.change(|command| {
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::dup2(fd, 60);
                Ok(())
            });
        }
    });
    let (monitor, trace) = trace::under_strace(monitor);
    monitor.run().survived();
    seen(trace, ThreadKind::Drive)
}

/// A device that another process serves, which goes away and comes back; its guest's memory is in a file.
pub fn back_end(folder: &Path) -> Seen {
    let mut script = peers::asking();
    let balloon = driver::device(1);
    script.bring_up(balloon, VERSION_1, 2);
    let ring = Ring::number(0);
    script.write32(BUFFER, ((native::RAM + (24 << 20)) >> 12) as u32);
    script.descriptor(ring.descriptors, 0, (BUFFER, 4, 0, 0));
    script
        .offer(ring, &[0], 1)
        .notify(balloon, 0)
        .wait(ring.used + 2, 1, 20_000);
    script.print("up").code(native::spin_for_ever());
    let path = folder.join("socket");
    let mut backend = Backend::listen(&path, peers::manner(None));
    let monitor = peers::with_socket(
        folder,
        &script,
        "--disk",
        "vhost-user=SOCKET,on-disconnect=wait",
    );
    let (monitor, trace) = trace::under_strace(monitor.with(&["--balloon", "4M"]).unread());
    let mut running = monitor.start();
    running.hear(b"up");
    backend.die();
    let _ = std::fs::remove_file(&path);
    let again = Backend::listen(&path, peers::manner(None));
    wait_until(|| again.asked(SET_VRING_ENABLE) > 0);
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
    seen(trace, ThreadKind::VhostUser)
}

/// The same where the VM is the one that is connected to.
pub fn back_ends_that_come(folder: &Path) -> Seen {
    let mut script = peers::asking();
    script.print("up").code(native::spin_for_ever());
    let monitor = peers::with_socket(folder, &script, "--disk", "vhost-user=SOCKET,server");
    let (monitor, trace) = trace::under_strace(monitor.unread());
    let mut running = monitor.start();
    let path = folder.join("socket");
    let connect = || loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut first = Backend::over(connect(), peers::manner(None));
    running.hear(b"up");
    first.die();
    let second = Backend::over(connect(), peers::manner(None));
    wait_until(|| second.asked(SET_VRING_ENABLE) > 0);
    running.signal(libc::SIGTERM);
    running.end().has_status(143);
    seen(trace, ThreadKind::VhostUser)
}
