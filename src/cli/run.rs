//! `mote run`: a VM from arguments or a file, run until its guest ends it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use log::LevelFilter;
use motevm::config::{Jail, PathUse};
use motevm::handed::{self, Access};
use motevm::jail::{self, Besides, JailError, Side};
use motevm::machine::{Phase, Report, Timeline, Until};
use motevm::{BuildOptions, Host, VmConfig, build};

use super::api::ApiArgs;
use super::image::{ImageArgs, Session};
use super::run_help::{ISOLATION, JAIL, TOLD};
use super::sandbox::{Sandbox, SandboxArgs};
use super::vm_args::{self, VmArgs};
use super::{CliError, Status, keyval, life, limits, notify_fd, print, say, signals, until};

/// Arguments of `mote run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    vm: VmArgs,
    #[command(flatten)]
    image: ImageArgs,
    /// Print the resulting configuration as TOML, and run nothing
    #[arg(long)]
    dump_config: bool,
    /// Write the device tree that the guest gets to a file, for `dtc -I dtb`, and run it (AArch64 only)
    #[arg(long, value_name = "FILE")]
    dump_fdt: Option<PathBuf>,
    /// End the VM, with status 0, once init has signalled (init), or once the console has printed a
    /// text (serial:TEXT)
    #[arg(long, value_name = "init|serial:TEXT", value_parser = until::parse)]
    until: Option<Until>,
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
    /// Write a line into this open descriptor when the guest first runs, and when its init has
    /// signalled: `running` or `init`, and the microseconds since exec
    #[arg(long, value_name = "N", help_heading = TOLD, value_parser = clap::value_parser!(i32).range(0..))]
    notify_fd: Option<i32>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// Run in a jail, for production: id=NAME, with uid=N as root
    #[arg(
        long,
        value_name = "JAIL",
        help_heading = ISOLATION,
        value_parser = |text: &str| keyval::parse::<Jail>(text, None),
        long_help = JAIL,
    )]
    jail: Option<Jail>,
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

impl Timings {
    fn path(&self) -> Option<&Path> {
        match self {
            Timings::Text => None,
            Timings::Json(path) => Some(path),
        }
    }

    fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Timings::Text => None,
            Timings::Json(path) => Some(path),
        }
    }
}

/// Runs a VM; `exec` is when this process started.
pub fn run(mut args: RunArgs, exec: Instant) -> Result<Status, CliError> {
    env_logger::Builder::new()
        .filter_level(args.log)
        .format_timestamp(None)
        .init();
    let mut workload = None;
    let mut config = args.vm.config_with(|config| {
        workload = args.image.prepare(config)?;
        Ok(())
    })?;
    if args.dump_config {
        let text = toml::to_string_pretty(&config);
        let text = text.map_err(|e| CliError::new(Status::Internal, e))?;
        print("configuration", |out| out.write_all(text.as_bytes()))?;
        return Ok(Status::Success);
    }

    let json = args.timings.as_ref().and_then(Timings::path);
    for (option, path) in [
        ("--timings json", json),
        ("--dump-fdt", args.dump_fdt.as_deref()),
        ("--api", args.api.socket()),
    ] {
        path.map_or(Ok(()), |path| vm_args::check_handed(option, path))?;
    }
    let until = args.until.clone().unwrap_or_default();
    until::check(&until, &config.console)?;

    // Before anything of mote's own is open.
    let sandbox = Sandbox::enter(args.sandbox, &config, args.notify_fd)?;
    let mut timeline = Timeline::starting_at(exec);
    let host = Host::open().map_err(|e| CliError::new(Status::Host, e))?;
    if let Some(ended) = enter_jail(&mut args, &mut config, &host)? {
        return Ok(ended);
    }
    let session = workload.map(|workload| Session::new(&workload, &config));
    let session = session.transpose()?;
    timeline.mark(Phase::KvmOpen);

    let internal = |what| move |e| CliError::new(Status::Internal, format_args!("{what}: {e}"));
    signals::ignore_file_size_limit().map_err(internal("ignoring SIGXFSZ"))?;
    if config.vsock.is_some() {
        limits::raise_open_files();
    }
    if config.memory.mlock {
        limits::lock_process()?;
    }
    let api = args.api.open(args.jail.as_ref())?;
    // Once the guest runs, no file can be opened.
    let written = args.timings.as_ref().map(Timings::open).transpose()?;
    let mut vm = build(
        &host,
        &config,
        BuildOptions {
            timeline,
            tell_memory: args.timings.is_some(),
            notify: args.notify_fd.map(notify_fd::take).transpose()?,
            until,
            confine: sandbox.confine(),
            dump_fdt: args.dump_fdt,
            reach: args.api.reach(),
            own_port: session.as_ref().map(Session::port),
            ..BuildOptions::default()
        },
    )?;

    if config.memory.mlock {
        limits::lock_what_comes()?;
    }
    let name = api.map(|api| api.attend(&mut vm, &config));
    let exit = life::live(&mut vm, &config, sandbox, session.as_ref());
    drop(name);
    let exit = exit?;

    life::tell(&exit, &vm, args.jail.is_some());
    if let Some(written) = written {
        written.write(&vm.report())?;
    }
    let status = Status::of(&exit, signals::received());
    session.map_or(Ok(status), |session| session.status(status))
}

/// Enters the jail, if there is to be one. Outside of it, returns when the VM in it has ended.
fn enter_jail(
    args: &mut RunArgs,
    config: &mut VmConfig,
    host: &Host,
) -> Result<Option<Status>, CliError> {
    let Some(jail) = &args.jail else {
        return Ok(None);
    };
    let json = args.timings.as_mut().and_then(Timings::path_mut);
    let json = json.map(|path| ("--timings json", PathUse::Write, path));
    let fdt = args.dump_fdt.as_mut();
    let fdt = fdt.map(|path| ("--dump-fdt", PathUse::Write, path));
    let api = args.api.socket_mut();
    let api = api.map(|path| ("--api", PathUse::Listen, path));
    let besides = Besides {
        paths: json.into_iter().chain(fdt).chain(api).collect(),
        handed: args.notify_fd.into_iter().collect(),
        shared: vec![host.as_raw_fd()],
    };
    match jail::enter(jail, config, besides).map_err(of_jail)? {
        Side::Jailed => Ok(None),
        Side::Supervisor(outcome) => Ok(Some(match outcome.status() {
            Ok(code) => Status::Passed(code),
            Err(signal) => {
                let why = match outcome.is_out_of_memory() {
                    true => ": it needed more memory than --jail memory= allows",
                    false => "",
                };
                // One of these was passed on, and came before there was a VM to stop.
                if !signals::ENDING.contains(&signal) {
                    say(format_args!(
                        "the jailed process was killed by signal {signal}{why}"
                    ));
                }
                Status::Signal(signal)
            }
        })),
    }
}

fn of_jail(error: JailError) -> CliError {
    let status = match error.is_hosts() {
        true => Status::Host,
        false => Status::Usage,
    };
    CliError::new(status, error)
}

/// Where the report is written, once it can be.
enum Written {
    Text,
    Json(PathBuf, File),
}

impl Timings {
    fn open(&self) -> Result<Written, CliError> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        match self {
            Timings::Text => Ok(Written::Text),
            Timings::Json(path) => match handed::open(path, Access::Write, &options) {
                Ok(file) => Ok(Written::Json(path.clone(), file)),
                Err(e) => Err(not_written(path, &e)),
            },
        }
    }
}

impl Written {
    fn write(self, report: &Report) -> Result<(), CliError> {
        match self {
            Written::Text => say(format_args!("boot time\n{}", report.to_string().trim_end())),
            Written::Json(path, mut file) => {
                let text = serde_json::to_string_pretty(report);
                let text = text.map_err(|e| CliError::new(Status::Internal, e))? + "\n";
                let written = file.write_all(text.as_bytes());
                written.map_err(|e| not_written(&path, &e))?;
            }
        }
        Ok(())
    }
}

fn not_written(path: &Path, error: &std::io::Error) -> CliError {
    CliError::usage(format!("--timings json={}: {error}", path.display()))
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

    #[test]
    fn the_report_is_text_or_json() {
        assert!(matches!(parse_timings(""), Ok(Timings::Text)));
        assert!(matches!(parse_timings("json=a"), Ok(Timings::Json(_))));
        assert!(parse_timings("xml=a").is_err());
    }
}
