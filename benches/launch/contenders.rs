//! Who is measured: programs that start the same guest, each with memory of some kind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const MEMORY_MIB: u64 = 128;

/// A kind of guest memory, and what each program calls it.
pub struct Backing {
    pub name: &'static str,
    /// The third argument of benches/floor.
    pub floor: &'static str,
    /// Behind mote's `--memory 128M`.
    pub memory: &'static str,
    /// Further arguments of mote's.
    pub more: &'static [&'static str],
}

/// What is compared with the floor. The first is mote's default.
pub const BACKINGS: [Backing; 5] = [
    Backing {
        name: "huge pages (THP)",
        floor: "thp",
        memory: "",
        more: &[],
    },
    Backing {
        name: "small pages",
        floor: "small",
        memory: ",thp=off",
        more: &[],
    },
    Backing {
        name: "pool of 2M pages",
        floor: "pool",
        memory: ",hugepages=2M",
        more: &[],
    },
    Backing {
        name: "THP, prefault",
        floor: "prefault",
        memory: ",prefault=on",
        more: &[],
    },
    Backing {
        name: "THP, kernel mapped",
        floor: "map",
        memory: "",
        more: &["--kernel-load", "map"],
    },
];

impl Backing {
    /// Why this host can't have it.
    pub fn obstacle(&self) -> Option<String> {
        if self.floor != "pool" {
            return None;
        }
        let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        let free = fs::read_to_string(file).unwrap_or_default();
        let free: u64 = free.trim().parse().unwrap_or(0);
        (free < MEMORY_MIB / 2).then(|| {
            let needed = MEMORY_MIB / 2;
            format!(
                "{free} free huge pages; echo {needed} > {}",
                file.replace("free_", "nr_")
            )
        })
    }
}

/// What the programs are given.
pub struct Files {
    pub kernel: PathBuf,
    pub disk: PathBuf,
    pub floor: PathBuf,
}

pub fn floor(files: &Files, backing: &str, cpus: u32) -> Command {
    let mut command = Command::new(&files.floor);
    command.arg(&files.kernel).arg(MEMORY_MIB.to_string());
    command.arg(backing).arg(cpus.to_string());
    command
}

pub fn mote(program: &Path, files: &Files, backing: &Backing, cpus: u32) -> Command {
    let mut command = Command::new(program);
    command.args(["run", "--console", "none", "--kernel"]);
    command.arg(&files.kernel);
    command.arg("--disk").arg(&files.disk);
    command.args(["--memory", &format!("{MEMORY_MIB}M{}", backing.memory)]);
    command.args(["--cpus", &cpus.to_string()]);
    command.args(backing.more);
    command
}

/// QEMU's smallest machine of each architecture: `virt` has a PCI bridge and a clock besides.
const MACHINE: [&str; 4] = match cfg!(target_arch = "aarch64") {
    true => ["-M", "virt,gic-version=host,its=off", "-cpu", "host"],
    false => [
        "-M",
        "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off",
        "-cpu",
        "host,arch-capabilities=off",
    ],
};
/// What it is called.
pub const QEMU: &str = match cfg!(target_arch = "aarch64") {
    true => "QEMU virt",
    false => "QEMU microvm",
};

/// QEMU's smallest machine, with no device that mote's doesn't have.
pub fn qemu(files: &Files) -> Command {
    let mut command = Command::new(format!("qemu-system-{}", std::env::consts::ARCH));
    command.args(MACHINE).args(["-accel", "kvm", "-smp", "1"]);
    command.args(["-m", &MEMORY_MIB.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-no-reboot", "-global", "virtio-mmio.force-legacy=false"]);
    command.arg("-kernel").arg(&files.kernel);
    let drive = format!("file={},format=raw,if=none,id=d", files.disk.display());
    command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=d"]);
    command.args(["-device", "virtio-rng-device"]);
    command
}
