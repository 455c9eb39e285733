//! The command line: one file per subcommand, arguments in, exit status out.

mod api;
mod bench;
mod check;
mod ctl;
mod default_guest;
mod deferred;
pub mod exec_time;
mod image;
mod keyval;
mod life;
mod limits;
mod log_file;
mod mem;
mod notify_fd;
mod run;
mod run_help;
mod sandbox;
mod serve;
mod signals;
mod status;
mod terminal;
mod until;
mod vm_args;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::error::ContextKind;
use clap::{Parser, Subcommand};

use deferred::Deferred;
pub use status::Status;

/// Starts Linux virtual machines on KVM, fast.
#[derive(Debug, Parser)]
#[command(name = "mote", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a VM until its guest ends it
    #[command(after_help = status::HELP)]
    Run(Box<run::RunArgs>),
    /// Serve an API by which other programs make a VM, run and control it
    #[command(after_help = status::HELP)]
    Serve(Deferred<Box<serve::ServeArgs>>),
    /// Control a VM that has an API
    #[command(after_help = ctl::HELP)]
    Ctl(Deferred<Box<ctl::CtlArgs>>),
    /// Tell whether this host can run VMs and how well, and what would make it better
    Check(check::CheckArgs),
    /// Tell what the memory of a running VM's process is used for
    Mem(mem::MemArgs),
    /// Measure boots, launches and wake-ups, for people and for CI
    #[command(subcommand)]
    Bench(Box<bench::Deferred>),
}

const EXAMPLES: &str = "\
Examples:
  mote run                                           boot the default guest (see `make guest`)
  mote run --kernel vmlinux --rootfs root.ext4       boot your own
  mote run --kernel vmlinuz --initrd initrd.img --memory 1G --cpus 2 --timings
  mote run --config vm.toml --cmdline 'loglevel=7'   from a file, with one thing changed
  mote run --api vm.sock                             a VM that other programs can control
  mote ctl vm.sock pause                             and so can you
  mote mem PID                                       what a running VM's memory is used for
  mote bench boot --runs 20 --budget p95=50ms        boot times, and status 8 where they are too long";

/// Parses the arguments, runs the subcommand, and prints its error, if any.
pub fn main(exec: Instant) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version, and help for who gave no command.
        Err(error)
            if !error.use_stderr()
                || error.kind()
                    == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            error.exit()
        }
        Err(error) => {
            say(one_line(&error));
            return Status::Usage.into();
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(*args, exec),
        Command::Serve(args) => serve::run(&args.0),
        Command::Ctl(args) => ctl::run(&args.0),
        Command::Check(args) => check::run(&args),
        Command::Mem(args) => mem::run(&args),
        Command::Bench(bench) => bench::run(&bench.0),
    };
    match result {
        Ok(status) => status.into(),
        Err(error) => {
            say(&error);
            error.status.into()
        }
    }
}

/// What is wrong with the arguments, in one line.
fn one_line(error: &clap::Error) -> String {
    let of = |kind| error.get(kind).map(ToString::to_string);
    // `--net <NETWORK>`: the value that was given says more than that name.
    let option = of(ContextKind::InvalidArg);
    let option = option.as_deref().and_then(|text| text.split(' ').next());
    let value = of(ContextKind::InvalidValue);
    if let (Some(option), Some(value), Some(source)) = (option, value, error.source()) {
        return format!("{option} {value}: {}", of_number(&source.to_string()));
    }
    if let Some(number) = option.filter(|text| is_negative_number(text)) {
        return format!("{number}: no option takes a negative number (`mote help` tells more)");
    }
    let text = error.to_string();
    // The usage line and the hint at `--help` come after what is said here.
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let lines: Vec<_> = lines
        .take_while(|line| !line.starts_with("Usage:"))
        .map(|line| line.trim_start_matches("error: "))
        .collect();
    let text = lines.join("; ").replace(":; ", ": ");
    format!("{text} (`mote help` tells more)")
}

/// What the parser of numbers says, as a user says it.
fn of_number(text: &str) -> String {
    let range = text.split_once(" is not in ").map(|(_, range)| range);
    if let Some((first, last)) = range.and_then(|range| range.split_once("..=")) {
        let first = if first.is_empty() { "0" } else { first };
        return format!("must be a number from {first} to {last}");
    }
    match text {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number".to_owned()
        }
        _ => text.to_owned(),
    }
}

fn is_negative_number(text: &str) -> bool {
    let digits = text.strip_prefix('-');
    digits.is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
}

/// Tells the user, if anyone is there to hear it: a standard error that is full, or a pipe with no
/// reader, changes nothing of how the command ends (`eprintln!` would panic).
fn say(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "mote: {message}");
}

/// Prints what was asked for. Without a reader (`| head`) there is nothing to say either.
fn print(
    what: &str,
    write: impl FnOnce(&mut io::StdoutLock) -> io::Result<()>,
) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::new(
            Status::Internal,
            format!("writing the {what}: {error}"),
        )),
        _ => Ok(()),
    }
}

/// An error for the user, with the exit status that it means.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    status: Status,
    message: String,
}

impl CliError {
    fn new(status: Status, message: impl std::fmt::Display) -> Self {
        CliError {
            status,
            message: message.to_string(),
        }
    }

    fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Status::Usage, message)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
