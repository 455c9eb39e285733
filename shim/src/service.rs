//! The program as containerd runs it: `start` and `delete`, which end at once, and the service itself.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use containerd_shim::api::DeleteResponse;
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::synchronous::ExitSignal;
use containerd_shim::util::write_address;
use containerd_shim::{Config, Flags, Result, Shim, StartOpts, socket_address, spawn};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::Spec;

use crate::events::Events;
use crate::pod::Pod;
use crate::task::Tasks;
use crate::{leftovers, spec, timestamp};

/// What answers that are on their way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The program, in whatever part containerd wants it.
pub struct Service {
    namespace: String,
    id: String,
    exit: Arc<ExitSignal>,
}

impl Shim for Service {
    type T = Tasks;

    fn new(_: &str, flags: &Flags, _: &mut Config) -> Self {
        // Before there is any other thread, which would stay behind.
        if flags.action.is_empty()
            && let Err(error) = be_apart()
        {
            eprintln!("containerd-shim-mote-v1: a mount namespace: {error}");
            std::process::exit(1);
        }
        Service {
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            exit: Arc::default(),
        }
    }

    fn start_shim(&mut self, opts: StartOpts) -> Result<String> {
        let group = group(&opts.id);
        let address = socket_address(&opts.address, &opts.namespace, &group);
        let is_there = group != opts.id && answers(&address);
        if !is_there {
            spawn(opts, &group, Vec::new())?;
        }
        write_address(&address)?;
        Ok(address)
    }

    fn delete_shim(&mut self) -> Result<DeleteResponse> {
        let group = group(&self.id);
        if group == self.id
            && let Some(folder) = leftovers::noted(Path::new("."))
        {
            leftovers::clear(&folder);
        }
        Ok(DeleteResponse {
            exit_status: 128 + libc::SIGKILL as u32,
            exited_at: timestamp(SystemTime::now()),
            ..DeleteResponse::default()
        })
    }

    fn wait(&mut self) {
        self.exit.wait();
        // Whoever waits for something that never comes doesn't hold it up.
        thread::spawn(|| {
            thread::sleep(LAST_ANSWERS);
            std::process::exit(0);
        });
    }

    fn create_task_service(&self, publisher: RemotePublisher) -> Tasks {
        let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
        let events = Events::new(publisher, self.namespace.clone(), address);
        let group = group(&self.id);
        Tasks {
            pod: Arc::new(Pod::new(self.namespace.clone(), group, events)),
            exit: self.exit.clone(),
        }
    }
}

/// The container whose VM this one is in: its pod's sandbox, or itself. containerd runs the program in the container's
/// bundle.
fn group(id: &str) -> String {
    let spec = Spec::load("config.json").ok();
    let of = spec
        .as_ref()
        .and_then(|spec| spec::sandbox_id(spec.annotations()));
    of.unwrap_or(id).to_owned()
}

fn answers(address: &str) -> bool {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    UnixStream::connect(path).is_ok()
}

/// A session of its own, so that no terminal's signals come here; and a mount namespace, with which all that is mounted
/// in it goes when this process does. What the host mounts and unmounts comes here still.
fn be_apart() -> io::Result<()> {
    // SAFETY: takes nothing. It fails where this is a group's leader, which does as well.
    unsafe { libc::setsid() };
    unshare(CloneFlags::CLONE_NEWNS)?;
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    // A shim is what the kernel should kill last of a pod.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    Ok(())
}
