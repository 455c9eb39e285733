//! One VM of the soak: what it has and how it ends, at random; and whether it ended so.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Code, PATIENCE};
use crate::drive::{Pattern, SECTOR, SECTORS};
use crate::random::Random;

/// How a VM ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Reset,
    PowerOff,
    Panic,
    Crash,
    TerminatedRunning,
    TerminatedAnyTime,
    KilledRunning,
    KilledAnyTime,
}

impl End {
    pub const ALL: [End; 8] = [
        End::Reset,
        End::PowerOff,
        End::Panic,
        End::Crash,
        End::TerminatedRunning,
        End::TerminatedAnyTime,
        End::KilledRunning,
        End::KilledAnyTime,
    ];

    /// As the table has it.
    pub fn name(self) -> &'static str {
        match self {
            End::Reset => "by a reset",
            End::PowerOff => "by switching off",
            End::Panic => "by a panic",
            End::Crash => "by a crash",
            End::TerminatedRunning => "by SIGTERM, running",
            End::TerminatedAnyTime => "by SIGTERM, at any moment",
            End::KilledRunning => "by SIGKILL, running",
            End::KilledAnyTime => "by SIGKILL, at any moment",
        }
    }

    /// The signal, and whether the guest is to run by then.
    fn signal(self) -> Option<(i32, bool)> {
        match self {
            End::TerminatedRunning => Some((libc::SIGTERM, true)),
            End::TerminatedAnyTime => Some((libc::SIGTERM, false)),
            End::KilledRunning => Some((libc::SIGKILL, true)),
            End::KilledAnyTime => Some((libc::SIGKILL, false)),
            _ => None,
        }
    }
}

/// What all VMs have in common.
pub struct Shared {
    pub seed: u64,
    /// Taps can be made here.
    pub taps: bool,
    pub passt: Option<PathBuf>,
    /// A Linux guest's kernel and root file system, where KVM can run it.
    pub linux: Option<(PathBuf, PathBuf)>,
    /// VMs can be jailed; with the cgroup below which they get theirs, if there is one.
    pub jail: Option<Option<PathBuf>>,
    /// How long a VM takes until its guest runs.
    pub start: Duration,
}

/// One VM, in a folder in which others were before: the names of sockets and files are the same.
pub struct SoakVm<'a> {
    folder: &'a Path,
    number: usize,
    pub end: End,
    pub linux: bool,
    pub jailed: bool,
    pattern: Option<Pattern>,
    /// When the signal comes: after the start, or after the guest runs.
    moment: Duration,
    arguments: Vec<String>,
    sockets: Vec<PathBuf>,
}

/// Makes a drive, or empties it once nobody has it any more: in a jail whose supervisor was killed, all end a moment
/// later.
fn new_drive(path: &Path) {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false);
    let file = file.open(path).unwrap();
    file.lock().unwrap();
    file.set_len(0).unwrap();
    file.set_len(SECTORS * SECTOR as u64).unwrap();
}

/// Where mote keeps kernels that it unpacked: for all of them, beside the VMs' folders. It holds a few of them
/// for the next time, so it isn't counted.
fn shared_cache(folder: &Path) -> PathBuf {
    folder.with_file_name("cache")
}

/// How it went.
pub struct Outcome {
    /// The guest had run by the time of the signal.
    pub ran: bool,
    /// It ended as it should have, or why not.
    pub result: Result<(), String>,
}

impl<'a> SoakVm<'a> {
    /// The VM of this number.
    pub fn draw(shared: &Shared, number: usize, folder: &'a Path) -> Self {
        let mut random = Random::of(shared.seed, number);
        let end = random.one_of(&End::ALL);
        let linux = shared.linux.is_some() && random.once_in(8);
        let jailed = shared.jail.is_some() && random.once_in(3);
        Self::new(shared, number, folder, (end, linux, jailed), random)
    }

    /// One with a tiny guest and all that a VM can have, that ends by itself.
    pub fn full(shared: &Shared, number: usize, folder: &'a Path, jailed: bool) -> Self {
        let kind = (End::Reset, false, jailed);
        Self::new(shared, number, folder, kind, Random::full())
    }

    fn new(
        shared: &Shared,
        number: usize,
        folder: &'a Path,
        (end, linux, jailed): (End, bool, bool),
        mut random: Random,
    ) -> Self {
        let mut vm = SoakVm {
            folder,
            number,
            end,
            linux,
            jailed,
            pattern: None,
            moment: Duration::ZERO,
            arguments: Vec::new(),
            sockets: Vec::new(),
        };
        let start = shared.start.as_micros() as u64;
        let longest = match vm.end.signal() {
            Some((_, false)) => start,
            _ => 20_000,
        };
        vm.moment = Duration::from_micros(random.below(longest));
        vm.arguments = vm.options(shared, &mut random);
        vm
    }

    fn options(&mut self, shared: &Shared, random: &mut Random) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        let path = |name: &str| self.folder.join(name).display().to_string();
        let drives = 2 - random.below(3);
        match &shared.linux {
            Some((kernel, rootfs)) if self.linux => {
                self.end = match self.end {
                    End::PowerOff | End::Panic | End::Crash => End::Reset,
                    end => end,
                };
                option("--kernel", kernel.display().to_string());
                option("--rootfs", format!("{},ro", rootfs.display()));
                let command = match self.end.signal() {
                    None => "true",
                    Some(_) => "sleep 1000",
                };
                option("--cmdline", format!("quiet mote.run={command}"));
            }
            _ => {
                if drives > 0 {
                    let word = shared.seed as u32 ^ (self.number as u32) << 8;
                    self.pattern = Some(Pattern { word, count: 16 });
                }
                let compressed = random.once_in(4);
                option("--kernel", path("kernel"));
                fs::write(self.folder.join("kernel"), self.kernel(compressed)).unwrap();
                let memory = random.one_of(&[32, 64, 256]);
                let key = random.one_of(&["", ",prefault=on", ",thp=off"]);
                option("--memory", format!("{memory}M{key}"));
            }
        }
        option("--cpus", (1 + random.below(4)).to_string());
        for drive in 0..drives {
            let image = self.folder.join(format!("drive{drive}"));
            new_drive(&image);
            let engine = random.one_of(&["threads", "io_uring"]);
            let queues = 1 + random.below(2);
            let image = image.display();
            option(
                "--disk",
                format!("{image},engine={engine},queues={queues},cache=unsafe"),
            );
        }
        // What is made in a jail has a name only, and is in the jail's own folder.
        let made = match self.jailed {
            true => self.folder.join("jail").join(self.jail_id()).join("run"),
            false => self.folder.to_owned(),
        };
        let socket = |name: &str| match self.jailed {
            true => name.to_owned(),
            false => path(name),
        };
        if random.once_in(2) {
            option("--vsock", format!("cid=42,socket={}", socket("vsock")));
            self.sockets.push(made.join("vsock"));
        }
        let mut metrics = Vec::new();
        if random.once_in(2) {
            metrics.push(format!("unix={}", socket("metrics")));
            self.sockets.push(made.join("metrics"));
        }
        if random.once_in(4) {
            metrics.push(format!("file={}", socket("vm.prom")));
        }
        if !metrics.is_empty() {
            option("--metrics", metrics.join(","));
        }
        if shared.taps && random.once_in(3) {
            let queues = 1 + random.below(2);
            option(
                "--net",
                format!("tap=soak{},queues={queues}", self.number % 100_000),
            );
        }
        if let Some(passt) = &shared.passt
            && random.once_in(4)
            && !self.jailed
        {
            option("--net", format!("user,passt={}", passt.display()));
        }
        if random.once_in(4) {
            option("--balloon", "4M,free-page-reporting=off".to_owned());
        }
        let file = format!("file={}", path("console"));
        let consoles = [&file, "stdio", "none", "pty"];
        let console = random.one_of(&consoles[..if self.jailed { 3 } else { 4 }]);
        option("--console", console.to_owned());
        if let (true, Some(cgroup)) = (self.jailed, &shared.jail) {
            let (uid, id, root) = (20_000 + self.slot(), self.jail_id(), path("jail"));
            let cgroup = cgroup.as_ref();
            let cgroup = cgroup.map_or(String::new(), |path| format!(",cgroup={}", path.display()));
            option("--jail", format!("id={id},uid={uid},root={root}{cgroup}"));
        }
        words
    }

    /// The number of the folder, which only one VM is in at a time.
    fn slot(&self) -> u32 {
        let name = self.folder.file_name().unwrap().to_str().unwrap();
        name.parse().unwrap()
    }

    fn jail_id(&self) -> String {
        format!("vm{}", self.slot())
    }

    /// A guest that uses its drive, if it has one, and then ends or goes on for ever.
    fn kernel(&self, compressed: bool) -> Vec<u8> {
        let code = match self.pattern {
            Some(pattern) => pattern.code(Code::new()),
            None => Code::new(),
        };
        let code = match self.end {
            End::Reset => code.reset(),
            End::PowerOff => code.power_off(),
            End::Panic => code.panic(),
            End::Crash => code.crash(),
            _ => code.halt(),
        };
        match compressed {
            true => code.compressed_kernel(0),
            false => code.kernel(),
        }
    }

    /// Starts it, ends it, and looks how it ended.
    pub fn run(&self) -> Outcome {
        let out = File::create(self.folder.join("out")).unwrap();
        let err = File::create(self.folder.join("err")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command.args(["run", "--notify-fd", "2"]);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(out).stderr(err);
        command.env("XDG_CACHE_HOME", shared_cache(self.folder));
        command.env("TMPDIR", self.folder.join("tmp"));
        let mut child = command.spawn().unwrap();
        let (ran, result) = self.see_to_its_end(&mut child);
        let _ = child.kill();
        child.wait().unwrap();
        let result = result.map_err(|reason| {
            let (number, end) = (self.number, self.end.name());
            let arguments = self.arguments.join(" ");
            format!(
                "VM {number} ({end}): {reason}; mote run {arguments}\n{}",
                self.said()
            )
        });
        Outcome { ran, result }
    }

    fn see_to_its_end(&self, child: &mut Child) -> (bool, Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        let mut ended = None;
        if let Some((signal, running)) = self.end.signal() {
            while running && !self.runs() {
                ended = child.try_wait().unwrap();
                if ended.is_some() || Instant::now() > deadline {
                    let why = format!("its guest didn't come to run: {ended:?}");
                    return (false, Err(why));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            self.visit();
            std::thread::sleep(self.moment);
            // SAFETY: a process of this test's that it has not waited for.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
        while ended.is_none() {
            ended = child.try_wait().unwrap();
            if Instant::now() > deadline {
                return (self.runs(), Err("it doesn't end".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let ran = self.runs();
        (ran, ended.map_or(Ok(()), |status| self.check(status)))
    }

    /// Connects to its sockets, as clients do that don't stay.
    fn visit(&self) {
        for socket in &self.sockets {
            if let Ok(mut stream) = UnixStream::connect(socket) {
                let _ = stream.write_all(b"CONNECT 1\n");
            }
        }
    }

    /// The guest's first instruction was near: mote has said so.
    fn runs(&self) -> bool {
        self.said().contains("running ")
    }

    fn said(&self) -> String {
        let said = fs::read(self.folder.join("err")).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The exit status, what was printed, the drive, and that no socket is left.
    fn check(&self, status: ExitStatus) -> Result<(), String> {
        let handled = |code| status.code() == Some(code);
        let by = |signal| status.signal() == Some(signal);
        let right = match self.end {
            End::Reset | End::PowerOff => handled(0),
            End::Panic => handled(4),
            End::Crash => handled(5),
            End::TerminatedRunning => handled(143),
            // Before it heeds signals, the kernel ends it.
            End::TerminatedAnyTime => handled(143) || by(libc::SIGTERM) && !self.runs(),
            End::KilledRunning | End::KilledAnyTime => by(libc::SIGKILL),
        };
        if !right || self.said().contains("panicked at ") {
            return Err(format!("it ended with {status}"));
        }
        let by_itself = self.end.signal().is_none();
        if let (Some(pattern), true) = (self.pattern, by_itself)
            && fs::read(self.folder.join("drive0")).unwrap() != pattern.drive()
        {
            return Err("its drive isn't what its guest wrote".to_owned());
        }
        // Who is killed can't tidy up; the next VM here finds the sockets and must cope.
        let left = self.sockets.iter().find(|socket| socket.exists());
        match left {
            Some(socket) if status.code().is_some() => {
                Err(format!("it left {} behind", socket.display()))
            }
            _ => Ok(()),
        }
    }
}
