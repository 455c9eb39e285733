//! The containers of one VM: what containerd asks of them, one function for each request of the task service.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use containerd_shim::api::Status as State;
use containerd_shim::event::Event as Topic;
use containerd_shim::protos::events::task::{
    TaskExecAdded, TaskExecStarted, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim::protos::protobuf::MessageDyn;
use containerd_shim::{Error, Result};
use log::warn;
use mote_agent_protocol::container::Window;
use mote_agent_protocol::message::{Reply, Stats};
use mote_agent_protocol::setup::{Setup, Step};
use mote_agent_protocol::{Request, Target};
use oci_spec::runtime::{LinuxSeccomp, Spec};

use crate::events::Events;
use crate::hooks::{self, Moment};
use crate::logger::Owner;
use crate::machine::Machine;
use crate::process::{Ended, Process, Stage};
use crate::streams::{Paths, Streams};
use crate::{lock, spec};

/// All of it.
#[derive(Debug)]
pub struct Pod {
    pub(crate) namespace: String,
    /// What the VM is known by: the pod's sandbox container, or the only one.
    pub(crate) name: String,
    events: Events,
    /// Held while a container is made: one at a time.
    pub(crate) making: Mutex<()>,
    pub(crate) inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub machine: Option<Arc<Machine>>,
    pub containers: HashMap<String, Container>,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub bundle: String,
    pub machine: Arc<Machine>,
    /// By containerd's name of it; the first has none.
    pub processes: HashMap<String, Arc<Process>>,
    pub seccomp: Option<LinuxSeccomp>,
    /// Where it is in the guest.
    pub place: String,
    /// What is shared for it, as paths in the guest.
    pub shared: Vec<String>,
    /// Its own folder on the host.
    pub work: PathBuf,
    pub is_paused: bool,
    /// When containerd was told last that its memory is used up.
    pub was_short: Option<Instant>,
}

/// How a process is, as containerd wants to know it.
pub struct Told {
    pub bundle: String,
    pub pid: u32,
    pub state: State,
    pub paths: Paths,
    pub ended: Option<Ended>,
}

/// A refusal that the guest's agent, or its end, is the reason of.
pub(crate) fn refused(error: impl std::fmt::Display) -> Error {
    Error::FailedPreconditionError(error.to_string())
}

impl Pod {
    pub fn new(namespace: String, name: String, events: Events) -> Self {
        Pod {
            namespace,
            name,
            events,
            making: Mutex::default(),
            inner: Mutex::default(),
        }
    }

    pub(crate) fn tell<E: Topic + MessageDyn>(&self, event: E) {
        self.events.tell(event);
    }

    pub(crate) fn owner(&self, id: &str) -> Owner {
        Owner {
            namespace: self.namespace.clone(),
            container: id.to_owned(),
        }
    }

    pub(crate) fn container<T>(
        &self,
        id: &str,
        of: impl FnOnce(&mut Container) -> Result<T>,
    ) -> Result<T> {
        let mut inner = lock(&self.inner);
        match inner.containers.get_mut(id) {
            Some(container) => of(container),
            None => Err(Error::NotFoundError(format!("container {id}"))),
        }
    }

    pub(crate) fn process(&self, id: &str, exec: &str) -> Result<(Arc<Machine>, Arc<Process>)> {
        self.container(id, |container| {
            let process = container.processes.get(exec).cloned();
            let process = process
                .ok_or_else(|| Error::NotFoundError(format!("process {exec} of container {id}")))?;
            Ok((container.machine.clone(), process))
        })
    }

    /// Has a process run its program: one that `exec` names is made first.
    pub fn start(&self, id: &str, exec: &str) -> Result<u32> {
        let (machine, process) = self.process(id, exec)?;
        let mut stage = process.hold();
        if *stage != Stage::Created {
            return Err(refused("the process has been started"));
        }
        let pid = machine.vm.pid();
        let begin = || match &process.spec {
            None => {
                machine.join_network()?;
                machine.call(Request::Start(id.to_owned())).map(drop)
            }
            Some(spec) => {
                let seccomp = self.container(id, |container| Ok(container.seccomp.clone()))?;
                let asked = spec::process(spec, seccomp.as_ref(), machine.vm.hello(), None);
                let asked = asked.map_err(|e| Error::InvalidArgument(e.to_string()))?;
                let opening = process.streams.open(machine.vm.expected());
                let opening = opening.map_err(refused)?;
                let called = machine.call(Request::Exec {
                    target: Target::of(id, exec),
                    process: Box::new(asked),
                    streams: opening.numbers(),
                });
                called.map(|_| opening.run(&process.streams))
            }
        };
        if let Err(error) = begin() {
            // As shells have it; nobody is told of the end of what never began.
            *stage = Stage::Ended(Ended::never_run());
            process.wake();
            return Err(error);
        }
        *stage = Stage::Running;
        match exec {
            "" => {
                self.tell(TaskStart {
                    container_id: id.to_owned(),
                    pid,
                    ..TaskStart::default()
                });
                // What comes next may take as long as it likes; an end may be told.
                drop(stage);
                let bundle = self.container(id, |container| Ok(container.bundle.clone()))?;
                run_hooks(Moment::Started, id, &bundle, pid);
            }
            exec => self.tell(TaskExecStarted {
                container_id: id.to_owned(),
                exec_id: exec.to_owned(),
                pid,
                ..TaskExecStarted::default()
            }),
        }
        Ok(pid)
    }

    /// Takes note of a further process.
    pub fn exec(
        &self,
        id: &str,
        exec: &str,
        spec: oci_spec::runtime::Process,
        mut paths: Paths,
    ) -> Result<()> {
        paths.owner = self.owner(id);
        let streams = Streams::new(paths).map_err(refused)?;
        self.container(id, |container| {
            if container.processes.contains_key(exec) {
                let message = format!("process {exec} of container {id} is there already");
                return Err(refused(message));
            }
            let process = Process::new(streams, Some(spec));
            container
                .processes
                .insert(exec.to_owned(), Arc::new(process));
            Ok(())
        })?;
        self.tell(TaskExecAdded {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..TaskExecAdded::default()
        });
        Ok(())
    }

    pub fn state(&self, id: &str, exec: &str) -> Result<Told> {
        let (machine, process) = self.process(id, exec)?;
        let (bundle, is_paused) = self.container(id, |container| {
            Ok((container.bundle.clone(), container.is_paused))
        })?;
        let (state, ended) = match process.stage() {
            Stage::Created => (State::CREATED, None),
            Stage::Running if is_paused => (State::PAUSED, None),
            Stage::Running => (State::RUNNING, None),
            Stage::Ended(ended) => (State::STOPPED, Some(ended)),
        };
        Ok(Told {
            bundle,
            pid: machine.vm.pid(),
            state,
            paths: process.streams.paths().clone(),
            ended,
        })
    }

    /// Waits for a process's end.
    pub fn wait(&self, id: &str, exec: &str) -> Result<Ended> {
        Ok(self.process(id, exec)?.1.wait())
    }

    pub fn resize(&self, id: &str, exec: &str, columns: u32, rows: u32) -> Result<()> {
        let (machine, process) = self.process(id, exec)?;
        if process.spec.is_some() && process.stage() == Stage::Created {
            return Err(refused("the process hasn't been started"));
        }
        let size = |given: u32| u16::try_from(given).unwrap_or(u16::MAX);
        let window = Window {
            columns: size(columns),
            rows: size(rows),
        };
        let called = machine.call(Request::Resize(Target::of(id, exec), window));
        called.map(drop)
    }

    pub fn close_input(&self, id: &str, exec: &str) -> Result<()> {
        self.process(id, exec)?.1.streams.close_input();
        Ok(())
    }

    /// The processes' numbers in the guest.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let (machine, _) = self.process(id, "")?;
        match machine.call(Request::Processes(id.to_owned())) {
            Ok(Reply::Processes(pids)) => Ok(pids
                .into_iter()
                .filter_map(|pid| pid.try_into().ok())
                .collect()),
            Ok(_) => Err(refused("the guest's agent answers another question")),
            Err(error) => Err(error),
        }
    }

    pub fn stats(&self, id: &str) -> Result<Stats> {
        let (machine, _) = self.process(id, "")?;
        match machine.call(Request::Stats(id.to_owned())) {
            Ok(Reply::Stats(stats)) => Ok(stats),
            Ok(_) => Err(refused("the guest's agent answers another question")),
            Err(error) => Err(error),
        }
    }

    /// Stops a container, or has it go on: with the VM, where it is the only one in it.
    pub fn pause(&self, id: &str, pause: bool) -> Result<()> {
        let (machine, _) = self.process(id, "")?;
        let is_only = lock(&self.inner).containers.len() == 1;
        match is_only {
            true => machine.pause(pause)?,
            false => {
                machine.call(Request::Freeze(id.to_owned(), pause))?;
            }
        }
        self.container(id, |container| {
            container.is_paused = pause;
            Ok(())
        })?;
        let container_id = id.to_owned();
        match pause {
            true => self.tell(TaskPaused {
                container_id,
                ..TaskPaused::default()
            }),
            false => self.tell(TaskResumed {
                container_id,
                ..TaskResumed::default()
            }),
        }
        Ok(())
    }

    /// Waits until containerd knows all that there was to tell, if that takes no longer.
    pub fn flush(&self, patience: Duration) {
        self.events.flush(patience);
    }

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        lock(&self.inner).containers.is_empty()
    }
}

/// Those whose failure changes nothing any more.
pub(crate) fn run_hooks(moment: Moment, id: &str, bundle: &str, pid: u32) {
    let bundle = Path::new(bundle);
    let ran = match Spec::load(bundle.join("config.json")) {
        Ok(spec) => hooks::run(&spec, moment, id, bundle, pid),
        Err(error) => Err(Error::Other(error.to_string())),
    };
    if let Err(error) = ran {
        warn!("{error}");
    }
}

impl Container {
    /// Takes away what there is of it in the guest and on the host.
    pub(crate) fn clear(self) {
        let steps = vec![Step::Unmount(self.place.clone())];
        if let Err(error) = self.machine.call(Request::Setup(Setup { steps })) {
            log::debug!("the guest's mounts of a container: {error}");
        }
        if let Some(share) = &self.machine.host.share {
            self.shared.iter().for_each(|path| share.remove(path));
        }
        crate::rootfs::cleanup(&self.work);
    }
}
