//! An agent as an ordinary process in namespaces of its own, with a Unix socket for a host.

#![allow(dead_code)]

#[path = "../../../tests/common/kinds.rs"]
mod kinds;

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mote_agent_protocol::container::Namespace;
use mote_agent_protocol::host::Session;
use mote_agent_protocol::message::{Status, Streams};
use mote_agent_protocol::*;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// An agent, and its host's end.
pub struct Guest {
    pub agent: Child,
    pub session: Arc<Session>,
    events: Receiver<(u64, Event)>,
    streams: Arc<Mutex<Vec<(u64, UnixStream)>>>,
    pub folder: tempfile::TempDir,
    /// What is the root of cgroups to it.
    pub cgroups: Option<PathBuf>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        if let Some(cgroups) = &self.cgroups {
            let _ = fs::write(cgroups.join("cgroup.kill"), "1");
            let deadline = Instant::now() + Duration::from_secs(5);
            let folders = [&*cgroups.join("mote/c"), &*cgroups.join("mote"), cgroups];
            while cgroups.exists() && Instant::now() < deadline {
                folders
                    .iter()
                    .for_each(|folder| drop(fs::remove_dir(folder)));
                thread::yield_now();
            }
        }
    }
}

/// Starts an agent, if this host lets its processes have namespaces.
pub fn guest() -> Option<Guest> {
    start(None)
}

/// Mounts cgroups where nothing has yet, as in the emulated machine. Of two tests that do, one finds it done.
fn mount_cgroups(root: &Path) {
    if fs::read_dir(root).is_ok_and(|entries| entries.count() == 0) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "cgroup2", "none"]).arg(root);
        let _ = mount.stderr(Stdio::null()).status();
    }
}

/// One that has cgroups of version 2, if this host's tests may make one.
pub fn guest_with_cgroups() -> Option<Guest> {
    mount_cgroups(Path::new("/sys/fs/cgroup"));
    let name = format!(
        "mote-test-{}-{:?}",
        std::process::id(),
        thread::current().id()
    );
    let name = name.replace(['(', ')'], "");
    let mut roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter();
    let root = roots.find(|root| Path::new(root).join("cgroup.controllers").exists());
    let folder = Path::new(root.unwrap_or("/sys/fs/cgroup")).join(name);
    if let Err(error) = fs::create_dir(&folder) {
        let obstacle = format!("no cgroup can be made here: {error}");
        kinds::can_run("cgroup2", Some(obstacle));
        return None;
    }
    start(Some(folder))
}

/// In an agent that is being started: goes to a cgroup, which is the root of them from now on.
fn enter_cgroup(procs: &CStr) -> bool {
    let path = c"/sys/fs/cgroup".as_ptr();
    let kind = c"cgroup2".as_ptr();
    let (slave, none) = (libc::MS_REC | libc::MS_SLAVE, std::ptr::null());
    // SAFETY: strings that live through the calls.
    unsafe {
        let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if libc::write(file, c"0".as_ptr().cast(), 1) != 1
            || libc::unshare(libc::CLONE_NEWCGROUP) != 0
            || libc::mount(none, c"/".as_ptr(), none, slave, none.cast()) != 0
        {
            return false;
        }
        // A file system isn't mounted over itself; where there is none, there is nothing to take away.
        libc::umount2(path, libc::MNT_DETACH);
        libc::mount(kind, path, kind, 0, none.cast()) == 0
    }
}

fn start(cgroups: Option<PathBuf>) -> Option<Guest> {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote-agent"));
    command.arg("--host").arg(&socket).stdin(Stdio::null());
    // SAFETY: takes no pointer, and waits for nobody.
    let is_root = unsafe { libc::geteuid() } == 0;
    let user = if is_root { 0 } else { libc::CLONE_NEWUSER };
    let procs = cgroups.as_ref().map(|folder| {
        let procs = folder.join("cgroup.procs");
        CString::new(procs.into_os_string().into_encoded_bytes()).unwrap()
    });
    // SAFETY: what is done there are system calls.
    unsafe {
        command.pre_exec(move || match libc::unshare(user | libc::CLONE_NEWNS) {
            0 if procs.as_deref().is_none_or(enter_cgroup) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut agent = match command.spawn() {
        Ok(agent) => agent,
        Err(error) => {
            kinds::can_run("namespaces", Some(format!("no namespaces here: {error}")));
            return None;
        }
    };
    if !is_root {
        let of = |file: &str| format!("/proc/{}/{file}", agent.id());
        // SAFETY: these take nothing.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let _ = fs::write(of("setgroups"), "deny");
        let mapped = fs::write(of("uid_map"), format!("0 {uid} 1"))
            .and_then(|()| fs::write(of("gid_map"), format!("0 {gid} 1")));
        if let Err(error) = mapped {
            let _ = agent.kill();
            let _ = agent.wait();
            kinds::can_run(
                "namespaces",
                Some(format!("users can't be mapped here: {error}")),
            );
            return None;
        }
    }
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(Opening::read(&mut stream).unwrap(), Opening::Control);
    let (session, hello) = Session::open(stream).unwrap();
    assert!(!hello.kernel.is_empty());
    assert!(hello.namespaces.iter().any(|kind| kind == "mnt"));
    let session = Arc::new(session);
    let (sender, events) = channel();
    let serving = session.clone();
    thread::spawn(move || serving.serve(0, |number, event| drop(sender.send((number, event)))));
    let streams: Arc<Mutex<Vec<_>>> = Arc::default();
    let taken = streams.clone();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if let Ok(Opening::Stream(number)) = Opening::read(&mut stream) {
                taken.lock().unwrap().push((number, stream));
            }
        }
    });
    Some(Guest {
        agent,
        session,
        events,
        streams,
        folder,
        cgroups,
    })
}

impl Guest {
    /// The stream with this number, which the agent opens before it answers.
    pub fn stream(&self, number: u64) -> UnixStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut streams = self.streams.lock().unwrap();
            if let Some(at) = streams.iter().position(|(of, _)| *of == number) {
                return streams.remove(at).1;
            }
            drop(streams);
            assert!(Instant::now() < deadline, "no stream {number}");
            thread::yield_now();
        }
    }

    pub fn exited(&self) -> (Target, Status) {
        match self.events.recv_timeout(PATIENCE).unwrap() {
            (_, Event::Exited(target, status)) => (target, status),
            other => panic!("{other:?}"),
        }
    }

    /// What the agent says to this, in time or not at all.
    pub fn call_within(&self, time: Duration, request: Request) -> Answer {
        let (sender, answer) = channel();
        let session = self.session.clone();
        thread::spawn(move || sender.send(session.call(request)));
        match answer.recv_timeout(time).expect("no answer in time") {
            Ok(reply) => Ok(reply),
            Err(host::CallError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    pub fn create(&self, container: Container, process: Process, streams: Streams) -> Answer {
        let request = Request::Create {
            name: "c".to_owned(),
            container: Box::new(container),
            process: Box::new(process),
            streams,
        };
        self.call_within(PATIENCE, request)
    }

    /// Has the agent end, with all that it has started.
    pub fn end(mut self) {
        self.call_within(PATIENCE, Request::Shutdown).unwrap();
        assert!(self.agent.wait().unwrap().success());
    }

    /// A root with the host's programs in it, in a mount namespace of its own.
    pub fn container(&self) -> Container {
        let root = self.folder.path().join("root");
        fs::create_dir_all(&root).unwrap();
        let mut container = Container {
            root: root.to_str().unwrap().to_owned(),
            namespaces: namespaces(&["mnt", "uts", "ipc"]),
            hostname: Some("inside".to_owned()),
            ..Container::default()
        };
        for part in ["bin", "lib", "lib64", "usr", "etc", "dev", "proc"] {
            let path = format!("/{part}");
            if Path::new(&path).exists() {
                let real = fs::canonicalize(&path).unwrap();
                let real = real.to_str().unwrap();
                let options = if part == "etc" { "rbind,ro" } else { "rbind" };
                let mount = Mount::new("bind", real, &path, options);
                container.mounts.push(mount);
            }
        }
        container
            .mounts
            .push(Mount::new("tmpfs", "tmpfs", "/tmp", "mode=1777"));
        container
    }

    /// Runs a shell command to its end: its output and how it ended.
    pub fn shell(&self, container: Container, command: &str) -> (String, Status) {
        let streams = Streams {
            output: Some(1),
            ..Streams::default()
        };
        self.create(container, sh(command), streams).unwrap();
        self.session.call(Request::Start("c".into())).unwrap();
        let mut text = String::new();
        self.stream(1).read_to_string(&mut text).unwrap();
        let (target, status) = self.exited();
        assert_eq!(target, Target::of("c", ""));
        self.session.call(Request::Delete(target)).unwrap();
        (text, status)
    }
}

pub fn namespaces(kinds: &[&str]) -> Vec<Namespace> {
    let new = |kind: &&str| Namespace {
        kind: (*kind).to_owned(),
        of: None,
    };
    kinds.iter().map(new).collect()
}

pub fn sh(command: &str) -> Process {
    Process {
        arguments: ["sh", "-c", command].map(str::to_owned).to_vec(),
        environment: vec!["PATH=/usr/bin:/bin".to_owned(), "COLOUR=red".to_owned()],
        ..Process::default()
    }
}
