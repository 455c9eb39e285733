//! What a test has: containerd with an image, and containers by the runtime that is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::counts::Counts;
use crate::ctr::{Ended, Session, finish};
use crate::daemon::Daemon;
use crate::{image, place};

/// Everything of the tests is in here.
pub const FOLDER: &str = "/run/mote-test";

/// containerd, and how things were before the test.
pub struct World {
    daemon: Mutex<Daemon>,
    before: Counts,
}

impl World {
    /// containerd with the image, and one container behind it, which has made what is made only once.
    pub fn start() -> Self {
        let folder = Path::new(FOLDER);
        let archive = folder.join("image/image.tar");
        if !archive.exists() {
            image::archive(archive.parent().unwrap());
        }
        let daemon = Daemon::start("bookworm", &folder.join("c"));
        let mut world = World {
            before: Counts::take(&daemon),
            daemon: Mutex::new(daemon),
        };
        world.import();
        let before = Counts::take(&world.daemon());
        world.before = before;
        world
    }

    /// Has the image in containerd.
    pub fn import(&self) {
        let mut command = self.ctr(&["image", "import"]);
        command.arg(Path::new(FOLDER).join("image/image.tar"));
        finish(command, &[]).success();
    }

    /// A test, and what it left.
    pub fn judge(&self, test: fn(&World)) {
        test(self);
        self.nothing_is_left();
    }

    /// All is as it was before.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let after = Counts::settled(&self.before, &self.daemon());
        let differences = self.before.differences(&after);
        assert!(
            differences.is_empty(),
            "left over, or gone:\n{}",
            differences.join("\n")
        );
    }

    /// What may tell why a test has failed.
    pub fn tell(&self) {
        println!("--- containerd's log ---\n{}\n---", self.daemon().log());
        let find = "find /run/mote -type f -size -1M 2>/dev/null | grep -v -e '[.]img$' -e '[.]json$' | while read -r f; do \
                    echo \"--- $f ---\"; tail -n 20 \"$f\"; done; ps -e -o pid,ppid,stat,args | cut -c1-250; \
                    for pid in $(pgrep -x mote); do echo \"--- network of $pid ---\"; nsenter -t $pid -n ip -o addr; done";
        let mut command = Command::new("sh");
        command.args(["-c", find]);
        println!("{}", finish(command, &[]).text());
    }

    /// Takes away what a failed test has left.
    pub fn start_over(&mut self) {
        self.wipe();
        *self = World::start();
    }

    fn wipe(&self) {
        self.daemon().kill();
        let spared = [1, std::process::id()];
        for _ in 0..3 {
            for (pid, _) in crate::counts::processes() {
                if !spared.contains(&pid) {
                    kill(pid, libc::SIGKILL);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        // What is mounted over another mount comes later in the list.
        for place in crate::counts::mounts().iter().rev() {
            if place.starts_with("/run/") && !place.starts_with("/run/mote-test/image") {
                let mut command = Command::new("umount");
                let _ = command.args(["-l", place]).stderr(Stdio::null()).status();
            }
        }
        for folder in [
            "/run/mote",
            "/run/containerd",
            "/run/mote-test/c",
            "/run/runc",
        ] {
            let _ = fs::remove_dir_all(folder);
        }
        place::remove_cgroups();
        let mut command = Command::new("ip");
        command.args(["link", "delete", crate::network::BRIDGE]);
        let _ = command.stderr(Stdio::null()).status();
    }

    pub fn end(self) {
        self.wipe();
    }

    pub fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts containerd anew, after its end.
    pub fn restart(&self) {
        let folder = self.daemon().folder().to_owned();
        *self.daemon() = Daemon::start("bookworm", &folder);
    }

    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.daemon().ctr();
        command.args(arguments);
        command
    }

    /// What a command of `ctr` prints.
    #[track_caller]
    pub fn says(&self, arguments: &[&str]) -> String {
        finish(self.ctr(arguments), &[]).success()
    }

    /// `ctr run` of this runtime.
    pub fn command_by(
        &self,
        runtime: &str,
        options: &[&str],
        id: &str,
        program: &[&str],
    ) -> Command {
        let mut command = self.ctr(&["run", "--runtime", runtime]);
        command.args(options).arg(image::NAME).arg(id).args(program);
        command
    }

    pub fn command(&self, options: &[&str], id: &str, program: &[&str]) -> Command {
        self.command_by(&Self::runtime(), options, id, program)
    }

    /// What a shell's script prints in a container of the image that has a user.
    #[track_caller]
    pub fn script_of_a_user(&self, options: &[&str], id: &str, script: &str) -> String {
        let mut command = self.ctr(&["run", "--rm", "--runtime", &Self::runtime()]);
        command
            .args(options)
            .args([image::OF_A_USER, id, "sh", "-c", script]);
        finish(command, &[]).success()
    }

    /// A container from its start to its end.
    pub fn run(&self, options: &[&str], id: &str, program: &[&str]) -> Ended {
        finish(
            self.command(&[&["--rm"], options].concat(), id, program),
            &[],
        )
    }

    /// What a shell's script prints in a container.
    #[track_caller]
    pub fn script(&self, options: &[&str], id: &str, script: &str) -> String {
        self.run(options, id, &["sh", "-c", script]).success()
    }

    /// A container with such a script that goes on meanwhile.
    pub fn session(&self, options: &[&str], id: &str, script: &str) -> Session {
        let options = [&["--rm"], options].concat();
        Session::of(self.command(&options, id, &["sh", "-c", script]))
    }

    /// The process on this host that a container's task is to containerd.
    pub fn task_pid(&self, id: &str) -> Option<u32> {
        let list = self.says(&["task", "ls"]);
        let mut words = list.lines().map(str::split_whitespace);
        words
            .find_map(|mut words| (words.next() == Some(id)).then(|| words.next()?.parse().ok())?)
    }

    /// Of which runtime containers are.
    pub fn runtime() -> String {
        std::env::var("MOTE_TEST_RUNTIME").unwrap_or_else(|_| "io.containerd.mote.v1".to_owned())
    }

    /// Whether that is ours.
    pub fn is_mote() -> bool {
        Self::runtime().contains("mote")
    }

    /// The command beside the shim, or that of another build: resources/test.sh has a fast one.
    pub fn mote() -> PathBuf {
        if let Some(given) = std::env::var_os("MOTE_TEST_MOTE") {
            return given.into();
        }
        Path::new(env!("CARGO_BIN_EXE_containerd-shim-mote-v1")).with_file_name("mote")
    }

    /// A guest's kernel that has what containers need.
    pub fn kernel() -> PathBuf {
        let name = match std::env::consts::ARCH {
            "x86_64" => "x86_64-containers/vmlinux",
            _ => "aarch64-containers/Image",
        };
        place::cache().join("guest").join(name)
    }

    pub fn virtiofsd() -> PathBuf {
        place::cache()
            .join("peers")
            .join(std::env::consts::ARCH)
            .join("virtiofsd")
    }

    /// How guests get root file systems.
    pub fn rootfs() -> String {
        std::env::var("MOTE_TEST_ROOTFS").unwrap_or_else(|_| "block".to_owned())
    }

    /// The shim's configuration.
    pub fn shim_settings() -> String {
        Self::shim_settings_with(&Self::rootfs())
    }

    /// That with root file systems by another way.
    pub fn shim_settings_with(rootfs: &str) -> String {
        format!(
            "mote = {:?}\nkernel = {:?}\nvirtiofsd = {:?}\nstate = \"/run/mote\"\ncache = \"{FOLDER}/cache\"\n\
             rootfs = {rootfs:?}\nmemory = 128\nvcpus = 1\nboot_timeout = 120\nlog = \"info\"\n",
            Self::mote(),
            Self::kernel(),
            Self::virtiofsd(),
        )
    }
}

/// Sends a signal to a process, which may be gone.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: takes no pointer.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}
