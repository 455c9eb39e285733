//! Processes that serve a device and lie, stall, hang up, or say what nobody asked for.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::backend::{
    BACKEND_REQ, Backend, CONFIG, GET_CONFIG, GET_FEATURES, GET_INFLIGHT_FD, GET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM, INFLIGHT, MQ, Manner, PROTOCOL, REPLY_ACK, SET_FEATURES, SET_MEM_TABLE,
    SET_OWNER, SET_VRING_ENABLE, SET_VRING_KICK, Twist,
};
use crate::driver::{BUFFER, NEXT, Ring, STATUS, VERSION_1, WRITE};
use crate::kvm;
use crate::monitor::{Monitor, Running};
use crate::native;
use crate::random::Random;
use crate::script::Script;

const DEVICE: u64 = crate::native::VIRTIO;
/// VIRTIO_BLK_F_FLUSH and _MQ.
const BLOCK: u64 = 1 << 9 | 1 << 12;

pub fn manner(twist: Option<(u32, Twist)>) -> Manner {
    let mut config = vec![0; 60];
    config[0] = 100; // sectors
    config[34] = 4; // queues
    Manner {
        features: VERSION_1 | PROTOCOL | BLOCK | 1 << 63,
        protocol: MQ | REPLY_ACK | CONFIG | INFLIGHT | BACKEND_REQ | 1 << 4,
        config,
        queues: 4,
        twist,
    }
}

/// Sets the device up and asks it for something, which nobody answers.
pub fn asking() -> Script {
    let ring = Ring::number(0);
    let mut script = Script::new();
    script
        .bring_up(DEVICE, VERSION_1, 1)
        .write64(BUFFER, 0)
        .write64(BUFFER + 8, 0);
    script.descriptor(ring.descriptors, 0, (BUFFER, 16, NEXT, 1));
    script.descriptor(ring.descriptors, 1, (BUFFER + 4096, 512, NEXT | WRITE, 2));
    script.descriptor(ring.descriptors, 2, (BUFFER + 32, 1, WRITE, 0));
    script.offer(ring, &[0], 1).notify(DEVICE, 0).spin(2000);
    script
}

pub fn with_socket(folder: &Path, script: &Script, option: &str, value: &str) -> Monitor {
    let socket = folder.join("socket");
    let value = value.replace("SOCKET", socket.to_str().unwrap());
    Monitor::of(folder, script).with(&["--rng", "off", option, &value])
}

const QUICK: [Twist; 9] = [
    Twist::HangUp,
    Twist::WrongRequest,
    Twist::TooLong,
    Twist::WrongVersion,
    Twist::Ones,
    Twist::ExtraFile,
    Twist::Refuse,
    Twist::Twice,
    Twist::Cut(13),
];

#[test]
fn introductions_of_all_kinds_that_lie() {
    if !kvm() {
        return;
    }
    let kinds = [
        ("--disk", "vhost-user=SOCKET"),
        ("--net", "vhost-user=SOCKET"),
        ("--fs", "tag=t,socket=SOCKET"),
    ];
    let requests = [
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        GET_QUEUE_NUM,
        SET_OWNER,
        GET_CONFIG,
    ];
    let mut script = Script::new();
    script.end();
    for (option, value) in kinds {
        for request in requests {
            for twist in QUICK.into_iter().take(8) {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("socket");
                let _backend = Backend::listen(&path, manner(Some((request, twist))));
                let ended = with_socket(folder.path(), &script, option, value).run();
                // Refused, or not what this kind of device asks for.
                let what = format!(
                    "{option} {request} {twist:?}: {}: {}",
                    ended.status, ended.err
                );
                match ended.status.code() {
                    Some(0) => drop(ended.survived()),
                    Some(2 | 3) => {
                        let line = ended.err.lines().count() == 1;
                        assert!(line && ended.err.contains(path.to_str().unwrap()), "{what}");
                    }
                    _ => panic!("{what}"),
                }
            }
        }
    }
}

#[test]
fn a_stall_in_the_introduction_has_an_end() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _backend = Backend::listen(&path, manner(Some((GET_FEATURES, Twist::Stall))));
    let script = Script::new();
    let ended = with_socket(folder.path(), &script, "--disk", "vhost-user=SOCKET").run();
    assert!(
        matches!(ended.status.code(), Some(2 | 3)),
        "{}",
        ended.status
    );
    assert!(ended.err.contains("did not answer"), "{}", ended.err);
    assert!(ended.took < Duration::from_secs(60), "{:?}", ended.took);
}

#[test]
fn a_start_that_goes_wrong_leaves_the_guest_alone() {
    if !kvm() {
        return;
    }
    let requests = [
        SET_FEATURES,
        SET_MEM_TABLE,
        GET_INFLIGHT_FD,
        SET_VRING_KICK,
        SET_VRING_ENABLE,
    ];
    let mut script = asking();
    script.write32(DEVICE + STATUS, 0).end();
    for request in requests {
        for twist in QUICK.into_iter().take(8) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let _backend = Backend::listen(&path, manner(Some((request, twist))));
            with_socket(folder.path(), &script, "--disk", "vhost-user=SOCKET")
                .run()
                .survived();
        }
    }
}

#[test]
fn a_back_end_that_hangs_up_is_waited_for_or_ends_the_vm() {
    if !kvm() {
        return;
    }
    let mut script = asking();
    script.print("up").code(native::spin_for_ever());
    for (value, status) in [
        ("vhost-user=SOCKET,on-disconnect=exit", 7),
        ("vhost-user=SOCKET,on-disconnect=wait", 143),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut backend = Backend::listen(&folder.path().join("socket"), manner(None));
        let mut running = with_socket(folder.path(), &script, "--disk", value)
            .unread()
            .start();
        running.hear(b"up");
        backend.die();
        std::thread::sleep(Duration::from_millis(100));
        if status == 143 {
            running.signal(libc::SIGTERM);
        }
        running.end().has_status(status);
    }
}

#[test]
fn what_nobody_asked_for_is_no_harm() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = asking();
    script.print("up").code(native::spin_for_ever());
    for round in 0..16 {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::listen(&folder.path().join("socket"), manner(None));
        let mut running: Running =
            with_socket(folder.path(), &script, "--disk", "vhost-user=SOCKET")
                .unread()
                .start();
        running.hear(b"up");
        let rubbish: Vec<u8> = match round {
            // A request of the back-end's own: unknown, known with no body, with one that is far too long.
            0..8 => [[1, 2, 999, 3][round / 2], 1, [0, 0, 8, !0][round / 2]]
                .iter()
                .flat_map(|word: &u32| word.to_ne_bytes())
                .collect(),
            _ => (0..4096).map(|_| random.next() as u8).collect(),
        };
        match round % 2 {
            0 => backend.request(&rubbish),
            _ => backend.blurt(&rubbish),
        }
        std::thread::sleep(Duration::from_millis(50));
        running.signal(libc::SIGTERM);
        running.end().has_status(143);
    }
}

#[test]
fn answers_with_more_files_than_anybody_wants() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 12];
        stream.read_exact(&mut request).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let files = [null.as_raw_fd(); 200];
        let mut answer = [1u32, 5, 8]
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect::<Vec<u8>>();
        answer.extend(u64::MAX.to_ne_bytes());
        let _ = stream.send_with_fds(&[&answer[..]], &files);
        let _ = stream.read(&mut request);
    });
    let ended = with_socket(folder.path(), &Script::new(), "--disk", "vhost-user=SOCKET").run();
    assert!(
        matches!(ended.status.code(), Some(2 | 3)),
        "{}: {}",
        ended.status,
        ended.err
    );
    server.join().unwrap();
}

#[test]
fn whoever_connects_where_a_back_end_was_expected() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = asking();
    script.print("up").code(native::spin_for_ever());
    for round in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let monitor = with_socket(folder.path(), &script, "--disk", "vhost-user=SOCKET,server");
        let running = monitor.unread().start();
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let rubbish: Vec<u8> = (0..100 * round).map(|_| random.next() as u8).collect();
        let _ = stream.write_all(&rubbish);
        drop(stream);
        // It says what was wrong, or is ended while it waits for the next.
        std::thread::sleep(Duration::from_millis(100));
        let ended = running.end_soon();
        let signal = ended.status.signal() == Some(libc::SIGTERM);
        let expected = matches!(ended.status.code(), Some(2 | 3 | 143));
        assert!(signal || expected, "{}: {}", ended.status, ended.err);
    }
}
