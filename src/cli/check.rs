//! `mote check`: whether this host can run VMs and how well, for people and for scripts.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};
use motevm::check::realtime::{self, Asked};
use motevm::check::{self, Check, Level, Report, Root, Verdict};
use motevm::config::{CpuList, Pin};
use serde::Serialize;

use super::{CliError, Status};

/// The end of `mote check --help`.
const HELP: &str = "\
Each line starts with one of:
  ok       as it should be
  slow     VMs run, but slower than they could
  missing  without it no Linux runs in a VM
  jitter   a real-time guest is delayed by it now and then (--realtime)
  info     good to know; a plain VM doesn't need it
A line with -> says what to do.

Exit status:
  0    VMs run here, with hardware virtualization (there may be slow items)
  1    mote itself failed
  2    a wrong option
  3    no VM can run here: KVM, its permission or a capability is missing
  6    KVM is there with no hardware behind it: small test guests run, Linux doesn't";

/// Arguments of `mote check`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct CheckArgs {
    /// Print JSON: the verdict, the exit status, and each check with its id
    #[arg(long)]
    json: bool,
    /// Tell, too, what of this host would disturb a real-time guest (docs/placement.md)
    #[arg(long)]
    realtime: bool,
    /// With --realtime: the CPUs of its vCPUs, as for mote run
    #[arg(long, value_name = "CPUS", requires = "realtime")]
    pin: Option<Pin>,
    /// With --realtime: the CPUs of all other threads, as for mote run
    #[arg(long, value_name = "LIST", requires = "realtime")]
    io_cpus: Option<CpuList>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json<'a> {
    mote: &'static str,
    exit_status: u8,
    #[serde(flatten)]
    report: &'a Report,
}

/// Checks the host and prints what was found.
pub fn run(args: &CheckArgs) -> Result<Status, CliError> {
    let root = Root::default();
    let mut report = check::run(&root);
    if args.realtime {
        let asked = Asked {
            pin: args.pin.clone(),
            io_cpus: args.io_cpus.clone(),
        };
        report = report.with(realtime::run(&root, &asked));
    }
    let status = status(report.verdict);
    super::print("report", |out| {
        if args.json {
            json(out, &report, status)
        } else {
            let colour = out.is_terminal() && wants_colour();
            text(out, &report, colour, args.realtime)
        }
    })?;
    Ok(status)
}

fn status(verdict: Verdict) -> Status {
    match verdict {
        Verdict::Ready => Status::Success,
        Verdict::Emulated => Status::Emulated,
        Verdict::Unable => Status::Host,
    }
}

/// Whether the user hasn't asked for none (no-color.org).
fn wants_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn json(out: &mut impl Write, report: &Report, status: Status) -> io::Result<()> {
    let json = Json {
        mote: env!("CARGO_PKG_VERSION"),
        exit_status: status.code(),
        report,
    };
    serde_json::to_writer_pretty(&mut *out, &json)?;
    writeln!(out)
}

fn text(out: &mut impl Write, report: &Report, colour: bool, realtime: bool) -> io::Result<()> {
    let width = report
        .checks
        .iter()
        .map(|check| check.subject.len())
        .max()
        .unwrap_or(0);
    for check in &report.checks {
        line(out, check, width, colour)?;
    }
    writeln!(out)?;
    let slow = match report.count(Level::Slow) {
        0 => String::new(),
        1 => " One thing makes them slower than they could be.".to_owned(),
        n => format!(" {n} things make them slower than they could be."),
    };
    match report.verdict {
        Verdict::Ready => writeln!(out, "VMs run here, with hardware virtualization.{slow}"),
        Verdict::Emulated => writeln!(
            out,
            "KVM is there, but no Linux can run in its VMs: there is no hardware behind it.\n\
             `make demo` in mote's source tree boots one in an emulated machine instead."
        ),
        Verdict::Unable => writeln!(out, "No VM can run here until what is missing is there."),
    }?;
    if !realtime {
        return Ok(());
    }
    match report.count(Level::Jitter) {
        0 => writeln!(
            out,
            "Nothing that was looked at would delay a real-time guest."
        ),
        1 => writeln!(out, "One thing would delay a real-time guest."),
        n => writeln!(out, "{n} things would delay a real-time guest."),
    }
}

fn line(out: &mut impl Write, check: &Check, width: usize, colour: bool) -> io::Result<()> {
    let (word, style) = match check.level {
        Level::Ok => ("ok", AnsiColor::Green.on_default()),
        Level::Slow => ("slow", AnsiColor::Yellow.on_default().bold()),
        Level::Jitter => ("jitter", AnsiColor::Yellow.on_default().bold()),
        Level::Missing => ("missing", AnsiColor::Red.on_default().bold()),
        Level::Info => ("info", AnsiColor::Cyan.on_default()),
    };
    let style = if colour { style } else { Style::new() };
    let Check { subject, found, .. } = check;
    writeln!(out, "{style}{word:<7}{style:#}  {subject:<width$}  {found}")?;
    match &check.remedy {
        Some(remedy) => writeln!(out, "         -> {remedy}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict, level: Level, remedy: Option<&str>) -> Report {
        let check = Check {
            id: "memory.thp",
            level,
            subject: "huge pages",
            found: "never".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        Report {
            verdict,
            checks: vec![check],
        }
    }

    fn printed(report: &Report, colour: bool) -> String {
        let mut out = Vec::new();
        text(&mut out, report, colour, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_aligned_and_plain_without_a_terminal() {
        let report = report(Verdict::Ready, Level::Slow, Some("echo madvise"));
        assert_eq!(
            printed(&report, false),
            "slow     huge pages  never\n         -> echo madvise\n\n\
             VMs run here, with hardware virtualization. One thing makes them slower than they \
             could be.\n"
        );
    }

    #[test]
    fn colour_is_on_the_status_word_only() {
        let text = printed(&report(Verdict::Ready, Level::Ok, None), true);
        assert!(
            text.starts_with("\u{1b}[32mok     \u{1b}[0m  huge pages"),
            "{text:?}"
        );
    }

    #[test]
    fn json_has_the_same_content_and_the_exit_status() {
        let report = report(Verdict::Emulated, Level::Info, None);
        let mut out = Vec::new();
        json(&mut out, &report, status(report.verdict)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["verdict"], "emulated");
        assert_eq!(value["exit_status"], 6);
        assert_eq!(value["checks"][0]["level"], "info");
        assert_eq!(value["checks"][0]["id"], "memory.thp");
        assert!(value["checks"][0].get("remedy").is_none());
    }

    #[test]
    fn each_verdict_has_its_own_status() {
        let codes = [Verdict::Ready, Verdict::Unable, Verdict::Emulated].map(|v| status(v).code());
        assert_eq!(codes, [0, 3, 6]);
    }
}
