//! The agent as an ordinary process in namespaces of its own, with a Unix socket for a host: everything but being
//! process 1 of a guest. Needs user namespaces, or root (kind namespaces); says so aloud where they can't be had.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::thread;

use common::{guest, namespaces, sh};
use mote_agent_protocol::container::{Limits, User, Window};
use mote_agent_protocol::message::{State, Status, Streams};
use mote_agent_protocol::setup::{Step, WriteFile};
use mote_agent_protocol::*;

#[test]
fn a_process_has_its_environment_folder_name_and_status() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    container.read_only_paths = vec!["/tmp".to_owned()];
    container.masked = vec!["/etc/passwd".to_owned(), "/nowhere".to_owned()];
    let command = "echo $COLOUR $(pwd) $(uname -n) $(wc -c </etc/passwd); \
        touch /tmp/x 2>/dev/null || echo ro; exit 7";
    let (text, status) = guest.shell(container, command);
    assert_eq!(text, "red / inside 0\nro\n");
    assert_eq!(status, Status::Exited(7));
    // And another one of the same name, now that it is gone.
    let (text, status) = guest.shell(guest.container(), "kill -9 $$");
    assert_eq!((text.as_str(), status.code()), ("", 137));
}

#[test]
fn a_process_is_the_first_of_its_pid_namespace_and_takes_all_with_it() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    container.namespaces = namespaces(&["mnt", "pid", "uts", "net", "ipc"]);
    let (text, status) = guest.shell(container, "echo $$; sleep 1000 & exit 3");
    assert_eq!((text.as_str(), status), ("1\n", Status::Exited(3)));
}

#[test]
fn streams_are_whole_binary_and_half_closed() {
    let Some(guest) = guest() else { return };
    let streams = Streams {
        input: Some(10),
        output: Some(11),
        error: Some(12),
    };
    let command = "cat; echo done >&2";
    guest
        .create(guest.container(), sh(command), streams)
        .unwrap();
    guest.session.call(Request::Start("c".into())).unwrap();
    let mut state = 1u32;
    let noise: Vec<u8> = (0..8 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let mut input = guest.stream(10);
    let mut output = guest.stream(11);
    let sent = noise.clone();
    let writer = thread::spawn(move || {
        input.write_all(&sent).unwrap();
        input.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    output.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == noise, "{} bytes", received.len());
    let mut text = String::new();
    guest.stream(12).read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
    assert_eq!(guest.exited().1, Status::Exited(0));
}

#[test]
fn further_processes_run_and_are_signalled_by_themselves() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    container.namespaces = namespaces(&["mnt", "pid"]);
    container.hostname = None;
    guest
        .create(container, sh("exec sleep 1000"), Streams::default())
        .unwrap();
    let state = |target: Target| guest.session.call(Request::State(target)).unwrap();
    let first = Target::of("c", "");
    assert!(matches!(
        state(first.clone()),
        Reply::State(State::Created(_))
    ));
    guest.session.call(Request::Start("c".into())).unwrap();
    let exec = |name: &str, command: &str, output| {
        let request = Request::Exec {
            target: Target::of("c", name),
            process: Box::new(sh(command)),
            streams: Streams {
                output,
                ..Streams::default()
            },
        };
        guest.session.call(request)
    };
    exec("one", "echo from $$; exit 4", Some(21)).unwrap();
    let mut text = String::new();
    guest.stream(21).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("from "), "{text}");
    assert_eq!(guest.exited(), (Target::of("c", "one"), Status::Exited(4)));
    exec("two", "exec sleep 1000", None).unwrap();
    assert!(exec("two", "true", None).is_err(), "the name is taken");
    let signal = |target: &Target, signal| {
        let target = target.clone();
        let all = false;
        guest.session.call(Request::Signal {
            target,
            signal,
            all,
        })
    };
    signal(&Target::of("c", "two"), 15).unwrap();
    assert_eq!(guest.exited(), (Target::of("c", "two"), Status::Killed(15)));
    let Reply::Stats(stats) = guest.session.call(Request::Stats("c".into())).unwrap() else {
        panic!("no figures")
    };
    assert!(stats.pids >= 1 && stats.memory > 0, "{stats:?}");
    exec("three", "exec sleep 1000", None).unwrap();
    signal(&first, 9).unwrap();
    // The third ends with the first; either may be told of before the other.
    let mut ends = [guest.exited(), guest.exited()];
    ends.sort_by_key(|(target, _)| target.process.clone());
    assert_eq!(ends[0], (first.clone(), Status::Killed(9)));
    assert_eq!(ends[1].0, Target::of("c", "three"));
    assert!(signal(&first, 9).is_err());
    guest.session.call(Request::Delete(first)).unwrap();
    guest.session.call(Request::Shutdown).unwrap();
}

#[test]
fn a_terminal_has_a_size_and_tells_of_another() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    let devpts = Mount::new("devpts", "devpts", "/dev/pts", "newinstance,ptmxmode=666");
    container.mounts.retain(|mount| mount.target != "/dev");
    container
        .mounts
        .push(Mount::new("bind", "/dev", "/dev", "rbind"));
    container.mounts.push(devpts);
    let process = Process {
        terminal: Some(Window {
            columns: 101,
            rows: 37,
        }),
        ..sh("stty size; read line; echo got $line; stty size; test -t 1")
    };
    let streams = Streams {
        input: Some(1),
        output: Some(2),
        error: None,
    };
    guest.create(container, process, streams).unwrap();
    guest.session.call(Request::Start("c".into())).unwrap();
    let (mut input, mut output) = (guest.stream(1), guest.stream(2));
    let mut seen = String::new();
    let mut read_until = |what: &str| {
        while !seen.contains(what) {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{seen}");
            seen.push(byte[0].into());
        }
    };
    read_until("37 101\r\n");
    let window = Window {
        columns: 80,
        rows: 24,
    };
    let resize = Request::Resize(Target::of("c", ""), window);
    guest.session.call(resize).unwrap();
    input.write_all(b"hello\n").unwrap();
    read_until("got hello\r\n");
    read_until("24 80\r\n");
    assert_eq!(guest.exited().1, Status::Exited(0));
}

#[test]
fn what_cannot_be_done_is_refused_by_its_name() {
    let Some(guest) = guest() else { return };
    let refused = |container: Container, process: Process| {
        let refusal = guest.create(container, process, Streams::default());
        refusal.unwrap_err().message
    };
    let with = |kinds: &[&str]| Container {
        namespaces: namespaces(kinds),
        hostname: None,
        ..guest.container()
    };
    let message = refused(with(&["user"]), sh("true"));
    assert!(message.contains("namespace user"), "{message}");
    let named = Process {
        user: User::Named("nobody-at-all".to_owned()),
        ..sh("true")
    };
    let message = refused(guest.container(), named);
    assert!(message.contains("nobody-at-all"), "{message}");
    let mut container = guest.container();
    container
        .mounts
        .push(Mount::new("quantumfs", "x", "/x", ""));
    let message = refused(container, sh("true"));
    assert!(message.contains("quantumfs"), "{message}");
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let container = Container {
            limits: Limits {
                memory: Some(1 << 20),
                ..Limits::default()
            },
            ..guest.container()
        };
        let message = refused(container, sh("true"));
        assert!(message.contains("memory.max"), "{message}");
    }
    // A program that isn't there is one that can't be started; and nothing is left of it.
    let process = Process {
        arguments: vec!["no-such-program".to_owned()],
        ..Process::default()
    };
    guest
        .create(guest.container(), process, Streams::default())
        .unwrap();
    let error = guest.session.call(Request::Start("c".into()));
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "no-such-program: not found");
    let (target, status) = guest.exited();
    assert_eq!(status, Status::Exited(127));
    guest.session.call(Request::Delete(target)).unwrap();
    for name in ["", ".", "a/b", "../x", &"x".repeat(200)] {
        let request = Request::Create {
            name: name.to_owned(),
            container: Box::default(),
            process: Box::default(),
            streams: Streams::default(),
        };
        assert!(guest.session.call(request).is_err(), "{name:?}");
    }
}

#[test]
fn links_in_a_root_lead_nowhere_else() {
    let Some(guest) = guest() else { return };
    let root = guest.folder.path().join("r");
    let outside = guest.folder.path().join("outside");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("etc/away")).unwrap();
    std::os::unix::fs::symlink("../../outside/file", root.join("etc/up")).unwrap();
    std::os::unix::fs::symlink("/run/nowhere", root.join("etc/resolv.conf")).unwrap();
    let write = |path: &str| {
        Step::File(WriteFile {
            path: path.to_owned(),
            root: root.to_str().unwrap().to_owned(),
            content: b"x".to_vec(),
            mode: 0o644,
        })
    };
    let set_up = |step| {
        let steps = vec![step];
        guest.session.call(Request::Setup(Setup { steps }))
    };
    let _ = set_up(write("/etc/away/file"));
    let _ = set_up(write("/etc/up"));
    let _ = set_up(write("/../../outside/file"));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    set_up(write("/etc/resolv.conf")).unwrap();
    assert_eq!(fs::read(root.join("etc/resolv.conf")).unwrap(), b"x");
    set_up(write("/a/b/c")).unwrap();
    assert_eq!(fs::read(root.join("a/b/c")).unwrap(), b"x");
}

#[test]
fn noise_ends_the_connection_and_not_the_agent() {
    let Some(mut guest) = guest() else { return };
    let wrong = Request::Signal {
        target: Target::of("nobody", ""),
        signal: 99,
        all: true,
    };
    assert!(guest.session.call(wrong).is_err());
    // One that has gone can't be asked; its process lives on, for a host that comes again.
    guest.session.close();
    assert!(guest.session.call(Request::Shutdown).is_err());
    assert!(guest.agent.try_wait().unwrap().is_none());
}
