//! `mote bench boot`: boots of one VM, one after the other: times by phase, counts, gates.

mod gate;
mod html;
mod judge;
mod markdown;
mod monitor;
mod picture;
mod quantile;
mod report;
mod runs;
mod samples;
mod significance;
mod syscalls;
mod text;
mod versus;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use motevm::check::{Identity, Root};
use motevm::machine::Until;

use super::{files, units};

use self::gate::{Budget, Regression};
use self::monitor::{Mote, Other};
use self::report::{Guest, Plan, Report};
use self::runs::Runs;
use crate::cli::signals::{self, NoteSignals};
use crate::cli::vm_args::VmArgs;
use crate::cli::{CliError, Status, print, say, until};

const MEASURED: &str = "What is measured";
const TOLD: &str = "Where it is told";
const GATES: &str = "Gates";
const VS: &str = "Another monitor";

/// The end of `mote bench boot --help`.
const HELP: &str = "\
Each run is a new process of this program. docs/ci.md has workflows for CI.

Exit status:
  0    measured, and every gate passed
  8    measured, and a gate did not pass: each is named on standard error
  others, as of mote run: what kept a VM from booting";

/// Arguments of `mote bench boot`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct BootArgs {
    #[command(flatten)]
    vm: VmArgs,
    /// How many boots are measured
    #[arg(long, value_name = "N", default_value_t = 50, help_heading = MEASURED,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// How many boots come before those, and aren't counted
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = MEASURED,
          value_parser = clap::value_parser!(u32).range(..=100_000))]
    warmup: u32,
    /// How many boots go on at the same time
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = MEASURED,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    /// What ends a boot: init's signal, or a text on the console [default: init]
    #[arg(long, value_name = "init|serial:TEXT", value_parser = until::parse, help_heading = MEASURED)]
    until: Option<Until>,
    /// How long one boot may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration,
          help_heading = MEASURED)]
    time_limit: Duration,
    /// Write all values as JSON, which can be the baseline of another time; - is standard output, in
    /// place of the table, here and below
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = TOLD)]
    json: Option<PathBuf>,
    /// Write Markdown, for a job's summary or a comment
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = TOLD)]
    md: Option<PathBuf>,
    /// Write a page with pictures that needs no other file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = TOLD)]
    html: Option<PathBuf>,
    /// A limit (repeatable): p95=50ms for the boot, kernel-load.p50=5ms for a phase, exits=60 for a
    /// count, ratio=0.8 beside --vs
    #[arg(long, value_name = "FIGURE=LIMIT", value_parser = gate::budget, help_heading = GATES)]
    budget: Vec<Budget>,
    /// The JSON of an earlier time, to compare with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = GATES)]
    baseline: Option<PathBuf>,
    /// How much worse than the baseline is good: a part of the time, a number of a count
    #[arg(long, value_name = "FIGURE=MORE", value_parser = gate::regression, help_heading = GATES,
          value_delimiter = ',', default_value = "p50=5%,exits=0", requires = "baseline")]
    max_regression: Vec<Regression>,
    /// Compare with a baseline from another host all the same
    #[arg(long, requires = "baseline", help_heading = GATES)]
    any_host: bool,
    /// Boot another monitor in turn with mote; its standard output must be its guest's console
    #[arg(long, value_name = "COMMAND", help_heading = VS, conflicts_with = "parallel")]
    vs: Option<String>,
    /// The text that both guests print when they are up, here and there
    #[arg(long, value_name = "serial:TEXT", value_parser = until::parse, help_heading = VS,
          default_value = "serial:in a mote microVM", requires = "vs")]
    vs_until: Until,
}

impl BootArgs {
    fn files(&self) -> [files::Output<'_>; 3] {
        [
            ("--json", &self.json),
            ("--md", &self.md),
            ("--html", &self.html),
        ]
    }
}

/// Runs the benchmark.
pub fn run(args: &BootArgs) -> Result<Status, CliError> {
    let mut config = args.vm.config()?;
    files::check(&args.files())?;
    let baseline = args.baseline.as_deref();
    let baseline = baseline
        .map(|path| Report::read(path, "--baseline"))
        .transpose()?;
    let other = match &args.vs {
        Some(command) => Some(Other::new(command, &args.vs_until)?),
        None => None,
    };
    let until = ending(args)?;
    until::check(&until, &config.console)?;
    if other.is_some() {
        monitor::check_console(&config.console)?;
    }
    // A pseudo-terminal for each of many boots, and lines that tell of it, are of use to nobody.
    if config.console == motevm::config::Console::Pty {
        config.console = motevm::config::Console::Stdio;
    }
    let guest = Guest::of(&config, until::written(&until))?;
    let plan = Plan {
        runs: args.runs,
        warmup: args.warmup,
        parallel: args.parallel,
    };
    let mut report = Report::new(guest, plan, Identity::of(&Root::default()));
    if let Some(baseline) = &baseline {
        check_comparable(&report, baseline, args.any_host)?;
    }

    let failed = |e| CliError::new(Status::Internal, format_args!("handling signals: {e}"));
    let signals = NoteSignals::new().map_err(failed)?;
    let mote = Mote::new(&config, until)?;
    let runs = Runs {
        mote: &mote,
        other: other.as_ref(),
        plan,
        limit: args.time_limit,
        stop: signals.event(),
        check: &|sample| {
            let vs = other.is_some();
            for budget in &args.budget {
                let (text, subject) = (&budget.text, &budget.subject);
                gate::check_name(text, subject, sample, vs)?;
                gate::check_unit(text, subject, budget.limit.says_time(), sample)?;
            }
            for regression in args.max_regression.iter().filter(|_| baseline.is_some()) {
                let (text, subject) = (&regression.text, &regression.subject);
                gate::check_name(text, subject, sample, vs)?;
                gate::check_unit(text, subject, regression.allowed.says_time(), sample)?;
            }
            Ok(())
        },
    };
    for regression in &args.max_regression {
        if let Some(baseline) = &baseline {
            judge::check_runs(regression, &report, args.runs, baseline)?;
        }
    }
    runs.measure(&mut report)?;
    drop(signals);

    report.gates = args
        .budget
        .iter()
        .map(|budget| judge::budget(budget, &report))
        .collect();
    if let Some(baseline) = &baseline {
        let regressions = args.max_regression.iter();
        let verdicts: Vec<_> = regressions
            .map(|regression| judge::regression(regression, &report, baseline))
            .collect();
        report.gates.extend(verdicts);
    }
    tell(args, &report, baseline.as_ref())
}

/// What ends mote's runs: beside another monitor, what ends that one's.
fn ending(args: &BootArgs) -> Result<Until, CliError> {
    match (&args.until, &args.vs) {
        (Some(until), Some(_)) if *until != args.vs_until => Err(CliError::usage(format!(
            "--until {}: both monitors' runs end at the same text; give it by --vs-until alone",
            until::written(until)
        ))),
        (_, Some(_)) => Ok(args.vs_until.clone()),
        (until, None) => Ok(until.clone().unwrap_or(Until::Init)),
    }
}

/// Refuses a baseline of another host, and tells of another guest.
fn check_comparable(report: &Report, baseline: &Report, any_host: bool) -> Result<(), CliError> {
    let hosts = printable(report.host.differences(&baseline.host));
    if !hosts.is_empty() && !any_host {
        return Err(CliError::usage(format!(
            "--baseline: it is from another host, whose times can't be compared ({hosts}); make one here \
             with --json, or give --any-host"
        )));
    }
    if !hosts.is_empty() {
        say(format_args!(
            "warning: the baseline is from another host: {hosts}"
        ));
    }
    let guests = printable(report.guest.differences(&baseline.guest));
    if !guests.is_empty() {
        say(format_args!(
            "warning: the baseline is of another guest: {guests}"
        ));
    }
    Ok(())
}

/// As one line. A baseline may be anybody's: what it says must not steer the terminal.
fn printable(differences: Vec<String>) -> String {
    let text = differences.join("; ");
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Writes the files, prints the figures, and names the gates that did not pass.
fn tell(args: &BootArgs, report: &Report, baseline: Option<&Report>) -> Result<Status, CliError> {
    let [json, md, html] = args.files();
    files::write(json, || Ok(report.to_json()))?;
    files::write(md, || Ok(markdown::page(report)))?;
    files::write(html, || Ok(html::page(report, baseline)))?;
    if !files::take_stdout(&args.files()) {
        print("figures", |out| {
            out.write_all(text::page(report).as_bytes())
        })?;
    }
    let failed = report.gates.iter().filter(|gate| !gate.passed);
    let failed: Vec<_> = failed.collect();
    for gate in &failed {
        say(format_args!("{} did not pass: {}", gate.gate, gate.found));
    }
    Ok(match failed.is_empty() {
        true => Status::Success,
        false => Status::Gate,
    })
}

/// The error for a run that a signal ended.
fn interrupted() -> CliError {
    let signal = signals::received().unwrap_or(libc::SIGINT);
    CliError::new(Status::Signal(signal), "interrupted")
}
