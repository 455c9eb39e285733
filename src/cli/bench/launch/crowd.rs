//! Starts the VMs, so many at a time, keeps them until all are up, measures, and ends them, whatever happens.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use motevm::footprint::Footprint;

use super::Until;
use super::child::{Heard, Moment, VmChild};
use super::signals::Signals;
use crate::cli::bench::progress::Progress;
use crate::cli::{CliError, Status};

/// How long VMs may take to end before they are killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do.
pub struct Plan {
    /// As TOML.
    pub config: String,
    pub count: u32,
    pub parallel: u32,
    pub until: Until,
    pub keep: bool,
    pub settle: Duration,
    pub time_limit: Duration,
}

/// What was found.
#[derive(Default)]
pub struct Measured {
    /// From the first start until the last VM was up.
    pub took: Duration,
    /// Of each VM that told it.
    pub running: Vec<Moment>,
    pub init: Vec<Moment>,
    /// Of each VM, when all were up; empty where they weren't kept.
    pub footprints: Vec<Footprint>,
    /// How much less memory the host had with all VMs, in KiB.
    pub host_kib: Option<i64>,
}

impl Measured {
    /// Takes over what a VM has told.
    fn note(&mut self, vm: &VmChild) {
        self.running.extend(vm.running);
        self.init.extend(vm.init);
    }
}

/// The VMs. Dropping it ends them all.
pub struct Crowd<'a> {
    plan: &'a Plan,
    signals: Signals,
    vms: Vec<VmChild>,
    started: u32,
    up: u32,
}

/// Or the signal that ended it.
type Outcome<T> = Result<Result<T, i32>, CliError>;

impl<'a> Crowd<'a> {
    /// Does it all. All VMs are gone when this returns.
    pub fn launch(plan: &'a Plan) -> Outcome<Measured> {
        let internal = |e| CliError::new(Status::Internal, format!("handling signals: {e}"));
        let mut crowd = Crowd {
            plan,
            signals: Signals::new().map_err(internal)?,
            vms: Vec::new(),
            started: 0,
            up: 0,
        };
        let available = available_kib();
        let progress = Progress::of(plan.count, "VMs up");
        let mut measured = Measured::default();
        let start = Instant::now();
        while crowd.up < plan.count || (!plan.keep && !crowd.vms.is_empty()) {
            crowd.start_more()?;
            let deadline = crowd.waiting().map(|vm| vm.started + plan.time_limit).min();
            if let Err(signal) = crowd.listen(deadline, &mut measured)? {
                return Ok(Err(signal));
            }
            if crowd.up == plan.count && measured.took.is_zero() {
                measured.took = start.elapsed();
            }
            progress.done(crowd.up);
        }
        drop(progress);
        if plan.keep {
            let end = Instant::now() + plan.settle;
            while Instant::now() < end {
                if let Err(signal) = crowd.listen(Some(end), &mut measured)? {
                    return Ok(Err(signal));
                }
            }
            let now = available_kib();
            measured.host_kib = available.zip(now).map(|(before, now)| before - now);
            for vm in &crowd.vms {
                measured.note(vm);
                let footprint = Footprint::of(vm.pid());
                let footprint = footprint.map_err(|e| CliError::new(Status::Internal, e))?;
                measured.footprints.push(footprint);
            }
        }
        Ok(Ok(measured))
    }

    /// Those that aren't up yet.
    fn waiting(&self) -> impl Iterator<Item = &VmChild> {
        self.vms.iter().filter(|vm| self.arrival(vm).is_none())
    }

    /// When a VM was up.
    fn arrival(&self, vm: &VmChild) -> Option<Moment> {
        match self.plan.until {
            Until::Init => vm.init,
            Until::Run => vm.running,
        }
    }

    fn start_more(&mut self) -> Result<(), CliError> {
        let plan = self.plan;
        loop {
            // VMs that aren't kept count until they are gone.
            let busy = match plan.keep {
                true => self.started - self.up,
                false => self.vms.len() as u32,
            };
            if self.started == plan.count || busy >= plan.parallel {
                return Ok(());
            }
            let number = self.started + 1;
            let config = plan.config.replace("{}", &number.to_string());
            let vm = VmChild::start(number, &config, self.signals.before()).map_err(|e| {
                let what = format!(
                    "starting VM {number} of {}: {e}; are the limits on processes and open files \
                     (ulimit -u, -n) reached?",
                    plan.count
                );
                CliError::new(Status::Host, what)
            })?;
            self.vms.push(vm);
            self.started += 1;
        }
    }

    /// Waits until something is heard, and takes it in.
    fn listen(&mut self, deadline: Option<Instant>, measured: &mut Measured) -> Outcome<()> {
        let fds = self.vms.iter().map(VmChild::fd);
        let fds: Vec<_> = std::iter::once(self.signals.fd()).chain(fds).collect();
        let failed = |e| CliError::new(Status::Internal, format!("waiting for VMs: {e}"));
        let ready = poll(&fds, deadline).map_err(failed)?;
        if let (true, Some(signal)) = (ready[0], self.signals.received()) {
            return Ok(Err(signal));
        }
        // From the last one, as those that have ended are taken out.
        for index in (0..self.vms.len()).rev().filter(|index| ready[index + 1]) {
            let was_up = self.arrival(&self.vms[index]).is_some();
            let heard = self.vms[index].hear().map_err(failed)?;
            let vm = &self.vms[index];
            let arrived = self.arrival(vm);
            if !was_up && arrived.is_some() {
                self.up += 1;
                if !self.plan.keep {
                    vm.ask_to_end();
                }
            }
            if heard == Heard::End {
                let mut vm = self.vms.remove(index);
                if self.plan.keep || arrived.is_none() {
                    return Err(self.gone(&mut vm, arrived.is_some()));
                }
                let _ = vm.wait();
                measured.note(&vm);
            }
        }
        let late = self
            .waiting()
            .find(|vm| vm.started.elapsed() >= self.plan.time_limit);
        match late {
            Some(vm) => Err(self.late(vm)),
            None => Ok(Ok(())),
        }
    }

    /// What is said of a VM that ended by itself.
    fn gone(&self, vm: &mut VmChild, was_up: bool) -> CliError {
        let status = vm.wait().ok();
        let code = status.and_then(|status| status.code());
        let how = status.map_or_else(
            || "without a status".to_owned(),
            |status| status.to_string(),
        );
        let (number, count) = (vm.number, self.plan.count);
        let when = match (was_up, self.plan.until) {
            (true, _) => "before all were measured: its guest has to stay",
            (false, Until::Init) => {
                "before its init wrote to the boot timer (docs/boot.md; --until run doesn't wait for that)"
            }
            (false, Until::Run) => "before it ran its guest",
        };
        let said = vm.said();
        let status = match code {
            Some(2) => Status::Usage,
            Some(3) => Status::Host,
            _ => Status::Internal,
        };
        let message = match status {
            // It says what is wrong with an option or the host: no more need be said of when.
            Status::Usage | Status::Host => format!("VM {number} of {count}: {said}"),
            _ => format!("VM {number} of {count} ended ({how}) {when}: {said}"),
        };
        CliError::new(status, message)
    }

    fn late(&self, vm: &VmChild) -> CliError {
        let (number, count) = (vm.number, self.plan.count);
        let seconds = self.plan.time_limit.as_secs_f64();
        let remedy = match self.plan.until {
            Until::Init => {
                "give more --time-limit, or --until run where its init doesn't write to the boot timer \
                 (docs/boot.md)"
            }
            Until::Run => "give more --time-limit",
        };
        CliError::new(
            Status::Internal,
            format!("VM {number} of {count} was not up after {seconds} s: {remedy}"),
        )
    }
}

impl Drop for Crowd<'_> {
    /// Ends all VMs and waits for them.
    fn drop(&mut self) {
        self.vms.iter().for_each(VmChild::ask_to_end);
        let deadline = Instant::now() + PATIENCE;
        while !self.vms.is_empty() && Instant::now() < deadline {
            let fds: Vec<_> = self.vms.iter().map(VmChild::fd).collect();
            let Ok(ready) = poll(&fds, Some(deadline)) else {
                break;
            };
            for index in (0..self.vms.len()).rev().filter(|index| ready[*index]) {
                if !matches!(self.vms[index].hear(), Ok(Heard::Lines)) {
                    let _ = self.vms.swap_remove(index).wait();
                }
            }
        }
        for vm in &mut self.vms {
            vm.kill();
            let _ = vm.wait();
        }
    }
}

/// Waits until one of the descriptors is readable or at its end, or for the deadline.
fn poll(fds: &[RawFd], deadline: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // Rounded up, so that it isn't woken just before.
    let left = left.map_or(-1, |left| {
        i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
    });
    // SAFETY: the array and its length.
    let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, left) };
    if count < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        polled.iter_mut().for_each(|fd| fd.revents = 0);
    }
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}

/// What the host could still give, in KiB (MemAvailable).
fn available_kib() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
