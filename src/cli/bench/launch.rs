//! `mote bench launch`: many VMs at once: VMs per second and memory for each.

mod child;
mod crowd;
mod report;
mod signals;
mod text;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use motevm::VmConfig;
use motevm::config::{Console, Endpoint};
use serde::Serialize;

use super::{files, units};
use crate::cli::vm_args::VmArgs;
use crate::cli::{CliError, Status, default_guest, limits, print};
use crowd::{Crowd, Plan};
use report::LaunchReport;

/// The end of `mote bench launch --help`.
const HELP: &str = "\
All VMs have one configuration; where a value in it has {}, each VM's number from 1 on stands for that
(--disk disk{}.img, --vsock cid=3,socket=vm{}.sock). Consoles lead nowhere unless one is asked for
(--console file=log{}). The default guest sleeps when it is up.

Exit status:
  0    all VMs came up
  1    mote itself failed, or a guest didn't get there
  2    a wrong option, configuration or file
  3    the host lacks something that mote needs (KVM, memory, a limit)
  129, 130, 131, 143
       ended by a signal; all VMs are ended too";

/// Arguments of `mote bench launch`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct LaunchArgs {
    /// How many VMs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// How many may be on their way up at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    parallel: u32,
    /// When a VM is up
    #[arg(long, value_enum, default_value_t = Until::Init)]
    until: Until,
    /// End each VM as soon as it is up: only starts are measured, not memory
    #[arg(long, conflicts_with = "settle")]
    no_keep: bool,
    /// How long to let all VMs rest before memory is measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = rest)]
    settle: Duration,
    /// How long a VM may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    time_limit: Duration,
    /// Write the figures to a file, as JSON; - is standard output, in place of the tables, here and below
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json: Option<PathBuf>,
    /// Write the tables to a file, as Markdown
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    md: Option<PathBuf>,
    #[command(flatten)]
    vm: VmArgs,
}

/// When a VM is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Its guest's init has written to the boot timer (docs/boot.md)
    Init,
    /// Its first vCPU is about to run the guest
    Run,
}

/// Runs the benchmark.
pub fn run(args: &LaunchArgs) -> Result<Status, CliError> {
    let mut config = args.vm.config()?;
    let outputs = [("--json", &args.json), ("--md", &args.md)];
    files::check(&outputs)?;
    prepare(&mut config);
    let text = toml::to_string(&config);
    let plan = Plan {
        config: text.map_err(|e| CliError::new(Status::Internal, e))?,
        count: args.count,
        parallel: args.parallel,
        until: args.until,
        keep: !args.no_keep,
        settle: args.settle,
        time_limit: args.time_limit,
    };
    // Two for each VM.
    limits::raise_open_files();
    let outcome = Crowd::launch(&plan)?;
    let measured = match outcome {
        Ok(measured) => measured,
        Err(signal) => return Err(CliError::new(Status::Signal(signal), "interrupted")),
    };
    let report = LaunchReport::new(&plan, config, measured);
    let [json, md] = outputs;
    files::write(json, || files::json(&report))?;
    files::write(md, || Ok(text::markdown(&report)))?;
    if !files::take_stdout(&outputs) {
        print("figures", |out| write!(out, "{}", text::plain(&report)))?;
    }
    Ok(Status::Success)
}

/// Makes it a configuration for VMs that nobody types at.
fn prepare(config: &mut VmConfig) {
    if let Console::Stdio | Console::Hvc(Endpoint::Stdio) = config.console {
        config.console = Console::None;
    }
    // Its shell would end at once with no console, and the VM with it.
    if default_guest::is_it(config) && config.boot.cmdline.is_none() {
        config.boot.cmdline = Some("mote.run=\"sleep 1000000\"".to_owned());
    }
}

fn rest(text: &str) -> Result<Duration, String> {
    match text {
        _ if units::microseconds(text) == Some(0.0) => Ok(Duration::ZERO),
        _ => units::duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_vm_of_many_has_the_terminal() {
        let mut config = VmConfig::default();
        prepare(&mut config);
        assert_eq!(config.console, Console::None);
        config.console = Console::File("log{}".into());
        prepare(&mut config);
        assert_eq!(config.console, Console::File("log{}".into()));
    }
}
