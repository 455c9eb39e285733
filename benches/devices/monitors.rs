//! Who runs the guests, and with what.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::{Guest, OBEY};
use crate::jobs::FUNCTIONS;
use crate::network::{Network, TAP};

/// A file with nothing in it, which the kernel reads as zeros.
pub const NULL_SIZE: u64 = 16 << 30;
/// A file with something in it.
pub const FILE_SIZE: u64 = 64 << 20;
/// Of each guest.
pub const MEMORY_MIB: u32 = 128;

/// A monitor with its guest.
pub struct Contender {
    pub name: &'static str,
    pub guest: Guest,
    /// What the names of its vCPU threads begin with.
    pub vcpu: &'static str,
    pub network: Option<Network>,
}

#[derive(Clone, Copy)]
enum Monitor {
    Mote,
    Qemu,
}

/// Whether more of the work is the kernel's: io_uring and vhost-net.
type ByKernel = bool;

/// What differs between processors: QEMU's smallest machine and its name, its guest's console, the
/// default guest's kernel.
const QEMU: &str = match cfg!(target_arch = "aarch64") {
    true => "QEMU virt",
    false => "QEMU microvm",
};
const MACHINE: &[&str] = match cfg!(target_arch = "aarch64") {
    true => &[
        "-M",
        "virt,gic-version=host",
        "-device",
        "virtio-serial-device",
        "-chardev",
        "stdio,id=console",
        "-device",
        "virtconsole,chardev=console",
    ],
    false => &[
        "-M",
        "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on",
        "-serial",
        "stdio",
    ],
};
const CMDLINE: &str = match cfg!(target_arch = "aarch64") {
    true => "quiet console=hvc0 panic=-1 root=/dev/vda ro",
    false => "quiet console=ttyS0 reboot=t panic=-1 root=/dev/vda ro no_timer_check",
};
const KERNEL: &str = match cfg!(target_arch = "aarch64") {
    true => "Image",
    false => "vmlinux",
};

const CONTENDERS: [(&str, Monitor, ByKernel); 4] = [
    ("mote", Monitor::Mote, false),
    (QEMU, Monitor::Qemu, false),
    ("mote, io_uring, vhost", Monitor::Mote, true),
    ("QEMU, io_uring, vhost", Monitor::Qemu, true),
];

/// All monitors, their guests up. One that can't be had is named; plain mote's failure is a panic.
pub fn start(folder: &Path, memory: &Path) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for (number, (name, monitor, by_kernel)) in CONTENDERS.into_iter().enumerate() {
        let network = Network::new(number);
        let network = network
            .map_err(|e| eprintln!("NOT RUN: the network of {name}: {e}"))
            .ok();
        let files = Files::make(folder, memory, number);
        let (command, vcpu) = match monitor {
            Monitor::Mote => (mote(&files, network.as_ref(), by_kernel), "mote-vcpu"),
            Monitor::Qemu => (qemu(&files, network.as_ref(), by_kernel), "CPU "),
        };
        match Guest::start(command) {
            Ok(guest) => contenders.push(Contender {
                name,
                guest,
                vcpu,
                network,
            }),
            Err(e) if number == 0 => panic!("{e}"),
            Err(e) => eprintln!("NOT RUN: {name}: {e}"),
        }
    }
    for contender in &mut contenders {
        let network = contender.network.is_some();
        for function in FUNCTIONS.into_iter().chain(network.then_some("dev")) {
            let (said, _) = contender.guest.run(function);
            assert!(said.is_empty(), "{}: {said}", contender.name);
        }
    }
    contenders
}

/// What a guest gets, in the host's files.
struct Files {
    kernel: PathBuf,
    rootfs: PathBuf,
    null: PathBuf,
    file: PathBuf,
}

impl Files {
    /// Images of the guest's own in two folders, the second of which is in memory.
    fn make(folder: &Path, memory: &Path, number: usize) -> Self {
        let cache = std::env::var_os("MOTE_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| {
            let home =
                || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
            let cache = std::env::var_os("XDG_CACHE_HOME");
            cache.map_or_else(home, PathBuf::from).join("mote")
        });
        let guest = cache.join("guest").join(std::env::consts::ARCH);
        let null = memory.join(format!("null{number}"));
        let nothing = File::create(&null).and_then(|file| file.set_len(NULL_SIZE));
        nothing.expect("an image of nothing");
        let file = folder.join(format!("file{number}"));
        std::fs::write(&file, vec![0x5a; FILE_SIZE as usize]).expect("an image");
        Self {
            kernel: guest.join(KERNEL),
            rootfs: guest.join("test-rootfs.ext4"),
            null,
            file,
        }
    }
}

/// `program`, where its network is.
fn command(program: &str, network: Option<&Network>) -> Command {
    network.map_or_else(|| Command::new(program), |network| network.command(program))
}

fn mote(files: &Files, network: Option<&Network>, by_kernel: ByKernel) -> Command {
    let (engine, vhost) = match by_kernel {
        false => ("threads", ""),
        true => ("io_uring", ",vhost"),
    };
    let mut command = command(env!("CARGO_BIN_EXE_mote"), network);
    command.args(["run", "--kernel"]).arg(&files.kernel);
    command
        .arg("--rootfs")
        .arg(format!("{},ro", files.rootfs.display()));
    for disk in [&files.null, &files.file] {
        let disk = format!("path={},engine={engine}", disk.display());
        command.args(["--disk", &disk]);
    }
    if network.is_some() {
        command.args(["--net", &format!("tap={TAP}{vhost}")]);
    }
    let (memory, cmdline) = (format!("{MEMORY_MIB}M"), format!("quiet {OBEY}"));
    command.args(["--memory", &memory, "--cmdline", &cmdline]);
    command
}

/// QEMU's smallest machine, with no device that mote's doesn't have.
fn qemu(files: &Files, network: Option<&Network>, by_kernel: ByKernel) -> Command {
    let (drive, device, vhost) = match by_kernel {
        false => ("aio=threads", "", "off"),
        true => ("aio=io_uring", ",iothread=io", "on"),
    };
    let program = format!("qemu-system-{}", std::env::consts::ARCH);
    let mut command = command(&program, network);
    command.args(MACHINE);
    command.args([
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        &MEMORY_MIB.to_string(),
    ]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-name", "bench,debug-threads=on"]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    if by_kernel {
        command.args(["-object", "iothread,id=io"]);
    }
    command.arg("-kernel").arg(&files.kernel);
    command.args(["-append", &format!("{CMDLINE} {OBEY}")]);
    let mut drives = [
        ("root", &files.rootfs, ",readonly=on"),
        ("null", &files.null, ""),
        ("file", &files.file, ""),
    ];
    // `virt` gives its places away from the last one on.
    if cfg!(target_arch = "aarch64") {
        drives.reverse();
    }
    for (id, path, more) in drives {
        let path = path.display();
        let drive = format!("file={path},format=raw,if=none,id={id},{drive}{more}");
        let device = format!("virtio-blk-device,drive={id}{device}");
        command.args(["-drive", &drive, "-device", &device]);
    }
    if network.is_some() {
        let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost={vhost}");
        command.args(["-netdev", &tap, "-device", "virtio-net-device,netdev=net"]);
    }
    command
}
