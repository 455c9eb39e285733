//! What containers and images may try against the agent, and each other.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{PATIENCE, guest, guest_with_cgroups, namespaces, sh};
use mote_agent_protocol::container::User;
use mote_agent_protocol::message::{Status, Streams};
use mote_agent_protocol::*;

#[test]
fn a_pipe_where_a_file_should_be_holds_nobody_up() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    container.mounts.retain(|mount| mount.target != "/etc");
    let etc = guest.folder.path().join("root/etc");
    fs::create_dir_all(&etc).unwrap();
    for name in ["passwd", "group"] {
        let path = std::ffi::CString::new(etc.join(name).to_str().unwrap()).unwrap();
        // SAFETY: a string that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }, 0);
    }
    let process = Process {
        user: User::Named("0:0".to_owned()),
        ..sh("true")
    };
    let streams = Streams::default();
    guest.create(container, process, streams).unwrap();
    let write = setup::Step::File(setup::WriteFile {
        path: "/etc/passwd".to_owned(),
        root: guest
            .folder
            .path()
            .join("root")
            .to_str()
            .unwrap()
            .to_owned(),
        content: b"x".to_vec(),
        mode: 0o644,
    });
    let steps = vec![write];
    let answer = guest.call_within(PATIENCE, Request::Setup(Setup { steps }));
    assert_eq!(answer.unwrap_err().errno, libc::ENXIO);
}

#[test]
fn a_process_that_is_stopped_before_its_program_is_given_up() {
    let Some(guest) = guest() else { return };
    let streams = Streams::default();
    let made = guest.create(guest.container(), sh("true"), streams);
    let Ok(Reply::Pid(pid)) = made else {
        panic!("{made:?}")
    };
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    let answer = guest.call_within(Duration::from_secs(25), Request::Start("c".into()));
    assert_eq!(answer.unwrap_err().errno, libc::ETIMEDOUT);
    assert_eq!(guest.exited(), (Target::of("c", ""), Status::Killed(9)));
}

/// Has this thread be without CAP_SYS_PTRACE, as root is in a container.
fn without_ptrace() {
    // As of capget(2): the version, this thread, and two halves of three sets.
    let header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    // SAFETY: structs of these sizes, which live through the calls.
    unsafe {
        let (header, sets) = (header.as_ptr(), sets.as_mut_ptr());
        assert_eq!(libc::syscall(libc::SYS_capget, header, sets), 0);
        for set in 0..3 {
            *sets.add(set) &= !(1 << 19);
        }
        assert_eq!(libc::syscall(libc::SYS_capset, header, sets), 0);
    }
}

#[test]
fn a_process_before_its_program_has_nothing_to_take() {
    let Some(guest) = guest() else { return };
    // A pipe to another's input, and more.
    let streams = Streams {
        input: Some(1),
        ..Streams::default()
    };
    guest.create(guest.container(), sh("cat"), streams).unwrap();
    let process = Process {
        capabilities: Some(container::Capabilities::default()),
        limits: vec![(libc::RLIMIT_NOFILE, 4, 4)],
        ..sh("exec sleep 1000")
    };
    let request = Request::Create {
        name: "d".to_owned(),
        container: Box::new(guest.container()),
        process: Box::new(process),
        streams: Streams::default(),
    };
    let made = guest.call_within(PATIENCE, request);
    let Ok(Reply::Pid(pid)) = made else {
        panic!("{made:?}")
    };
    let files = format!("/proc/{pid}/fd");
    let open = || {
        fs::read_dir(&files)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
    };
    assert_eq!(open().count(), 4, "{:?}", open().collect::<Vec<_>>());
    let is_readable = || {
        let files = files.clone();
        let tried = std::thread::spawn(move || {
            without_ptrace();
            fs::read_link(format!("{files}/0")).is_ok()
        });
        tried.join().unwrap()
    };
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    assert!(!is_root || !is_readable());
    guest
        .call_within(PATIENCE, Request::Start("d".into()))
        .unwrap();
    // The program is like any other.
    assert!(!is_root || is_readable());
    guest.end();
}

#[test]
fn nothing_outlives_its_container_in_a_cgroup_of_its_own() {
    let Some(guest) = guest_with_cgroups() else {
        return;
    };
    let mut container = guest.container();
    container.namespaces = namespaces(&["mnt", "uts", "cgroup"]);
    let cgroups = Mount::new("cgroup2", "cgroup2", "/tmp/cgroup", "");
    container.mounts.push(cgroups);
    let command = "cd /tmp/cgroup && mkdir -p a/b d && (\
        echo 0 >a/b/cgroup.procs; trap '' HUP; exec sleep 1000 >/dev/null 2>&1) & \
        read line; echo $!; exit 5";
    let streams = Streams {
        input: Some(1),
        output: Some(2),
        error: None,
    };
    guest.create(container, sh(command), streams).unwrap();
    let start = Request::Start("c".into());
    guest.call_within(PATIENCE, start).unwrap();
    let processes = || match guest.session.call(Request::Processes("c".into())).unwrap() {
        Reply::Processes(pids) => pids,
        other => panic!("{other:?}"),
    };
    let own = guest.cgroups.clone().unwrap().join("mote/c");
    let moved = own.join("a/b/cgroup.procs");
    let deadline = Instant::now() + PATIENCE;
    while fs::read_to_string(&moved).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "nothing was moved");
        std::thread::yield_now();
    }
    let pids = processes();
    guest.stream(1).write_all(b"\n").unwrap();
    let mut pid = String::new();
    guest.stream(2).read_to_string(&mut pid).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    assert!(pids.contains(&pid), "{pids:?} without {pid}");
    let first = Target::of("c", "");
    assert_eq!(guest.exited(), (first.clone(), Status::Exited(5)));
    guest.call_within(PATIENCE, Request::Delete(first)).unwrap();
    assert!(!own.exists());
    // It is gone once the agent, whose orphan it is, has taken its end in.
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "{pid} lives");
        std::thread::yield_now();
    }
}

#[test]
fn nothing_is_made_in_a_frozen_container() {
    let Some(guest) = guest_with_cgroups() else {
        return;
    };
    let streams = Streams::default();
    let process = sh("exec sleep 1000");
    guest.create(guest.container(), process, streams).unwrap();
    let call = |request| guest.call_within(PATIENCE, request);
    let freeze = |frozen| call(Request::Freeze("c".into(), frozen)).unwrap();
    let exec = |name: &str| Request::Exec {
        target: Target::of("c", name),
        process: Box::new(sh("exit 3")),
        streams,
    };
    freeze(true);
    let refused = call(Request::Start("c".into())).unwrap_err();
    assert_eq!(refused.errno, libc::EBUSY);
    freeze(false);
    call(Request::Start("c".into())).unwrap();
    freeze(true);
    assert_eq!(call(exec("one")).unwrap_err().errno, libc::EBUSY);
    freeze(false);
    call(exec("one")).unwrap();
    assert_eq!(guest.exited(), (Target::of("c", "one"), Status::Exited(3)));
    // A frozen one can be ended.
    freeze(true);
    guest.end();
}

#[test]
fn a_link_where_a_device_should_be_is_left_alone() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let Some(guest) = guest() else { return };
    let outside = guest.folder.path().join("outside");
    fs::write(&outside, "secret").unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o600)).unwrap();
    let root = guest.folder.path().join("root");
    fs::create_dir_all(root.join("own")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("own/link")).unwrap();
    fs::write(root.join("own/file"), "").unwrap();
    let with = |path: &str| {
        let mut container = guest.container();
        container.devices = vec![container::Device {
            path: path.to_owned(),
            mode: libc::S_IFCHR | 0o666,
            numbers: (1, 3),
            owner: (0, 0),
        }];
        guest.create(container, sh("true"), Streams::default())
    };
    for path in ["/own/link", "/own/file"] {
        assert_eq!(with(path).unwrap_err().errno, libc::EEXIST, "{path}");
    }
    let mode = fs::metadata(&outside).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // The same device is none to make; in a folder of the host's there is one.
    with("/dev/null").unwrap();
    let first = Target::of("c", "");
    guest
        .call_within(PATIENCE, Request::Start("c".into()))
        .unwrap();
    guest.exited();
    guest.call_within(PATIENCE, Request::Delete(first)).unwrap();
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } == 0 {
        with("/own/null").unwrap();
        let made = fs::metadata(root.join("own/null")).unwrap();
        assert!(made.file_type().is_char_device());
        assert_eq!(made.permissions().mode() & 0o7777, 0o666);
    }
}

#[test]
fn without_dev_null_there_is_no_process_with_the_agents_streams() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    container.mounts.retain(|mount| mount.target != "/dev");
    let refused = guest.create(container.clone(), sh("true"), Streams::default());
    let message = refused.unwrap_err().message;
    assert!(message.contains("/dev/null"), "{message}");
    // It isn't needed where all three lead somewhere.
    let streams = Streams {
        input: Some(1),
        output: Some(2),
        error: Some(3),
    };
    guest.create(container, sh("true"), streams).unwrap();
    guest.end();
}
