//! A process of a container, from a copy of the agent up to where it runs its program.
//!
//! The copy tells how it is by a socket, and waits there for its cues: `placed` in its cgroup, `go`. Nothing of the
//! agent's is open in the program that it runs.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libc::{c_int, pid_t};
use mote_agent_protocol::{Container, Process};

use crate::cgroup::Cgroup;
use crate::container::{self, Joined};
use crate::error::{Error, Result};
use crate::paths::Root;
use crate::{rights, sys, terminal, users};

/// Cues to the copy, and what it says.
const PLACED: u8 = b'p';
const GO: u8 = b'g';
const READY: u8 = b'r';
const FAILED: u8 = b'e';

/// Where programs with no slash are looked for where their environment has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a copy may take to be ready, and to start its program. One that a container stops would hold up all others,
/// and a host that gets no answer for 30 s ends the guest; on a host that is busy with other guests, making a
/// container's mounts has taken seconds.
const TO_BE_READY: Duration = Duration::from_secs(20);
const TO_START: Duration = Duration::from_secs(8);

/// What a process is to be.
pub struct Plan<'a> {
    pub container: &'a Container,
    pub process: &'a Process,
    /// Its container is made with it.
    pub is_first: bool,
    /// Namespaces of others.
    pub joined: Joined,
    pub cgroup: Option<&'a Cgroup>,
    /// Whether its standard streams lead anywhere; output and error are the same with a terminal.
    pub streams: [bool; 3],
}

/// A process that waits for [`Spawned::start`].
#[derive(Debug)]
pub struct Spawned {
    pub pid: pid_t,
    socket: UnixStream,
    /// The other end of its terminal.
    pub terminal: Option<OwnedFd>,
    /// The other ends of its standard streams.
    pub ends: [Option<OwnedFd>; 3],
}

/// Makes it, up to where it would run its program.
pub fn spawn(plan: &Plan) -> Result<Spawned> {
    container::check_namespaces(plan.container)?;
    let (ours, theirs) = UnixStream::pair().map_err(Error::of("a pair of sockets"))?;
    let theirs = OwnedFd::from(theirs);
    let mut ends = [None, None, None];
    let mut inner = [None, None, None];
    if plan.process.terminal.is_none() {
        for (index, wanted) in plan.streams.into_iter().enumerate() {
            if !wanted {
                continue;
            }
            let (read, write) = sys::pipe().map_err(Error::of("a pipe"))?;
            let (end, of_process) = if index == 0 {
                (write, read)
            } else {
                (read, write)
            };
            sys::set_nonblocking(&end).map_err(Error::of("a pipe"))?;
            (ends[index], inner[index]) = (Some(end), Some(of_process));
        }
    }
    let flags = match plan.is_first {
        true => container::new_pid_namespace(plan.container),
        false => 0,
    };
    // The copy has all that the agent has, and is in a container before it has given anything up: none of that is for
    // others to read or to take. Set here, since the copy has it from the first moment then; a program's start ends it.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(Error::of("dumpable"))?;
    let entered = plan.joined.enter_pid_namespace()?;
    // SAFETY: the agent has one thread.
    let pid = unsafe { sys::fork(flags) };
    if let Ok(0) = pid {
        let streams = inner.iter().flatten().map(AsRawFd::as_raw_fd);
        let kept = streams.chain([theirs.as_raw_fd()]);
        let mut kept: Vec<_> = kept.chain(plan.joined.fds()).collect();
        // SAFETY: the copy uses nothing but these, and ends without dropping what it doesn't.
        let closed = unsafe { sys::close_others(&mut kept) };
        let closed = closed.map_err(Error::of("closing the agent's files"));
        let error = match closed.and_then(|()| become_program(plan, &theirs, &inner)) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        report(&theirs, &error);
        // SAFETY: ends this copy at once, with nothing of the agent's run.
        unsafe { libc::_exit(127) }
    }
    drop((theirs, inner, entered)); // or the ends of these would never come
    let pid = pid.map_err(Error::of("fork"))?;
    let mut spawned = Spawned {
        pid,
        socket: ours,
        terminal: None,
        ends,
    };
    if let Err(error) = spawned.prepare(plan) {
        // It may be stopped, or frozen.
        let _ = sys::kill(pid, libc::SIGKILL);
        return Err(error);
    }
    Ok(spawned)
}

impl Spawned {
    /// Places it in its cgroup, and waits until it is ready.
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        plan.cgroup
            .map_or(Ok(()), |cgroup| cgroup.place(self.pid))?;
        self.cue(PLACED, TO_BE_READY)?;
        match terminal::receive(&self.socket) {
            Ok(Some((READY, terminal))) => {
                if let Some(terminal) = &terminal {
                    sys::set_nonblocking(terminal).map_err(Error::of("a terminal"))?;
                }
                self.terminal = terminal;
                Ok(())
            }
            Ok(Some(_)) => Err(self.failure()),
            Ok(None) => Err(Error::new("the process ended before it was ready", 0)),
            Err(_) => Err(Error::new(
                "the process isn't ready in time",
                libc::ETIMEDOUT,
            )),
        }
    }

    /// Has it run its program.
    pub fn start(&mut self) -> Result<()> {
        self.cue(GO, TO_START)?;
        // The socket closes as the program begins.
        match terminal::receive(&self.socket) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.failure()),
            Err(_) => {
                let _ = sys::kill(self.pid, libc::SIGKILL);
                let message = "the process doesn't start in time";
                Err(Error::new(message, libc::ETIMEDOUT))
            }
        }
    }

    /// With what may be taken to answer it.
    fn cue(&self, cue: u8, patience: Duration) -> Result<()> {
        let set = self.socket.set_read_timeout(Some(patience));
        set.map_err(Error::of("a pair of sockets"))?;
        terminal::send(&self.socket, cue, None).map_err(Error::of("the process has ended"))
    }

    /// What the copy said after [`FAILED`], with the same write.
    fn failure(&self) -> Error {
        let mut bytes = [0; 4096];
        let count = sys::read(&self.socket, &mut bytes).unwrap_or(0);
        match bytes[..count].split_first_chunk() {
            Some((errno, text)) => {
                Error::new(String::from_utf8_lossy(text), i32::from_ne_bytes(*errno))
            }
            None => Error::new("the process can't be made", 0),
        }
    }
}

fn report(socket: &OwnedFd, error: &Error) {
    let errno = error.0.errno.to_ne_bytes();
    let bytes = [&[FAILED], &errno[..], error.0.message.as_bytes()].concat();
    let _ = sys::write(socket, &bytes);
}

fn wait_for(cue: u8, socket: &OwnedFd) -> Result<()> {
    match terminal::receive(socket) {
        Ok(Some((byte, _))) if byte == cue => Ok(()),
        // Whoever would say it is gone.
        _ => Err(Error::new("the agent has ended", 0)),
    }
}

enum Never {}

/// In the copy: never comes back but with an error.
fn become_program(plan: &Plan, socket: &OwnedFd, streams: &[Option<OwnedFd>; 3]) -> Result<Never> {
    wait_for(PLACED, socket)?;
    // SAFETY: takes nothing.
    unsafe { libc::setsid() };
    plan.joined.enter()?;
    match plan.is_first {
        true => container::make(plan.container)?,
        false => container::enter(plan.container)?,
    }
    let process = plan.process;
    let ids = users::find(&Root::open("/")?, &process.user)?;
    let mut handed = None;
    match process.terminal {
        Some(window) => {
            let (host, own) = terminal::open()?;
            terminal::control(&own)?;
            terminal::resize(&own, window)?;
            // SAFETY: takes numbers.
            unsafe { libc::fchown(own.as_raw_fd(), ids.user, u32::MAX) };
            for number in 0..3 {
                sys::dup_onto(own.as_raw_fd(), number).map_err(Error::of("a terminal"))?;
            }
            handed = Some(host);
        }
        None => {
            let mut none = None;
            for (number, stream) in streams.iter().enumerate() {
                let fd = match stream {
                    Some(stream) => {
                        // The program may open it anew, by /dev/stdout.
                        // SAFETY: takes numbers.
                        unsafe { libc::fchown(stream.as_raw_fd(), ids.user, ids.group) };
                        stream.as_raw_fd()
                    }
                    // Never the agent's own.
                    None => none.insert(nothing()?).as_raw_fd(),
                };
                sys::dup_onto(fd, number as c_int).map_err(Error::of("a stream"))?;
            }
        }
    }
    let folder = if process.folder.is_empty() {
        "/"
    } else {
        &process.folder
    };
    if !fs::metadata(folder).is_ok_and(|found| found.is_dir()) {
        fs::create_dir_all(folder).map_err(Error::of(format_args!("folder {folder}")))?;
    }
    std::env::set_current_dir(folder).map_err(Error::of(format_args!("folder {folder}")))?;
    let filter = process.seccomp.as_deref();
    // Who may gain new privileges has to have some to set a filter (seccomp(2)). Then the calls up to the program's start are
    // in it, too.
    let (early, late) = match process.no_new_privileges {
        true => (None, filter),
        false => (filter, None),
    };
    early.map_or(Ok(()), rights::filter)?;
    rights::set(process, &ids)?;
    sys::default_signals().map_err(Error::of("signals"))?;
    terminal::send(socket, READY, handed.as_ref()).map_err(Error::of("the agent"))?;
    drop(handed);
    wait_for(GO, socket)?;
    late.map_or(Ok(()), rights::filter)?;
    run(process, ids.home.as_deref())
}

fn nothing() -> Result<File> {
    let none = File::options().read(true).write(true).open("/dev/null");
    none.map_err(Error::of("/dev/null, for a stream that leads nowhere"))
}

/// Runs the program, found as a shell would.
fn run(process: &Process, home: Option<&str>) -> Result<Never> {
    let Some(program) = process.arguments.first().filter(|name| !name.is_empty()) else {
        return Err(Error::new("there is no program to run", libc::EINVAL));
    };
    let mut environment = process.environment.clone();
    let of = |name: &str| {
        let mut of = process.environment.iter().rev();
        of.find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    };
    if of("HOME").is_none()
        && let Some(home) = home
    {
        environment.push(format!("HOME={home}"));
    }
    let paths = of("PATH").unwrap_or(PATH);
    let places: Vec<String> = match program.contains('/') {
        true => vec![program.clone()],
        false => paths
            .split(':')
            .map(|folder| match folder {
                "" => format!("./{program}"),
                folder => format!("{folder}/{program}"),
            })
            .collect(),
    };
    let strings = |list: &[String]| list.iter().map(|text| sys::c(text)).collect::<Vec<_>>();
    let (arguments, environment) = (strings(&process.arguments), strings(&environment));
    let pointers = |list: &[CString]| {
        let pointers = list.iter().map(|text| text.as_ptr());
        pointers.chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    let mut last = libc::ENOENT;
    for place in places {
        let path = sys::c(&place);
        // SAFETY: strings and lists of them with their ends, which live through the call.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(errno) => last = errno,
            None => {}
        }
    }
    let why = match last {
        libc::ENOENT => "not found".to_owned(),
        errno => {
            let error = std::io::Error::from_raw_os_error(errno);
            let text = error.to_string();
            text.split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned()
        }
    };
    Err(Error::new(format!("{program}: {why}"), last))
}
