//! `mote serve`: a VM that other programs describe, start and control over an API.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueHint};
use log::LevelFilter;
use motevm::api::Api;
use motevm::machine::Timeline;
use motevm::sandbox::Confine;
use motevm::{BuildOptions, Host, Vm, VmConfig, build};

use super::api::Given;
use super::log_file::{self, LogFile};
use super::run_help::TOLD;
use super::sandbox::{Sandbox, SandboxArgs};
use super::signals::{self, NoteSignals};
use super::{CliError, Status, life, limits, vm_args};

/// Arguments of `mote serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The Unix socket at which the VM is described, started and controlled
    #[arg(long, alias = "api-sock", value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    api: PathBuf,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// What mote says of itself: off, error, warn, info, debug or trace
    #[arg(
        long,
        alias = "level",
        value_name = "LEVEL",
        default_value = "warn",
        help_heading = TOLD,
        value_parser = log_file::level,
    )]
    log: LevelFilter,
    /// Where mote says it, in place of standard error
    #[arg(long, value_name = "FILE", help_heading = TOLD, value_hint = ValueHint::FilePath)]
    log_path: Option<PathBuf>,
}

/// Answers until the VM has ended, or nobody wants it any more.
pub fn run(args: &ServeArgs) -> Result<Status, CliError> {
    vm_args::check_handed("--api", &args.api)?;
    let log = LogFile::start(args.log, args.log_path.as_deref())?;
    let sandbox = Sandbox::enter(args.sandbox, &VmConfig::default(), None)?;
    let host = Host::open().map_err(|e| CliError::new(Status::Host, e))?;
    let internal = |what| move |e| CliError::new(Status::Internal, format_args!("{what}: {e}"));
    signals::ignore_file_size_limit().map_err(internal("ignoring SIGXFSZ"))?;
    let noted = NoteSignals::new().map_err(internal("handling signals"))?;
    let api = args
        .given
        .open("--api", &args.api, None, Some(log.setter()))?;
    let Some((mut vm, config, name)) = start(args, api, &host, &noted, sandbox.confine())? else {
        return Ok(signals::received().map_or(Status::Success, Status::Signal));
    };
    // One that came while the VM was built ends it as soon as it runs.
    drop(noted);
    if signals::received().is_some() {
        vm.stopper().stop();
    }
    let exit = life::live(&mut vm, &config, sandbox, None);
    drop(name);
    let exit = exit?;
    life::tell(&exit, &vm, false);
    Ok(Status::of(&exit, signals::received()))
}

type Started = (Vm, VmConfig, motevm::api::Name);

/// Takes orders until there is a VM; `None` where there is to be none any more.
fn start(
    args: &ServeArgs,
    mut api: Api,
    host: &Host,
    noted: &NoteSignals,
    confine: Confine,
) -> Result<Option<Started>, CliError> {
    loop {
        let orders = api.take_orders(noted.event());
        let orders = orders.map_err(|e| {
            CliError::new(Status::Internal, format_args!("waiting for requests: {e}"))
        })?;
        let Some(config) = orders else {
            return Ok(None);
        };
        if config.vsock.is_some() {
            limits::raise_open_files();
        }
        let options = BuildOptions {
            // What was before is the caller's time.
            timeline: Timeline::starting_at(Instant::now()),
            confine,
            reach: Some(args.given.reach(&args.api)),
            ..BuildOptions::default()
        };
        match build(host, &config, options) {
            Ok(mut vm) => {
                let name = api.attend(&mut vm, &config);
                return Ok(Some((vm, config, name)));
            }
            Err(error) => {
                log::warn!("the VM can't be started: {error}");
                api.refuse(&error.to_string());
            }
        }
    }
}
