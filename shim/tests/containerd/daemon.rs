//! containerd, in folders of its own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ctr::{PATIENCE, on_a_leash};
use crate::place::release;
use crate::world::World;

/// A containerd that runs.
pub struct Daemon {
    child: Child,
    /// Where its programs are.
    programs: PathBuf,
    /// Where everything of it is.
    folder: PathBuf,
}

impl Daemon {
    /// Starts that of a release of Debian's; it goes on with what another one left in `folder`.
    pub fn start(name: &str, folder: &Path) -> Self {
        Self::with(name, folder, &settings(name, folder))
    }

    /// The same with settings of one's own.
    pub fn with(name: &str, folder: &Path, settings: &str) -> Self {
        let programs = release(name).join("usr/bin");
        fs::create_dir_all(folder).unwrap();
        let config = folder.join("config.toml");
        fs::write(&config, settings).unwrap();
        let shim = folder.join("mote.toml");
        fs::write(&shim, World::shim_settings()).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let mut command = Command::new(programs.join("containerd"));
        command
            .arg("--config")
            .arg(&config)
            .env("PATH", path(&programs))
            .env("MOTE_SHIM_CONFIG", &shim);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        let child = on_a_leash(&mut command, 3600).spawn().unwrap();
        let mut daemon = Daemon {
            child,
            programs,
            folder: folder.to_owned(),
        };
        daemon.wait_until_it_listens();
        daemon
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE.into());
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "containerd ended, {ended:?}:\n{}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "containerd doesn't listen:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `ctr` of the same version.
    pub fn ctr(&self) -> Command {
        let mut command = Command::new(self.programs.join("ctr"));
        command.arg("--address").arg(self.socket());
        command
    }

    /// The end of what it said, and of what shims said through it.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| !line.contains("loading plugin"))
            .collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Ends it as nobody should.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where containerd finds shims, and what they call.
fn path(programs: &Path) -> String {
    let shim = Path::new(env!("CARGO_BIN_EXE_containerd-shim-mote-v1"));
    let runc = release("bookworm").join("usr/sbin");
    let folders = [shim.parent().unwrap(), programs, &runc];
    let folders = folders.map(|folder| folder.to_str().unwrap());
    format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        folders.join(":")
    )
}

/// The configuration. What isn't used here takes long to start.
fn settings(name: &str, folder: &Path) -> String {
    let version = if name == "forky" { 3 } else { 2 };
    let folder = folder.display();
    format!(
        "version = {version}\n\
         root = \"{folder}/root\"\n\
         state = \"{folder}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
         \"io.containerd.cri.v1.runtime\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.internal.v1.tracing\", \"io.containerd.tracing.processor.v1.otlp\", \
         \"io.containerd.nri.v1.nri\"]\n\
         [grpc]\n\
         address = \"{folder}/socket\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n\
         path = \"{folder}/opt\"\n"
    )
}
