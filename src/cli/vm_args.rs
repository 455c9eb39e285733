//! The options that say what a VM is: the same for every subcommand that runs one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use motevm::VmConfig;
use motevm::config::{
    Acpi, Balloon, Console, CpuList, Cpus, Disk, Endpoint, Fs, HaltPoll, Idle, KernelLoad, Memory,
    Metrics, Net, NumaNode, Pin, Protocol, Rng, Sched, Vsock,
};
use motevm::handed::{self, Access};

use super::run_help::{
    BALLOON, CONSOLE, DISK, DRIVES, FS, IDLE, MEMORY, METRICS, NET, NETWORKS, NUMA, OTHERS, PIN,
    PLACEMENT, SCHED, TOLD, VSOCK,
};
use super::{CliError, default_guest, keyval};

/// What a VM is, as arguments. Those that are given override the configuration file.
#[derive(Args, Debug)]
pub struct VmArgs {
    /// Read the VM's configuration from a TOML or JSON file; other options override it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The kernel: a vmlinux (ELF) or a bzImage, on AArch64 an Image [default: the guest made by `make
    /// guest`]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,
    /// An initial RAM disk
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,
    /// Add to the kernel's command line; a flag given here replaces mote's default of that name
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Leave out mote's default flags: only --cmdline and the devices' own entries
    #[arg(long)]
    cmdline_only: bool,
    /// How the kernel is entered (x86_64 only)
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// How the kernel gets into guest memory: copied, or mapped, so that VMs share its pages
    #[arg(long, value_enum, value_name = "HOW")]
    kernel_load: Option<KernelLoad>,
    /// Number of vCPUs, 1 to 64 [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u8>,
    /// Guest memory, for example 512M, or 2G,hugepages=2M [default: 128M]
    #[arg(long, value_name = "MEMORY", value_parser = parse_memory, long_help = MEMORY)]
    memory: Option<Memory>,
    /// Keep all memory of the guest and of mote in the host's: none of it is ever swapped out
    #[arg(long)]
    mlock: bool,
    /// Let the host keep equal pages of guest memory once, also those of several VMs (KSM)
    #[arg(long)]
    ksm: bool,
    /// Hide CPU features, by their names in /proc/cpuinfo: cx16,xsave or, on AArch64, aes,crc32
    #[arg(long, value_name = "FLAGS", value_delimiter = ',')]
    cpu_mask: Option<Vec<String>>,
    /// Give the guest the processor's performance counters, for perf in it
    #[arg(long)]
    pmu: bool,
    /// How long KVM polls before a halted vCPU sleeps: a time (50us), off or host [default: host]
    #[arg(long, value_name = "TIME")]
    halt_poll: Option<HaltPoll>,
    /// How a vCPU waits: halt, haltpoll, poll or pass-through [default: halt]
    #[arg(long, value_name = "MODE", value_parser = parse_idle, long_help = IDLE)]
    idle: Option<Idle>,
    /// Whether the guest finds ACPI tables, x86_64 only [default: auto, on for a bzImage]
    #[arg(long, value_enum)]
    acpi: Option<Acpi>,
    /// The host's CPUs for vCPU threads: 0=2,1=3 or, one for each vCPU, 2-5
    #[arg(long, value_name = "CPUS", help_heading = PLACEMENT, long_help = PIN)]
    pin: Option<Pin>,
    /// The host's CPUs for all other threads
    #[arg(long, value_name = "LIST", help_heading = PLACEMENT)]
    io_cpus: Option<CpuList>,
    /// How vCPU threads are scheduled: fifo:10, rr:10, other, or 0=fifo:10,1=other
    #[arg(long, value_name = "POLICY", help_heading = PLACEMENT, long_help = SCHED)]
    sched: Option<Sched>,
    /// The host's NUMA node for the guest's memory, and for all threads that aren't placed otherwise
    #[arg(long, value_name = "N", help_heading = PLACEMENT)]
    numa_node: Option<u16>,
    /// A NUMA node of the guest (repeatable): node=0,cpus=0-1,memory=1G
    #[arg(
        long,
        value_name = "NODE",
        value_parser = |text: &str| keyval::parse::<NumaNode>(text, None),
        help_heading = PLACEMENT,
        long_help = NUMA,
    )]
    numa: Vec<NumaNode>,
    /// The root file system, as first drive, with the root= for it; keys as of --disk
    #[arg(long, value_name = "DRIVE", value_parser = parse_disk, help_heading = DRIVES)]
    rootfs: Option<Disk>,
    /// A further drive (repeatable)
    #[arg(long, value_name = "DRIVE", value_parser = parse_disk, help_heading = DRIVES, long_help = DISK)]
    disk: Vec<Disk>,
    /// A folder that another process shares (virtiofs, repeatable): tag=TAG,socket=SOCKET
    #[arg(
        long,
        value_name = "FOLDER",
        value_parser = |text: &str| keyval::parse::<Fs>(text, None),
        help_heading = DRIVES,
        long_help = FS,
    )]
    fs: Vec<Fs>,
    /// A network device (repeatable): user, tap=NAME, fd=N or vhost-user=SOCKET
    #[arg(
        long,
        value_name = "NETWORK",
        value_parser = |text: &str| keyval::parse::<Net>(text, None),
        help_heading = NETWORKS,
        long_help = NET,
    )]
    net: Vec<Net>,
    /// Streams between programs in the guest and on the host: cid=N,socket=PATH or cid=N,vhost
    #[arg(
        long,
        value_name = "VSOCK",
        value_parser = |text: &str| keyval::parse::<Vsock>(text, None),
        help_heading = NETWORKS,
        long_help = VSOCK,
    )]
    vsock: Option<Vsock>,
    /// A memory balloon, and free memory back to the host
    #[arg(
        long,
        value_name = "BALLOON",
        num_args = 0..=1,
        default_missing_value = "free-page-reporting=on",
        value_parser = parse_balloon,
        help_heading = OTHERS,
        long_help = BALLOON,
    )]
    balloon: Option<Balloon>,
    /// Whether the guest has an entropy device [default: on]
    #[arg(long, value_enum, help_heading = OTHERS)]
    rng: Option<Rng>,
    /// The guest's console: [hvc,]stdio, [hvc,]pty, [hvc,]file=PATH or none [default: stdio]
    #[arg(long, value_name = "CONSOLE", value_parser = parse_console, help_heading = OTHERS, long_help = CONSOLE)]
    console: Option<Console>,
    /// Show metrics in the Prometheus text format: file=PATH, unix=PATH, or both
    #[arg(
        long,
        value_name = "METRICS",
        value_parser = parse_metrics,
        help_heading = TOLD,
        long_help = METRICS,
    )]
    metrics: Option<Metrics>,
}

impl VmArgs {
    /// The VM that the file and the arguments describe, checked.
    pub fn config(&self) -> Result<VmConfig, CliError> {
        self.config_with(|_| Ok(()))
    }

    /// The same, with what another option adds to it.
    pub fn config_with(
        &self,
        add: impl FnOnce(&mut VmConfig) -> Result<(), CliError>,
    ) -> Result<VmConfig, CliError> {
        let mut config = match &self.config {
            Some(path) => read_config(path)?,
            None => VmConfig::default(),
        };
        self.apply(&mut config);
        add(&mut config)?;
        default_guest::fill_in(&mut config)?;
        // Before KVM is asked for: a wrong option is one on every host.
        config.validate().map_err(CliError::usage)?;
        for (option, _, path) in config.paths_mut() {
            check_handed(option, path)?;
        }
        Ok(config)
    }

    /// Puts what was given over what the file said.
    fn apply(&self, config: &mut VmConfig) {
        fn set<T: Clone>(target: &mut T, given: Option<&T>) {
            if let Some(given) = given {
                *target = given.clone();
            }
        }
        let boot = &mut config.boot;
        boot.kernel = self.kernel.clone().or(boot.kernel.take());
        boot.initrd = self.initrd.clone().or(boot.initrd.take());
        boot.cmdline = self.cmdline.clone().or(boot.cmdline.take());
        boot.cmdline_only |= self.cmdline_only;
        set(&mut boot.protocol, self.protocol.as_ref());
        set(&mut boot.load, self.kernel_load.as_ref());
        set(&mut config.cpus, self.cpus.map(Cpus).as_ref());
        let memory = &mut config.memory;
        if let Some(given) = self.memory {
            *memory = Memory {
                mlock: memory.mlock || given.mlock,
                ksm: memory.ksm || given.ksm,
                ..given
            };
        }
        memory.mlock |= self.mlock;
        memory.ksm |= self.ksm;
        set(&mut config.cpu_mask, self.cpu_mask.as_ref());
        config.pmu |= self.pmu;
        set(&mut config.halt_poll, self.halt_poll.as_ref());
        set(&mut config.idle, self.idle.as_ref());
        set(&mut config.acpi, self.acpi.as_ref());
        set(&mut config.console, self.console.as_ref());
        set(&mut config.rng, self.rng.as_ref());
        let placement = &mut config.placement;
        placement.pin = self.pin.clone().or(placement.pin.take());
        placement.io_cpus = self.io_cpus.clone().or(placement.io_cpus.take());
        placement.sched = self.sched.clone().or(placement.sched.take());
        placement.numa_node = self.numa_node.or(placement.numa_node);
        if !self.numa.is_empty() {
            config.numa.clone_from(&self.numa);
        }
        config.rootfs = self.rootfs.clone().or(config.rootfs.take());
        config.vsock = self.vsock.clone().or(config.vsock.take());
        config.balloon = self.balloon.clone().or(config.balloon.take());
        config.metrics = self.metrics.clone().or(config.metrics.take());
        if !self.disk.is_empty() {
            config.disks.clone_from(&self.disk);
        }
        if !self.fs.is_empty() {
            config.fs.clone_from(&self.fs);
        }
        if !self.net.is_empty() {
            config.nets.clone_from(&self.net);
        }
    }
}

/// Refuses a descriptor that mote wasn't given, before one that mote opens can have its number.
pub fn check_handed(option: &str, path: &Path) -> Result<(), CliError> {
    let Some(fd) = handed::number(path) else {
        return Ok(());
    };
    handed::check(fd).map_err(|e| CliError::usage(format!("{option} {}: {e}", path.display())))
}

/// Far more than a VM has to say: what isn't a configuration at all shall not fill the memory.
const MOST_CONFIG: u64 = 1 << 20;
/// The longest description of a mistake there, in bytes.
const MOST_SHOWN: usize = 4096;

fn read_config(path: &Path) -> Result<VmConfig, CliError> {
    let named = |e: &dyn std::fmt::Display| {
        let mut what = e.to_string();
        if what.len() > MOST_SHOWN {
            what.truncate(what.floor_char_boundary(MOST_SHOWN));
            what.push_str("...");
        }
        CliError::usage(format!("--config {}: {what}", path.display()))
    };
    let mut text = String::new();
    let file = handed::open(path, Access::Read, File::options().read(true));
    let file = file.map_err(|e| named(&e))?;
    let read = file.take(MOST_CONFIG + 1).read_to_string(&mut text);
    let length = read.map_err(|e| named(&e))? as u64;
    if length > MOST_CONFIG {
        let what = "is larger than 1 MiB; give a TOML or JSON file that describes a VM";
        return Err(named(&what));
    }
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        serde_json::from_str(&text).map_err(|e| named(&e))
    } else {
        toml::from_str(&text).map_err(|e| {
            // With the line in question, if that is one to be read.
            match e.to_string() {
                shown if shown.len() > MOST_SHOWN => named(&e.message()),
                shown => named(&shown.trim_end()),
            }
        })
    }
}

fn parse_memory(text: &str) -> Result<Memory, String> {
    keyval::parse(text, Some("size"))
}

fn parse_disk(text: &str) -> Result<Disk, String> {
    keyval::parse(text, Some("path"))
}

fn parse_idle(text: &str) -> Result<Idle, String> {
    keyval::parse(text, Some("mode"))
}

fn parse_balloon(text: &str) -> Result<Balloon, String> {
    keyval::parse(text, Some("size"))
}

fn parse_metrics(text: &str) -> Result<Metrics, String> {
    keyval::parse(text, None)
}

fn parse_console(text: &str) -> Result<Console, String> {
    let endpoint = |text: &str| match text.split_once('=') {
        None if text == "stdio" => Some(Endpoint::Stdio),
        None if text == "pty" => Some(Endpoint::Pty),
        Some(("file", path)) if !path.is_empty() => Some(Endpoint::File(path.into())),
        _ => None,
    };
    let console = match text {
        "none" => Some(Console::None),
        "hvc" => Some(Console::Hvc(Endpoint::Stdio)),
        _ => match text.strip_prefix("hvc,") {
            Some(rest) => endpoint(rest).map(Console::Hvc),
            None => endpoint(text).map(|endpoint| match endpoint {
                Endpoint::Stdio => Console::Stdio,
                Endpoint::Pty => Console::Pty,
                Endpoint::File(path) => Console::File(path),
            }),
        },
    };
    console.ok_or_else(|| {
        "must be none, or stdio, pty or file=PATH for the serial port, or hvc, hvc,pty or \
         hvc,file=PATH for a virtio console"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use motevm::config::{HugePages, Size};

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: VmArgs,
    }

    fn parse(words: &[&str]) -> Result<VmArgs, clap::Error> {
        let words = ["run"].iter().chain(words);
        Only::try_parse_from(words).map(|only| only.args)
    }

    #[test]
    fn arguments_override_the_file() {
        let mut config: VmConfig = toml::from_str(
            "cpus = 2\nmemory = \"1G\"\n[boot]\nkernel = \"a\"\n[[disks]]\npath = \"x\"",
        )
        .unwrap();
        let disk = "path=y,ro,id=data,cache=none,engine=io_uring,queues=2,iops=5,bw-burst=1K";
        let args = parse(&["--cpus", "4", "--disk", disk]).unwrap();
        args.apply(&mut config);
        assert_eq!(config.cpus.0, 4);
        assert_eq!(config.memory.size, Size::gib(1));
        assert_eq!(config.boot.kernel, Some("a".into()));
        let expected = Disk {
            read_only: true,
            id: Some("data".to_owned()),
            cache: motevm::config::Cache::None,
            engine: motevm::config::Engine::IoUring,
            queues: motevm::config::Queues(2),
            iops: Some(5),
            bw_burst: Some(Size::new(1024)),
            ..Disk::at("y")
        };
        assert_eq!(config.disks, [expected]);
    }

    #[test]
    fn every_wrong_option_is_refused() {
        for words in [
            ["--disk", "path=a,color=red"].as_slice(),
            &["--disk", "path=a,cache=maybe"],
            &["--disk", "path="],
            &["--rootfs", "a,queues=many"],
            &["--disk", "a,engine=steam"],
            &["--console", "file="],
            &["--console", "tty"],
            &["--console", "hvc,tty"],
            &["--console", "hvc,none"],
            &["--balloon", "size=lots"],
            &["--balloon", "colour=red"],
            &["--rng", "maybe"],
            &["--memory", "lots"],
            &["--memory", "1G,hugepages=4M"],
            &["--memory", "1G,prefault=maybe"],
            &["--memory", "1G,colour=red"],
            &["--acpi", "maybe"],
            &["--pin", "0=x"],
            &["--io-cpus", "3-1"],
            &["--sched", "fifo:100"],
            &["--numa-node", "-1"],
            &["--numa", "node=0,memory=1G,cpus=0,2"],
            &["--halt-poll", "50"],
            &["--halt-poll", "2s"],
            &["--idle", "sleep"],
            &["--idle", "poll,gently"],
            &["--vsock", "socket=v"],
            &["--vsock", "cid=x,socket=v"],
            &["--vsock", "cid=3,socket=v,colour=red"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn memory_is_a_size_and_how_it_is_kept() {
        let mut config: VmConfig =
            toml::from_str("memory = { size = \"1G\", ksm = true, thp = false }").unwrap();
        let apply = |words: &[&str], config: &mut VmConfig| {
            parse(words).unwrap().apply(config);
            config.memory
        };
        let memory = apply(&["--mlock"], &mut config);
        assert!(memory.mlock && memory.ksm && !memory.thp && memory.size == Size::gib(1));
        let expected = Memory {
            mlock: true,
            ksm: true,
            ..Memory::from(Size::mib(256))
        };
        assert_eq!(apply(&["--memory", "256M"], &mut config), expected);
        let expected = Memory {
            hugepages: Some(HugePages::Size1G),
            prefault: true,
            ..expected
        };
        let words = ["--memory", "size=256M,hugepages=1G,prefault"];
        assert_eq!(apply(&words, &mut config), expected);
    }

    #[test]
    fn a_place_is_what_the_file_can_say_too() {
        let mut config: VmConfig = toml::from_str("[placement]\npin = \"0\"").unwrap();
        let words = "--pin 0=2,1=3 --io-cpus 0-1 --sched 0=rr:5 --numa-node 1 --numa \
                     node=0,cpus=0,,2,memory=64M,host-node=1,distances=10:20 --numa node=1,memory=64M";
        let words: Vec<_> = words.split_whitespace().collect();
        parse(&words).unwrap().apply(&mut config);
        let expected = "[placement]\npin = \"0=2,1=3\"\nio-cpus = \"0-1\"\nsched = \"other,0=rr:5\"\n\
                        numa-node = 1\n[[numa]]\nnode = 0\ncpus = \"0,2\"\nmemory = \"64M\"\nhost-node = 1\n\
                        distances = \"10:20\"\n[[numa]]\nnode = 1\nmemory = \"64M\"";
        assert_eq!(config, toml::from_str(expected).unwrap());
    }

    #[test]
    fn a_console_is_a_port_and_where_it_leads() {
        for (text, expected) in [
            ("stdio", Console::Stdio),
            ("none", Console::None),
            ("pty", Console::Pty),
            ("file=a,b", Console::File("a,b".into())),
            ("hvc", Console::Hvc(Endpoint::Stdio)),
            ("hvc,stdio", Console::Hvc(Endpoint::Stdio)),
            ("hvc,pty", Console::Hvc(Endpoint::Pty)),
            ("hvc,file=a", Console::Hvc(Endpoint::File("a".into()))),
        ] {
            assert_eq!(parse_console(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn idling_is_two_options() {
        let mut config = VmConfig::default();
        parse(&["--memory", "1G"]).unwrap().apply(&mut config);
        assert_eq!((config.halt_poll, config.idle), Default::default());
        let words = ["--halt-poll", "50us", "--idle", "pass-through,force"];
        parse(&words).unwrap().apply(&mut config);
        assert_eq!(config.halt_poll.to_string(), "50us");
        let mode = motevm::config::IdleMode::PassThrough;
        assert_eq!(config.idle, Idle { mode, force: true });
    }

    #[test]
    fn a_balloon_needs_no_more_than_its_name() {
        let balloon = |words: &[&str]| parse(words).unwrap().balloon;
        assert_eq!(balloon(&[]), None);
        assert_eq!(balloon(&["--balloon"]), Some(Balloon::default()));
        let size = Balloon {
            size: Size::mib(64),
            ..Balloon::default()
        };
        assert_eq!(balloon(&["--balloon", "64M"]), Some(size));
        let other = Balloon {
            stats: Some(5),
            deflate_on_oom: true,
            free_page_reporting: false,
            ..Balloon::default()
        };
        let text = "stats=5,deflate-on-oom,free-page-reporting=off";
        assert_eq!(balloon(&["--balloon", text]), Some(other));
    }

    #[test]
    fn rootfs_and_console_have_short_forms() {
        let args = parse(&["--rootfs", "r.ext4,ro", "--console", "file=a.log"]);
        let args = args.unwrap();
        assert_eq!(
            args.rootfs,
            Some(Disk {
                read_only: true,
                ..Disk::at("r.ext4")
            })
        );
        assert_eq!(args.console, Some(Console::File("a.log".into())));
    }
}
