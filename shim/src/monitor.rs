//! The processes beside the shim: the monitor, and virtiofsd. Both end with it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use log::{debug, warn};

use crate::cgroup::Cgroup;
use crate::child::Child;
use crate::config::Config;
use crate::drives::{Disk, Medium};
use crate::network::Namespace;
use crate::vm::{VmError, io_error};

/// The guest's address. Each VM has its own socket, so it is the same for all.
const CID: u32 = 3;
/// Of what a process says, as much is told.
pub const MOST_SAID: usize = 2000;
/// The folder for the jail, in the VM's own, and the jail's name: short, as sockets in it must have short paths.
const JAIL: &str = "j";
const JAILED: &str = "m";

/// What a VM is made of.
#[derive(Debug)]
pub struct Recipe<'a> {
    pub config: &'a Config,
    /// Its own folder, which is there.
    pub folder: &'a Path,
    /// In MiB.
    pub memory: u64,
    pub vcpus: u32,
    pub disks: &'a [Disk],
    /// Whether there is a folder that is shared by virtiofsd.
    pub shares: bool,
    /// The namespace that the monitor is in, with its tap.
    pub network: Option<(&'a Namespace, String)>,
    /// The cgroup of the host that all of it is in.
    pub cgroup: Option<&'a Cgroup>,
    /// The user that the monitor is, in a jail.
    pub jail: Option<u32>,
}

impl Recipe<'_> {
    /// Where the monitor's sockets are.
    pub fn sockets(&self) -> PathBuf {
        match self.jail {
            Some(_) => self.folder.join(JAIL).join(JAILED).join("run"),
            None => self.folder.to_owned(),
        }
    }
}

/// The monitor's command; in a jail, what becomes readable when the guest runs; and the guest's console.
pub fn command(recipe: &Recipe, log: File) -> Result<(Command, Option<File>, File), VmError> {
    let Recipe { config, folder, .. } = recipe;
    let path = |name: &str| folder.join(name).display().to_string();
    // In a jail the monitor makes its sockets where it is, by names alone.
    let own = |name: &str| match recipe.jail {
        Some(_) => name.to_owned(),
        None => path(name),
    };
    let mut command = Command::new(&config.mote);
    command.args(["run", "--agent", "--log", &config.log]);
    command.args(["--memory", &format!("{}M", recipe.memory)]);
    command.args(["--cpus", &recipe.vcpus.to_string()]);
    command.args(["--vsock", &format!("cid={CID},socket={}", own("v"))]);
    command.args(["--api", &own("api")]);
    let (console, writer) = io::pipe().map_err(io_error("a pipe"))?;
    let fd = writer.as_raw_fd();
    command.args(["--console", &format!("file=fd={fd}")]);
    inherit(&mut command, writer.into());
    if let Some(kernel) = &config.kernel {
        command.arg("--kernel").arg(kernel);
    }
    if let Some(cmdline) = &config.cmdline {
        command.args(["--cmdline", cmdline]);
    }
    for disk in recipe.disks {
        add_disk(&mut command, disk).map_err(io_error("a drive's file"))?;
    }
    if recipe.shares {
        let fs = format!("tag={},socket={}", crate::share::TAG, path("fs"));
        command.args(["--fs", &fs]);
    }
    if let Some((namespace, tap)) = &recipe.network {
        command.args(["--net", &format!("tap={tap}")]);
        let namespace = Namespace::clone(namespace);
        // SAFETY: nothing but setns(2) between fork and exec.
        unsafe { command.pre_exec(move || namespace.enter()) };
    }
    let mut runs = None;
    if let Some(user) = recipe.jail {
        let root = folder.join(JAIL);
        let mut jail = format!("id={JAILED},uid={user},root={}", root.display());
        if let Some((namespace, _)) = &recipe.network {
            // Who looks for the task's network (`ctr run --cni`) finds the pod's.
            jail += &format!(",netns={}", namespace.path().display());
        }
        command.args(["--jail", &jail]);
        let (reader, writer) = io::pipe().map_err(io_error("a pipe"))?;
        runs = Some(File::from(OwnedFd::from(reader)));
        let fd = writer.as_raw_fd();
        command.args(["--notify-fd", &fd.to_string()]);
        inherit(&mut command, writer.into());
    }
    settle(&mut command, recipe);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let console = File::from(OwnedFd::from(console));
    Ok((command, runs, console))
}

fn add_disk(command: &mut Command, disk: &Disk) -> io::Result<()> {
    let mut option = match &disk.medium {
        Medium::Named(path) => path.as_os_str().to_owned(),
        Medium::Open(file) => {
            let file = file.try_clone()?;
            let named = format!("fd={}", file.as_raw_fd());
            inherit(command, file.into());
            named.into()
        }
    };
    if disk.read_only {
        option.push(",ro");
    }
    command.arg("--disk").arg(option);
    Ok(())
}

/// Starts virtiofsd on a socket that listens already, so that nobody waits for it to be ready.
pub fn share(recipe: &Recipe) -> Result<Child, VmError> {
    let (config, folder) = (recipe.config, recipe.folder);
    let socket = folder.join("fs");
    let listener = UnixListener::bind(&socket);
    let listener = listener.map_err(io_error(socket.display().to_string()))?;
    let log = folder.join("virtiofsd.log");
    let log_file = File::create(&log).map_err(io_error(log.display().to_string()))?;
    let mut command = Command::new(&config.virtiofsd);
    let fd = listener.as_raw_fd();
    command.arg(format!("--fd={fd}"));
    command
        .arg("--shared-dir")
        .arg(folder.join(crate::share::VIEW));
    command.args(["--cache", "auto", "--sandbox", "namespace"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file);
    inherit(&mut command, listener.into());
    settle(&mut command, recipe);
    let ended = move |status: ExitStatus| match status.success() {
        true => debug!("virtiofsd has ended"),
        false if status.signal() == Some(libc::SIGTERM) => debug!("virtiofsd was ended"),
        false => warn!("virtiofsd: {}: {}", told(status), said(&log)),
    };
    Child::start(command, ended).map_err(|error| {
        let what = format!(
            "{}: it shares folders with the guest; `virtiofsd` in the shim's configuration says where it is",
            config.virtiofsd.display()
        );
        VmError::Io { what, error }
    })
}

/// Has the program be in the pod's cgroup.
fn settle(command: &mut Command, recipe: &Recipe) {
    if let Some(cgroup) = recipe.cgroup.cloned() {
        // SAFETY: one system call, of bytes that live through it.
        unsafe { command.pre_exec(move || cgroup.enter()) };
    }
}

/// Has a descriptor be open in the program that the command runs.
fn inherit(command: &mut Command, file: OwnedFd) {
    // SAFETY: one system call, which takes numbers.
    unsafe {
        command.pre_exec(
            move || match libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            },
        );
    }
}

/// How a process ended, in words.
pub fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

/// The end of what a process said, in one line.
pub fn said(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST_SAID as u64)))?;
        let mut bytes = Vec::new();
        file.take(MOST_SAID as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => line(&bytes),
        Err(error) => format!("{}: {error}", log.display()),
    }
}

/// What was said, in one line.
pub fn line(bytes: &[u8]) -> String {
    match bytes.trim_ascii() {
        [] => "it said nothing".to_owned(),
        bytes => String::from_utf8_lossy(bytes).replace(['\r', '\n'], "; "),
    }
}
