//! How processes and the VM end: because containerd wants it, or by themselves, which it is told.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim::protos::events::task::{TaskDelete, TaskExit, TaskOOM};
use containerd_shim::{Error, Result};
use log::{info, warn};
use mote_agent_protocol::{Event, Request, Target};

use crate::hooks::Moment;
use crate::machine::Machine;
use crate::pod::{Pod, refused, run_hooks};
use crate::process::{Ended, Process, Stage};
use crate::{lock, timestamp};

/// How long what a process wrote may take to be read, once the process is deleted.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(10);

/// How long a container may take to end once it is killed.
const DEATH_PATIENCE: Duration = Duration::from_secs(30);

/// containerd isn't told more often that a container's memory is used up.
const BETWEEN_SHORTAGES: Duration = Duration::from_secs(1);
/// No container or process that containerd names has a longer name.
const MOST_NAME: usize = 1024;

/// Whether an event is no longer than those of an agent that behaves.
pub fn is_sane(event: &Event) -> bool {
    match event {
        Event::Exited(target, _) => target.container.len().max(target.process.len()) <= MOST_NAME,
        Event::OutOfMemory(id) => id.len() <= MOST_NAME,
    }
}

impl Pod {
    pub fn kill(self: &Arc<Self>, id: &str, exec: &str, signal: u32, all: bool) -> Result<()> {
        let (machine, process) = self.process(id, exec)?;
        if matches!(process.stage(), Stage::Ended(_)) && !all {
            return Err(Error::NotFoundError("the process has ended".to_owned()));
        }
        let signal = i32::try_from(signal).map_err(|e| Error::InvalidArgument(e.to_string()))?;
        let target = Target::of(id, exec);
        if signal == libc::SIGKILL {
            // Whatever the guest makes of it, and however long it takes to hear it.
            let (pod, machine, process) = (self.clone(), machine.clone(), process.clone());
            let target = target.clone();
            thread::spawn(move || pod.end_at_last(&machine, &target, &process));
        }
        if machine.is_paused() {
            // Whoever is to end has to run for it.
            self.pause(id, false)?;
        }
        let called = machine.call(Request::Signal {
            target,
            signal,
            all,
        });
        match called {
            Err(_) if matches!(process.stage(), Stage::Ended(_)) => {
                Err(Error::NotFoundError("the process has ended".to_owned()))
            }
            called => called.map(drop),
        }
    }

    /// Who is killed ends: a container that doesn't costs its VM; a further process is left to it.
    fn end_at_last(&self, machine: &Machine, target: &Target, process: &Process) {
        if process.ends_within(DEATH_PATIENCE) {
            return;
        }
        if target.process.is_empty() {
            warn!("a killed container goes on: its VM is ended");
            machine.vm.end();
        } else {
            warn!(
                "a killed process of container {} goes on: it isn't waited for",
                target.container
            );
            self.ended(machine, target, process, Ended::with_vm());
            process.streams.give_up();
        }
    }

    /// Forgets a process that has ended, and with a container's first all of it, and with the VM's first all of that.
    pub fn delete(&self, id: &str, exec: &str) -> Result<(u32, Ended)> {
        let (machine, process) = self.process(id, exec)?;
        let ended = match process.stage() {
            Stage::Ended(ended) => ended,
            Stage::Created if process.spec.is_some() => Ended::never_run(),
            _ => return Err(refused("the process has not ended")),
        };
        process.streams.finish(OUTPUT_PATIENCE);
        // An error is of a guest that is gone, with all that was in it.
        let _ = machine.call(Request::Delete(Target::of(id, exec)));
        let pid = machine.vm.pid();
        if !exec.is_empty() {
            process.never_runs(); // if it hasn't: whoever waits for it gets to know
            self.container(id, |container| {
                container.processes.remove(exec);
                Ok(())
            })?;
            return Ok((pid, ended));
        }
        // With a container's first process all of it ends, whatever a guest says, or doesn't.
        for (target, process) in self.processes_of(id) {
            if !target.process.is_empty() {
                self.ended(&machine, &target, &process, Ended::with_vm());
                process.streams.give_up();
            }
        }
        let container = lock(&self.inner).containers.remove(id);
        if let Some(container) = container {
            let bundle = container.bundle.clone();
            container.clear();
            run_hooks(Moment::Stopped, id, &bundle, pid);
        }
        if id == self.name {
            lock(&self.inner).machine = None;
            machine.vm.end();
        }
        self.tell(TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: ended.status,
            exited_at: timestamp(ended.at),
            ..TaskDelete::default()
        });
        Ok((pid, ended))
    }

    /// All of a container's.
    pub(crate) fn processes_of(&self, id: &str) -> Vec<(Target, Arc<Process>)> {
        let all = self.container(id, |container| {
            let processes = container.processes.iter();
            Ok(processes
                .map(|(exec, process)| (Target::of(id, exec), process.clone()))
                .collect())
        });
        all.unwrap_or_default()
    }

    /// Takes note of what happens, to the VM's end.
    pub(crate) fn hear(&self, events: &Receiver<Option<Event>>) {
        for event in events {
            let is_last = event.is_none();
            self.happened(event);
            if is_last {
                break;
            }
        }
    }

    /// What the guest tells: not on the thread that hears the guest, which others wait for.
    fn happened(&self, event: Option<Event>) {
        match event {
            Some(Event::Exited(target, status)) => {
                let process = self.process(&target.container, &target.process);
                if let Ok((machine, process)) = process {
                    self.ended(&machine, &target, &process, Ended::now(status));
                }
            }
            Some(Event::OutOfMemory(id)) => {
                // A guest may say so as often as it likes, and of what it likes.
                let tell = self.container(&id, |container| {
                    let last = container.was_short.replace(Instant::now());
                    Ok(last.is_none_or(|last| last.elapsed() >= BETWEEN_SHORTAGES))
                });
                if let Ok(true) = tell {
                    warn!("container {id} has used all of its memory");
                    self.tell(TaskOOM {
                        container_id: id,
                        ..TaskOOM::default()
                    });
                }
            }
            None => self.machine_ended(),
        }
    }

    pub(crate) fn machine_ended(&self) {
        info!("the VM is over");
        let mut all = Vec::new();
        for (id, container) in &lock(&self.inner).containers {
            for (exec, process) in &container.processes {
                let target = Target::of(id, exec);
                all.push((container.machine.clone(), target, process.clone()));
            }
        }
        // Further processes before their containers' first.
        all.sort_by_key(|(_, target, _)| target.process.is_empty());
        for (machine, target, process) in all {
            self.ended(&machine, &target, &process, Ended::with_vm());
        }
    }

    pub(crate) fn ended(
        &self,
        machine: &Machine,
        target: &Target,
        process: &Process,
        ended: Ended,
    ) {
        let mut stage = process.hold();
        match *stage {
            Stage::Ended(_) => return,
            // Nobody is told of the end of what never began.
            Stage::Created if process.spec.is_some() => {
                drop(stage);
                return process.never_runs();
            }
            _ => {}
        }
        *stage = Stage::Ended(ended);
        process.wake();
        process.streams.process_ended();
        let id = match &*target.process {
            "" => target.container.clone(),
            exec => exec.to_owned(),
        };
        self.tell(TaskExit {
            container_id: target.container.clone(),
            id,
            pid: machine.vm.pid(),
            exit_status: ended.status,
            exited_at: timestamp(ended.at),
            ..TaskExit::default()
        });
    }
}
