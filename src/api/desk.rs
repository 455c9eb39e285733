//! What an API knows of its VM: what was said of it, and how far it has come.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::Fault;
use super::http::{Answer, Later, Reply, Request, Service};
use super::map;
use super::model::{InstanceState, Logger, Named, Whole};
use super::routes;
use crate::config::VmConfig;
use crate::machine::{Beside, Control, Exit, State};

/// Does what a request says of the log.
pub type SetLogger = Box<dyn FnMut(&Logger) -> Result<(), String> + Send>;

/// What an API knows of its VM.
pub struct Desk(Mutex<Papers>);

/// The same, while a request is answered.
pub struct Papers {
    /// The VM's name.
    pub id: String,
    /// What was said of the VM, in the API's words.
    pub whole: Whole,
    /// The VM as it was built.
    pub config: Option<VmConfig>,
    /// What takes requests about the log.
    pub set_logger: Option<SetLogger>,
    stage: Stage,
    /// Those who have asked how the VM will end.
    waiting: Vec<Later>,
}

enum Stage {
    /// It is being described.
    Described,
    /// It was asked to start, by this one.
    Starting(Box<VmConfig>, Later),
    /// It runs, or is paused.
    Started(Beside),
    /// It isn't to be started at all.
    Abandoned,
}

impl Desk {
    /// Nothing was said of the VM but its name.
    pub fn new(id: &str, set_logger: Option<SetLogger>) -> Self {
        Desk(Mutex::new(Papers {
            id: id.to_owned(),
            whole: Whole::default(),
            config: None,
            set_logger,
            stage: Stage::Described,
            waiting: Vec::new(),
        }))
    }

    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was asked to start, and nothing was answered yet; or isn't to be started any more.
    pub fn is_decided(&self) -> bool {
        let stage = &self.papers().stage;
        matches!(stage, Stage::Starting(..) | Stage::Abandoned)
    }

    /// What is to start.
    pub fn config(&self) -> Option<VmConfig> {
        match &self.papers().stage {
            Stage::Starting(config, _) => Some((**config).clone()),
            _ => None,
        }
    }

    /// It can't start.
    pub fn refuse(&self, why: &str) {
        let mut papers = self.papers();
        if let Stage::Starting(_, later) = &papers.stage {
            later.is(Answer::fault(&Fault::Start(why.to_owned())));
            papers.stage = Stage::Described;
        }
    }

    /// The VM was built so.
    pub fn describe(&self, config: &VmConfig) {
        let mut papers = self.papers();
        if matches!(papers.stage, Stage::Described) {
            papers.whole = map::whole(config);
        }
        papers.config = Some(config.clone());
    }

    /// It runs.
    pub fn start(&self, vm: Beside) {
        let mut papers = self.papers();
        if let Stage::Starting(_, later) = &papers.stage {
            later.is(Answer::done());
        }
        papers.stage = Stage::Started(vm);
    }

    /// It has ended.
    pub fn end(&self) {
        let mut papers = self.papers();
        let exit = papers.exit();
        for later in std::mem::take(&mut papers.waiting) {
            later.is(routes::ended(exit.as_ref()));
        }
    }
}

impl Papers {
    /// How far it has come, as long as it hasn't ended.
    pub fn state(&self) -> InstanceState {
        match &self.stage {
            Stage::Started(vm) => match vm.control.state() {
                State::Paused => InstanceState::Paused,
                _ => InstanceState::Running,
            },
            _ => InstanceState::NotStarted,
        }
    }

    /// How it has ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        match &self.stage {
            Stage::Started(vm) => vm.exit().cloned(),
            _ => None,
        }
    }

    /// The VM that runs; `what` is asked of it.
    pub fn vm(&self, what: &'static str) -> Result<&Beside, Fault> {
        match &self.stage {
            Stage::Started(vm) => Ok(vm),
            _ => Err(Fault::NotStarted(what)),
        }
    }

    /// What was said of the VM, for `what` to be changed in it before it starts.
    pub fn described(&mut self, what: &'static str) -> Result<&mut Whole, Fault> {
        match &self.stage {
            Stage::Described => Ok(&mut self.whole),
            _ => Err(Fault::Started(what)),
        }
    }

    /// It is to end, whatever the guest says; or never to start.
    pub fn stop(&mut self) {
        match &self.stage {
            Stage::Started(vm) => vm.control.stop(),
            _ => self.stage = Stage::Abandoned,
        }
    }

    /// It is to start; the answer comes when it has, or hasn't.
    pub fn ask_to_start(&mut self) -> Result<Reply, Fault> {
        let config = self.described("InstanceStart")?.config()?;
        config.validate()?;
        let later = Later::default();
        self.stage = Stage::Starting(Box::new(config), later.clone());
        Ok(Reply::Later(later))
    }

    /// Tells how it has ended, when it has.
    pub fn ask_for_the_end(&mut self) -> Reply {
        match self.exit() {
            Some(exit) => Reply::Now(routes::ended(Some(&exit))),
            None => {
                self.waiting.retain(Later::is_awaited);
                let later = Later::default();
                self.waiting.push(later.clone());
                Reply::Later(later)
            }
        }
    }

    /// The drives' names, in the API and of the device. Devices of a kind are in the same order in both.
    pub fn drives(&self, control: &Control) -> Vec<Named> {
        let named = |ids: Vec<&String>, kind: &str| {
            let devices = control.drives().filter(|name| name.starts_with(kind));
            let both = ids.into_iter().zip(devices);
            both.map(|(id, device)| name(id, device))
                .collect::<Vec<_>>()
        };
        let drives = self.whole.drives.iter().map(|drive| &drive.drive_id);
        let pmem = self.whole.pmem.iter().map(|pmem| &pmem.id);
        let mut all = named(drives.collect(), "vd");
        all.extend(named(pmem.collect(), "pmem"));
        all
    }

    /// The networks' names, likewise.
    pub fn networks(&self, control: &Control) -> Vec<Named> {
        let ids = self
            .whole
            .network_interfaces
            .iter()
            .map(|net| &net.iface_id);
        ids.zip(control.nets())
            .map(|(id, device)| name(id, device))
            .collect()
    }
}

fn name(id: &str, device: &str) -> Named {
    Named {
        id: id.to_owned(),
        device: device.to_owned(),
    }
}

impl Service for Desk {
    fn answer(&self, request: Request) -> Reply {
        log::debug!("--api: {} {}", request.method, request.path);
        routes::answer(&mut self.papers(), &request)
    }

    fn too_long(&self) -> Answer {
        Answer::fault(&Fault::TooLong)
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}
