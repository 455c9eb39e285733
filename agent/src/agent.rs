//! The agent's loop: requests, streams, and processes that end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use mote_agent_protocol::message::{MOST_NAME, MOST_PIDS, Reply, State, Status, Streams};
use mote_agent_protocol::{
    Call, Container, Event, FromAgent, Hello, Opening, Process, Request, Target,
};

use crate::cgroup::{self, Cgroup};
use crate::connection::Control;
use crate::container::{self, Joined};
use crate::error::{Error, Result};
use crate::host::{self, Host};
use crate::made::{Made, Own};
use crate::process::{self, Plan};
use crate::pump::Pump;
use crate::{setup, stats, sys, terminal};

pub struct Agent {
    host: Host,
    control: Control,
    listener: Option<OwnedFd>,
    /// Connections of the host's that haven't said yet what they are, and what they have said.
    arriving: Vec<(OwnedFd, Vec<u8>)>,
    signals: OwnedFd,
    containers: BTreeMap<String, Made>,
    streams: Vec<Stream>,
    ending: bool,
}

struct Stream {
    of: Target,
    is_input: bool,
    pump: Pump,
}

impl Agent {
    /// Calls the host.
    pub fn new(host: Host) -> Result<Self> {
        // Orphans are its own children, also where it isn't process 1.
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map_err(Error::of("subreaper"))?;
        let signals = sys::block_signals(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]);
        let mut agent = Agent {
            listener: host.listen().map_err(Error::of("listening"))?,
            control: Control::default(),
            arriving: Vec::new(),
            signals: signals.map_err(Error::of("signals"))?,
            containers: BTreeMap::new(),
            streams: Vec::new(),
            ending: false,
            host,
        };
        let socket = agent.host.call().map_err(Error::of("calling the host"))?;
        agent.control.take(socket, hello());
        Ok(agent)
    }

    /// Serves until the host wants the end.
    pub fn run(&mut self) -> Result<()> {
        let none = libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        };
        let mut polled = Vec::new();
        while !(self.ending && self.control.is_flushed()) {
            polled.clear();
            polled.push(self.control.polled().unwrap_or(none));
            polled.push(waiting(&self.signals, libc::POLLIN));
            let listener = self.listener.as_ref();
            polled.push(listener.map_or(none, |fd| waiting(fd, libc::POLLIN)));
            let streams = self.streams.iter().flat_map(|stream| stream.pump.polled());
            polled.extend(streams);
            let arriving = self.arriving.iter();
            polled.extend(arriving.map(|(fd, _)| waiting(fd, libc::POLLIN)));
            let memory = self.containers.values().filter_map(|made| {
                let events = made.cgroup.as_ref()?.events()?;
                Some(waiting(events, libc::POLLPRI))
            });
            polled.extend(memory);
            sys::poll(&mut polled, -1).map_err(Error::of("poll"))?;

            let (first, rest) = polled.split_at(3);
            let (streams, rest) = rest.split_at(2 * self.streams.len());
            for (stream, ready) in self.streams.iter_mut().zip(streams.chunks_exact(2)) {
                if ready.iter().any(|fd| fd.revents != 0) {
                    stream.pump.go([ready[0], ready[1]]);
                }
            }
            self.streams.retain(|stream| !stream.pump.is_done());
            let is_ready = |fd: &libc::pollfd| fd.revents != 0;
            if rest.iter().any(is_ready) {
                self.hear_arriving();
                self.tell_of_memory();
            }
            if is_ready(&first[1]) {
                self.reap();
            }
            if is_ready(&first[2])
                && let Some(listener) = &self.listener
                && let Ok(socket) = host::accept(listener)
            {
                self.arriving.push((socket, Vec::new()));
            }
            if is_ready(&first[0]) {
                self.control.send();
                self.control.receive();
            }
            while let Some(call) = self.control.next() {
                self.serve(call);
            }
        }
        self.kill_all();
        Ok(())
    }

    /// What the host's own connections say they are. A control connection takes the earlier one's place.
    fn hear_arriving(&mut self) {
        for (socket, mut said) in std::mem::take(&mut self.arriving) {
            let mut bytes = [0; 16];
            let room = bytes.len() - said.len();
            match sys::read(&socket, &mut bytes[..room]) {
                Ok(count) if count > 0 => said.extend(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => continue,
            }
            if said.len() < bytes.len() {
                self.arriving.push((socket, said));
            } else if let Ok(Opening::Control) = Opening::read(&mut said.as_slice()) {
                self.control.take(socket, hello());
            }
        }
    }

    fn tell_of_memory(&mut self) {
        for (name, made) in &mut self.containers {
            if made.cgroup.as_mut().is_some_and(Cgroup::was_short) {
                self.control.tell(Event::OutOfMemory(name.clone()));
            }
        }
    }

    /// Takes in all children that have ended, whoever's they were.
    fn reap(&mut self) {
        let mut bytes = [0; 1024];
        while sys::read(&self.signals, &mut bytes).is_ok() {}
        self.tell_of_memory();
        while let Some((pid, status)) = sys::reap() {
            let status = match libc::WIFSIGNALED(status) {
                true => Status::Killed(libc::WTERMSIG(status)),
                false => Status::Exited(libc::WEXITSTATUS(status) as u8),
            };
            self.ended(pid, status);
        }
    }

    fn ended(&mut self, pid: i32, status: Status) {
        let is_it = |own: &Own| match own.state {
            State::Created(of) | State::Running(of) => of == pid,
            State::Ended(_) => false,
        };
        for (name, made) in &mut self.containers {
            for (process, own) in &mut made.processes {
                if !is_it(own) {
                    continue;
                }
                own.state = State::Ended(status);
                own.waiting = None;
                own.terminal = None;
                let target = Target::of(name, process);
                for stream in &mut self.streams {
                    if stream.is_input && stream.of == target {
                        stream.pump.end();
                    }
                }
                if process.is_empty() {
                    // As in a pid namespace: a container ends with its first process.
                    made.kill(libc::SIGKILL);
                }
                return self.control.tell(Event::Exited(target, status));
            }
        }
    }

    fn serve(&mut self, Call { id, request }: Call) {
        if let Request::Acknowledge(number) = request {
            self.control.acknowledge(number);
        }
        let answer = self.answer(request).map_err(|error| error.0);
        self.control.say(&FromAgent::Answer(id, answer));
    }

    fn answer(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Setup(given) => setup::set_up(&given)?,
            Request::Create {
                name,
                container,
                process,
                streams,
            } => return self.create(name, *container, &process, streams),
            Request::Start(name) => return self.start(&Target::of(&name, "")),
            Request::Exec {
                target,
                process,
                streams,
            } => {
                check_name(&target.process)?;
                self.make(&target, &process, streams)?;
                return self.start(&target);
            }
            Request::Signal {
                target,
                signal,
                all,
            } => {
                let made = self.container(&target.container)?;
                if all {
                    made.kill(signal);
                } else if let State::Created(pid) | State::Running(pid) =
                    made.process(&target)?.state
                {
                    sys::kill(pid, signal).map_err(Error::of(format_args!("signal {signal}")))?;
                } else {
                    return Err(Error::new("the process has ended", libc::ESRCH));
                }
            }
            Request::Resize(target, window) => {
                let made = self.container(&target.container)?;
                match &made.process(&target)?.terminal {
                    Some(own) => terminal::resize(own, window)?,
                    None => return Err(Error::new("the process has no terminal", libc::ENOTTY)),
                }
            }
            Request::CloseInput(target) => {
                for stream in &mut self.streams {
                    if stream.is_input && stream.of == target {
                        stream.pump.end();
                    }
                }
            }
            Request::State(target) => {
                let made = self.container(&target.container)?;
                return Ok(Reply::State(made.process(&target)?.state));
            }
            Request::Processes(name) => {
                let mut pids = self.container(&name)?.pids();
                pids.truncate(MOST_PIDS);
                return Ok(Reply::Processes(pids));
            }
            Request::Stats(name) => {
                let made = self.container(&name)?;
                return Ok(Reply::Stats(match &made.cgroup {
                    Some(cgroup) => stats::of_cgroup(cgroup),
                    None => stats::of_processes(&made.pids()),
                }));
            }
            Request::Freeze(name, freeze) => match &self.container(&name)?.cgroup {
                Some(cgroup) => cgroup.freeze(freeze)?,
                None => {
                    let what = "freezing: the guest's kernel has no cgroup v2";
                    return Err(Error::new(what, libc::ENOSYS));
                }
            },
            Request::Delete(target) => self.delete(&target)?,
            Request::Acknowledge(_) => {}
            Request::Shutdown => self.ending = true,
        }
        Ok(Reply::Done)
    }

    fn container(&self, name: &str) -> Result<&Made> {
        let none = || Error::new(format!("container {name}: there is none"), libc::ENOENT);
        self.containers.get(name).ok_or_else(none)
    }

    fn create(
        &mut self,
        name: String,
        container: Container,
        process: &Process,
        streams: Streams,
    ) -> Result<Reply> {
        check_name(&name)?;
        if self.containers.contains_key(&name) {
            let message = format!("container {name}: is there already");
            return Err(Error::new(message, libc::EEXIST));
        }
        let made = Made {
            cgroup: Cgroup::make(&name, &container.limits)?,
            container,
            processes: BTreeMap::new(),
        };
        self.containers.insert(name.clone(), made);
        let result = self.make(&Target::of(&name, ""), process, streams);
        if result.is_err()
            && let Some(made) = self.containers.remove(&name)
        {
            made.clear();
        }
        Ok(Reply::Pid(result?))
    }

    /// A process, up to where it would run its program.
    fn make(&mut self, target: &Target, process: &Process, streams: Streams) -> Result<i32> {
        let made = self.container(&target.container)?;
        made.check_thawed()?;
        let is_first = target.process.is_empty();
        if made.processes.contains_key(&target.process) {
            let message = format!("process {}: is there already", target.process);
            return Err(Error::new(message, libc::EEXIST));
        }
        let mut joined = Joined::default();
        for namespace in &made.container.namespaces {
            let of = match (&namespace.of, is_first) {
                (Some(other), _) => self.container(other)?.first()?,
                (None, true) => continue,
                (None, false) => made.first()?,
            };
            joined.add(of, &namespace.kind)?;
        }
        let has_terminal = process.terminal.is_some();
        let numbers = [streams.input, streams.output, streams.error];
        let mut sockets = [None, None, None];
        for (index, number) in numbers.into_iter().enumerate() {
            if let Some(number) = number.filter(|number| *number != 0)
                && !(has_terminal && index == 2)
            {
                let socket = self.host.connect(Opening::Stream(number));
                sockets[index] = Some(socket.map_err(Error::of("a stream to the host"))?);
            }
        }
        let plan = Plan {
            container: &made.container,
            process,
            is_first,
            joined,
            cgroup: made.cgroup.as_ref(),
            streams: sockets.each_ref().map(Option::is_some),
        };
        let mut spawned = process::spawn(&plan)?;
        let pid = spawned.pid;
        let terminal = spawned.terminal.take().map(Rc::new);
        for (index, socket) in sockets.into_iter().enumerate() {
            let end = match &terminal {
                Some(terminal) => Some(terminal.clone()),
                None => spawned.ends[index].take().map(Rc::new),
            };
            let (Some(socket), Some(end)) = (socket.map(Rc::new), end) else {
                continue;
            };
            let is_input = index == 0;
            let pump = match is_input {
                true => Pump::new(socket, end, true),
                false => Pump::new(end, socket, false),
            };
            self.streams.push(Stream {
                of: target.clone(),
                is_input,
                pump,
            });
        }
        let own = Own {
            state: State::Created(pid),
            waiting: Some(spawned),
            terminal,
        };
        if let Some(made) = self.containers.get_mut(&target.container) {
            made.processes.insert(target.process.clone(), own);
        }
        Ok(pid)
    }

    /// Has a process run its program. One that can't ends with the status of shells for that, 126 or 127, which the
    /// refusal comes before.
    fn start(&mut self, target: &Target) -> Result<Reply> {
        let none = || Error::new("there is no such process", libc::ENOENT);
        self.container(&target.container)?.check_thawed()?;
        let made = self.containers.get_mut(&target.container);
        let own = made.and_then(|made| made.processes.get_mut(&target.process));
        let own = own.ok_or_else(none)?;
        match (own.state, own.waiting.take()) {
            (State::Created(pid), Some(mut waiting)) => {
                waiting.start()?;
                own.state = State::Running(pid);
                Ok(Reply::Pid(pid))
            }
            _ => Err(Error::new("the process has been started", libc::EINVAL)),
        }
    }

    fn delete(&mut self, target: &Target) -> Result<()> {
        let made = self.container(&target.container)?;
        if !matches!(made.process(target)?.state, State::Ended(_)) {
            return Err(Error::new("the process has not ended", libc::EBUSY));
        }
        if !target.process.is_empty() {
            if let Some(made) = self.containers.get_mut(&target.container) {
                made.processes.remove(&target.process);
            }
        } else if let Some(made) = self.containers.remove(&target.container) {
            made.clear();
        }
        Ok(())
    }

    /// Ends all processes of all containers.
    fn kill_all(&mut self) {
        for made in self.containers.values() {
            made.kill(libc::SIGKILL);
        }
        self.containers.values().for_each(Made::clear);
    }
}

fn waiting(fd: &impl AsRawFd, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}

/// Names are parts of paths.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = !name.is_empty() && name.len() <= MOST_NAME && name.chars().all(plain);
    match good && !name.starts_with('.') {
        true => Ok(()),
        false => Err(Error::new(
            format!("the name {name:?} is none"),
            libc::EINVAL,
        )),
    }
}

fn hello() -> Hello {
    let mut kernel = String::new();
    if let Ok(file) = File::open("/proc/sys/kernel/osrelease") {
        let _ = file.take(128).read_to_string(&mut kernel);
    }
    Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.trim().to_owned(),
        namespaces: container::kinds().map(str::to_owned).collect(),
        controllers: cgroup::controllers(),
        seccomp: std::path::Path::new("/proc/sys/kernel/seccomp").exists(),
    }
}
