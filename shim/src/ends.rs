//! Processes that end, and the VM that ends: what containerd learns without having asked.

use std::time::{Duration, Instant};

use containerd_shim::protos::events::task::{TaskExit, TaskOOM};
use log::{info, warn};
use mote_agent_protocol::{Event, Target};

use crate::machine::Machine;
use crate::pod::Pod;
use crate::process::{Ended, Process, Stage};
use crate::{lock, timestamp};

/// containerd isn't told more often that a container's memory is used up.
const BETWEEN_SHORTAGES: Duration = Duration::from_secs(1);

impl Pod {
    /// What the guest tells: not on the thread that hears the guest, which others wait for.
    pub(crate) fn happened(&self, event: Option<Event>) {
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

    fn machine_ended(&self) {
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

    fn ended(&self, machine: &Machine, target: &Target, process: &Process, ended: Ended) {
        let mut stage = process.hold();
        if matches!(*stage, Stage::Ended(_)) {
            return;
        }
        *stage = Stage::Ended(ended);
        process.wake();
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
