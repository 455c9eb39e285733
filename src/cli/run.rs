//! `mote run`: a VM from arguments or a file, run until its guest ends it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueHint};
use log::LevelFilter;
use motevm::check::{Root, has_hardware};
use motevm::config::{
    Acpi, Balloon, Console, Cpus, Disk, Endpoint, Fs, Memory, Metrics, Net, Protocol, Size, Vsock,
};
use motevm::machine::{Phase, Report, Timeline};
use motevm::{BuildOptions, Exit, Host, VmConfig, build};

use super::keyval;
use super::run_help::{
    BALLOON, CONSOLE, DISK, DRIVES, FS, METRICS, NET, NETWORKS, OTHERS, TOLD, VSOCK,
};
use super::signals::{ResizeOnSignal, StopOnSignals};
use super::terminal::RawTerminal;
use super::{CliError, Status, default_guest, limits, print, say, signals};

/// Arguments of `mote run`. Those that are given override the configuration file.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Read the VM's configuration from a TOML or JSON file; other options override it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Print the resulting configuration as TOML, and run nothing
    #[arg(long)]
    dump_config: bool,
    /// The kernel: a vmlinux (ELF) or a bzImage [default: the guest made by `make guest`]
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
    /// How the kernel is entered
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Number of vCPUs, 1 to 64 [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u8>,
    /// Guest memory, for example 512M or 2G [default: 128M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Hide CPU features, by their names in /proc/cpuinfo, for example cx16,xsave
    #[arg(long, value_name = "FLAGS", value_delimiter = ',')]
    cpu_mask: Option<Vec<String>>,
    /// Whether the guest finds ACPI tables [default: auto, on for a bzImage]
    #[arg(long, value_enum)]
    acpi: Option<Acpi>,
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
    /// Tell at the end where the boot time went, on standard error, or as JSON in a file
    #[arg(
        long,
        help_heading = TOLD,
        value_name = "json=PATH",
        num_args = 0..=1,
        default_missing_value = "",
        value_parser = parse_timings
    )]
    timings: Option<Timings>,
    /// What mote says of itself on standard error: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn", help_heading = TOLD)]
    log: LevelFilter,
}

/// Where the report goes.
#[derive(Clone, Debug)]
enum Timings {
    Text,
    Json(PathBuf),
}

/// Runs a VM; `exec` is when this process started.
pub fn run(args: RunArgs, exec: Instant) -> Result<Status, CliError> {
    env_logger::Builder::new()
        .filter_level(args.log)
        .format_timestamp(None)
        .init();
    let mut config = match &args.config {
        Some(path) => read_config(path)?,
        None => VmConfig::default(),
    };
    args.apply(&mut config);
    default_guest::fill_in(&mut config)?;
    // Before KVM is asked for: a wrong option is one on every host.
    config.validate().map_err(CliError::usage)?;
    if args.dump_config {
        let text = toml::to_string_pretty(&config);
        let text = text.map_err(|e| CliError::new(Status::Internal, e))?;
        print("configuration", |out| out.write_all(text.as_bytes()))?;
        return Ok(Status::Success);
    }

    let internal = |what| move |e| CliError::new(Status::Internal, format_args!("{what}: {e}"));
    signals::ignore_file_size_limit().map_err(internal("ignoring SIGXFSZ"))?;
    if config.vsock.is_some() {
        limits::raise_open_files();
    }
    let mut timeline = Timeline::starting_at(exec);
    let host = Host::open().map_err(|e| CliError::new(Status::Host, e))?;
    timeline.mark(Phase::KvmOpen);
    let mut vm = build(
        &host,
        &config,
        BuildOptions {
            timeline,
            ..BuildOptions::default()
        },
    )?;

    let stop_on_signals = StopOnSignals::new(vm.stopper()).map_err(internal("handling signals"))?;
    let resize_on_signal = match vm.console_resizer() {
        Some(resizer) => Some(ResizeOnSignal::new(resizer).map_err(internal("handling signals"))?),
        None => None,
    };
    if let Some(pty) = vm.pty() {
        say(format_args!("the guest's console is {}", pty.display()));
    }
    let terminal = match config.console {
        Console::Stdio | Console::Hvc(Endpoint::Stdio) => {
            RawTerminal::enter().map_err(internal("setting the terminal's mode"))?
        }
        _ => None,
    };
    let exit = vm.run().map_err(|e| CliError::new(Status::Host, e));
    drop(terminal);
    drop(resize_on_signal);
    drop(stop_on_signals);
    let exit = exit?;

    tell(&exit);
    if let Some(hint) = host_hint(&exit).or_else(|| vm.hint()) {
        say(format_args!("hint: {hint}"));
    }
    if let Some(timings) = &args.timings {
        write_report(timings, &vm.report())?;
    }
    Ok(Status::of(&exit, signals::received()))
}

/// Says how the VM ended where that isn't what one hopes for.
fn tell(exit: &Exit) {
    match exit {
        Exit::PowerOff | Exit::Reset | Exit::Quit | Exit::Stopped => {}
        Exit::Failed => say("a vCPU thread failed: this is a defect of mote"),
        Exit::Panic => say("the guest's kernel panicked"),
        Exit::Disconnected => say("a device's back-end went away (on-disconnect=exit)"),
        Exit::Crash(report) => say(format_args!("the guest crashed: {report}")),
    }
}

/// Advice where a crash is the host's doing.
fn host_hint(exit: &Exit) -> Option<String> {
    let crashed = matches!(exit, Exit::Crash(_));
    (crashed && !has_hardware(&Root::default())).then(|| {
        "this host's KVM has no hardware behind it and can't run Linux (`mote check`); \
         resources/on-kvm.sh in mote's source tree runs a command in an emulated machine that can."
            .to_owned()
    })
}

fn write_report(timings: &Timings, report: &Report) -> Result<(), CliError> {
    match timings {
        Timings::Text => say(format_args!("boot time\n{}", report.to_string().trim_end())),
        Timings::Json(path) => {
            let text = serde_json::to_string_pretty(report);
            let text = text.map_err(|e| CliError::new(Status::Internal, e))? + "\n";
            std::fs::write(path, text)
                .map_err(|e| CliError::usage(format!("--timings json={}: {e}", path.display())))?;
        }
    }
    Ok(())
}

fn read_config(path: &Path) -> Result<VmConfig, CliError> {
    let named =
        |e: &dyn std::fmt::Display| CliError::usage(format!("--config {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| named(&e))?;
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        serde_json::from_str(&text).map_err(|e| named(&e))
    } else {
        toml::from_str(&text).map_err(|e| named(&e))
    }
}

impl RunArgs {
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
        set(&mut config.cpus, self.cpus.map(Cpus).as_ref());
        set(&mut config.memory, self.memory.map(Memory).as_ref());
        set(&mut config.cpu_mask, self.cpu_mask.as_ref());
        set(&mut config.acpi, self.acpi.as_ref());
        set(&mut config.console, self.console.as_ref());
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

fn parse_disk(text: &str) -> Result<Disk, String> {
    keyval::parse(text, Some("path"))
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

fn parse_timings(text: &str) -> Result<Timings, String> {
    match text.split_once('=') {
        None if text.is_empty() => Ok(Timings::Text),
        Some(("json", path)) if !path.is_empty() => Ok(Timings::Json(path.into())),
        _ => Err("must be json=PATH, or nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
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
        assert_eq!(config.memory.0, Size::gib(1));
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
            &["--memory", "lots"],
            &["--timings", "xml=a"],
            &["--acpi", "maybe"],
            &["--vsock", "socket=v"],
            &["--vsock", "cid=x,socket=v"],
            &["--vsock", "cid=3,socket=v,colour=red"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
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
        let args = parse(&[
            "--rootfs",
            "r.ext4,ro",
            "--console",
            "file=a.log",
            "--timings",
        ]);
        let args = args.unwrap();
        assert_eq!(
            args.rootfs,
            Some(Disk {
                read_only: true,
                ..Disk::at("r.ext4")
            })
        );
        assert_eq!(args.console, Some(Console::File("a.log".into())));
        assert!(matches!(args.timings, Some(Timings::Text)));
    }
}
