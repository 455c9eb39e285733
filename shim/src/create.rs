//! A container, and the VM for it if it is the first: what containerd's `create` comes to.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::protos::events::task::{TaskCreate, TaskIO};
use containerd_shim::{Error, Result};
use log::{info, warn};
use mote_agent_protocol::message::Request;
use mote_agent_protocol::setup::{Setup, Step};
use mote_agent_protocol::{Event, Hello, Mount};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::cgroup::Cgroup;
use crate::config::{Config, Rootfs};
use crate::drives::{Drives, drives};
use crate::hooks::{self, Moment};
use crate::machine::{Host, Machine};
use crate::monitor::Recipe;
use crate::network::Namespace;
use crate::pod::{Container, Pod, refused};
use crate::process::Process;
use crate::rootfs::{self, How, Plan};
use crate::share::{self, Share};
use crate::source::{Rights, Source};
use crate::spec::{self, Place};
use crate::streams::{Paths, Streams};
use crate::vm::Vm;
use crate::{ends, leftovers, lock, vm};

/// Where containers are in the guest.
const CONTAINERS: &str = "/run/c";
/// Of the guest's, that nobody has looked at yet.
const MOST_EVENTS: usize = 1024;

impl Pod {
    /// Makes a container, up to where its program would run.
    pub fn create(self: &Arc<Self>, request: &CreateTaskRequest) -> Result<u32> {
        let _one = lock(&self.making);
        let id = &*request.id;
        if lock(&self.inner).containers.contains_key(id) {
            return Err(Error::FailedPreconditionError(format!(
                "container {id} is there already"
            )));
        }
        let bundle = Path::new(&request.bundle);
        let spec = Spec::load(bundle.join("config.json"));
        let spec = spec.map_err(|e| Error::InvalidArgument(format!("config.json: {e}")))?;
        let is_first = lock(&self.inner).machine.is_none();
        if is_first && id != self.name {
            return Err(refused(format!("the VM of pod {} is gone", self.name)));
        }
        let made = match is_first {
            true => self.make_machine(request, &spec),
            false => self.make_container(request, &spec, None),
        };
        let pid = made.inspect_err(|_| {
            if is_first {
                self.clear_machine();
            }
        })?;
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..TaskIO::default()
        };
        self.tell(TaskCreate {
            container_id: id.to_owned(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            pid,
            ..TaskCreate::default()
        });
        Ok(pid)
    }

    /// The VM, with its first container in it.
    fn make_machine(self: &Arc<Self>, request: &CreateTaskRequest, spec: &Spec) -> Result<u32> {
        let begin = Instant::now();
        let config = crate::options::config(request)?;
        let folder = crate::folder(&config, &self.namespace, &self.name);
        leftovers::clear(&folder); // of one of the same name, whose shim died
        leftovers::note(Path::new(&request.bundle), &folder).map_err(refused)?;
        vm::make_folder(&folder).map_err(refused)?;
        let mut host = host(spec, &folder)?;
        let tap = host.network.as_ref().map(Namespace::tap).transpose();
        let tap = tap.map_err(refused)?;
        let shares = config.rootfs == Rootfs::Virtiofs || wants_share(spec);
        if shares {
            host.share = Some(Share::new(&folder).map_err(refused)?);
        }
        let work = folder.join("c").join(&request.id);
        let drives = drives(&config, request, &root_of(request, spec), &work)?;
        let (memory, vcpus) = size(&config, spec)?;
        let recipe = Recipe {
            config: &config,
            folder: &folder,
            memory,
            vcpus,
            disks: &drives.disks,
            shares,
            network: host.network.as_ref().zip(tap),
            cgroup: host.cgroup.as_ref(),
            jail: config.jail.then(|| user(&config, &folder)),
        };
        let prepared = begin.elapsed();
        let (queue, events) = sync_channel(MOST_EVENTS);
        let on_event = move |event: Option<Event>| match event {
            Some(event) => ends::is_sane(&event) && queue.try_send(Some(event)).is_ok(),
            None => queue.send(None).is_ok(),
        };
        let vm = Vm::start(&recipe, on_event).map_err(refused)?;
        let called = begin.elapsed();
        let machine = Arc::new(Machine::new(vm, host));
        lock(&self.inner).machine = Some(machine.clone());
        let pod = self.clone();
        thread::spawn(move || pod.hear(&events));
        let steps = first_steps(spec, shares);
        machine.call(Request::Setup(Setup { steps }))?;
        machine.join_network()?;
        let pid = self.make_container(request, spec, Some(drives))?;
        info!(
            "{}: VM {pid}: {} ms for what it is made of, {} ms until its agent called, {} ms for the container",
            self.name,
            prepared.as_millis(),
            (called - prepared).as_millis(),
            (begin.elapsed() - called).as_millis()
        );
        Ok(pid)
    }

    /// A container in the VM that is there.
    fn make_container(
        &self,
        request: &CreateTaskRequest,
        spec: &Spec,
        drives: Option<Drives>,
    ) -> Result<u32> {
        let id = &request.id;
        let machine = lock(&self.inner).machine.clone();
        let machine = machine.ok_or_else(|| refused("the VM is gone"))?;
        let place = format!("{CONTAINERS}/{id}");
        let work = machine.host.folder.join("c").join(id);
        let shared = Mutex::new(Vec::new());
        let share = |source: &Source, rights: Rights| -> std::result::Result<String, Error> {
            let none = "nothing is shared with this VM: its first container wanted nothing";
            let of = machine.host.share.as_ref().ok_or_else(|| refused(none))?;
            let at = of.add(source, rights).map_err(refused)?;
            lock(&shared).push(at.clone());
            Ok(at)
        };
        let streams = Streams::new(Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            owner: self.owner(id),
        });
        let streams = streams.map_err(refused)?;
        let make = || -> Result<()> {
            let root = match &drives {
                Some(drives) if !drives.disks.is_empty() => {
                    let steps = drives.steps(&place);
                    machine.call(Request::Setup(Setup { steps }))?;
                    format!("{place}/root")
                }
                _ => {
                    let rights = Rights {
                        with_mounts: true,
                        ..Rights::default()
                    };
                    share(&self.folder_of(request, spec, &work)?, rights)?
                }
            };
            let kernel = machine.vm.hello();
            let sandbox = (*id != self.name).then_some(&*self.name);
            let place = Place {
                root: &root,
                sandbox,
                kernel,
            };
            let invalid = |e: spec::SpecError| Error::InvalidArgument(e.to_string());
            let container = spec::container(spec, &place, &mut |source, rights| {
                share(source, rights).map_err(Into::into)
            });
            let mut container = container.map_err(invalid)?;
            machine.join_memory(spec, &mut container)?;
            let process = first_process(spec, kernel)?;
            let opening = streams.open(machine.vm.expected()).map_err(refused)?;
            machine.call(Request::Create {
                name: id.clone(),
                container: Box::new(container),
                process: Box::new(process),
                streams: opening.numbers(),
            })?;
            opening.run(&streams);
            let bundle = Path::new(&request.bundle);
            hooks::run(spec, Moment::Creating, id, bundle, machine.vm.pid())
        };
        let made = make();
        let shared = lock(&shared).clone();
        let linux = spec.linux().as_ref();
        let container = Container {
            bundle: request.bundle.clone(),
            machine: machine.clone(),
            processes: [(String::new(), Arc::new(Process::new(streams, None)))].into(),
            seccomp: linux.and_then(|linux| linux.seccomp().clone()),
            place,
            shared,
            work,
            is_paused: false,
            was_short: None,
        };
        match made {
            Ok(()) => {
                lock(&self.inner).containers.insert(id.clone(), container);
                if machine.vm.is_over() {
                    // Meanwhile: nobody else may have seen this one.
                    self.machine_ended();
                }
                Ok(machine.vm.pid())
            }
            Err(error) => {
                container.clear();
                Err(error)
            }
        }
    }

    /// The root file system as a folder of the host.
    fn folder_of(&self, request: &CreateTaskRequest, spec: &Spec, work: &Path) -> Result<Source> {
        let rootfs = root_of(request, spec);
        let cache = crate::options::config(request)?.cache;
        let plan = rootfs::prepare(&request.rootfs, &rootfs, How::Shared, &cache, work);
        match plan.map_err(refused)? {
            Plan::Folder { path } => {
                Source::find(&path).map_err(|e| refused(format!("{}: {e}", path.display())))
            }
            _ => Err(refused("this snapshot can't be shared")),
        }
    }

    /// After a failure.
    fn clear_machine(&self) {
        let machine = lock(&self.inner).machine.take();
        if let Some(machine) = machine {
            machine.vm.end();
        }
    }
}

/// What of the host's there is before the VM, but for what its guest may share.
fn host(spec: &Spec, folder: &Path) -> Result<Host> {
    let mut host = Host {
        folder: folder.to_owned(),
        share: None,
        network: None,
        cgroup: None,
    };
    let linux = spec.linux().as_ref();
    let cgroup = linux.and_then(|linux| linux.cgroups_path().as_ref());
    host.cgroup = cgroup.and_then(|path| Cgroup::make(path));
    if let Some(cgroup) = &host.cgroup {
        let noted = cgroup.note(&folder.join(leftovers::CGROUP));
        noted.map_err(refused)?;
    }
    host.network = Some(network(spec, folder)?);
    Ok(host)
}

/// What is done in the guest before its containers.
fn first_steps(spec: &Spec, shares: bool) -> Vec<Step> {
    let shared = || Mount::new("virtiofs", share::TAG, share::IN_GUEST, "nodev");
    let shared = shares.then(|| Step::Mount(shared()));
    let name = spec.hostname().clone().map(Step::Hostname);
    shared.into_iter().chain(name).collect()
}

/// Where the root file system is, if containerd hands over no mounts for it.
fn root_of(request: &CreateTaskRequest, spec: &Spec) -> PathBuf {
    let root = spec.root().as_ref().map(|root| root.path().as_path());
    Path::new(&request.bundle).join(root.unwrap_or(Path::new("rootfs")))
}

fn first_process(spec: &Spec, kernel: &Hello) -> Result<mote_agent_protocol::Process> {
    let process = spec.process().as_ref();
    let process =
        process.ok_or_else(|| Error::InvalidArgument("process: is missing".to_owned()))?;
    let linux = spec.linux().as_ref();
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    spec::process(process, seccomp, kernel, None).map_err(|e| Error::InvalidArgument(e.to_string()))
}

/// In MiB, and vCPUs: what the container is limited to, and what the guest's kernel has besides; or what the user says of
/// the VM as a whole.
fn size(config: &Config, spec: &Spec) -> Result<(u64, u32)> {
    let sizing = spec::sizing(spec);
    let (bytes, cpus) = sizing.map_err(|e| Error::InvalidArgument(e.to_string()))?;
    let annotations = spec.annotations().as_ref();
    let is_whole = annotations.is_some_and(|all| all.contains_key(spec::MEMORY));
    let besides = if is_whole { 0 } else { config.memory_overhead };
    let memory = bytes.map(|bytes| bytes.div_ceil(1 << 20) + besides);
    let memory = memory.unwrap_or(config.memory);
    let vcpus = cpus.unwrap_or(config.vcpus);
    let (most, most_vcpus) = (config.max_memory, config.max_vcpus);
    if memory > most || vcpus > most_vcpus {
        warn!(
            "{memory} MiB and {vcpus} vCPUs are asked for; the configuration allows {most} and {most_vcpus}"
        );
    }
    Ok((memory.min(most), vcpus.clamp(1, most_vcpus)))
}

/// Whose a jailed monitor is: by its folder's name, so that two of a machine are hardly ever the same user's.
fn user(config: &Config, folder: &Path) -> u32 {
    let name = folder.file_name().map(|name| name.as_encoded_bytes());
    let number = name
        .unwrap_or_default()
        .iter()
        .take(4)
        .fold(0, |number, digit| {
            let digit = char::from(*digit).to_digit(16).unwrap_or(0);
            number << 4 | digit
        });
    config.jail_users.saturating_add(number)
}

/// Whether containers of this VM may want files of the host: a pod's later ones are not known yet.
fn wants_share(spec: &Spec) -> bool {
    let is_pod = spec::sandbox_id(spec.annotations()).is_some();
    let mounts = spec.mounts().iter().flatten();
    is_pod
        || mounts.into_iter().any(|mount| {
            let options = mount.options().iter().flatten();
            let binds = |option: &String| option == "bind" || option == "rbind";
            mount.typ().as_deref() == Some("bind") || options.into_iter().any(binds)
        })
}

/// The pod's namespace, or a new one for CNI to put something into.
fn network(spec: &Spec, folder: &Path) -> Result<Namespace> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let mut all = namespaces.into_iter().flatten();
    let Some(own) = all.find(|namespace| namespace.typ() == LinuxNamespaceType::Network) else {
        return Err(Error::InvalidArgument(
            "linux.namespaces: none of type network: a VM can't be in the host's".to_owned(),
        ));
    };
    let opened = match own.path() {
        Some(path) => Namespace::open(path),
        None => Namespace::make(&folder.join("net")),
    };
    opened.map_err(refused)
}
