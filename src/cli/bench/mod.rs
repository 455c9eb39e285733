//! `mote bench`: figures for people and for CI, one file for each kind.

mod boot;
mod child;
mod files;
mod idle;
mod launch;
mod progress;
mod units;

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};

use super::{CliError, Status};

/// Measure boots, launches and wake-ups, for people and for CI
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Boot one VM many times: times by phase, exact counts, and gates for CI
    Boot(Box<boot::BootArgs>),
    /// Start many VMs: how many in a second, and what memory each takes
    Launch(Box<launch::LaunchArgs>),
    /// Wake a halted guest, over windows of halt polling: latency and CPU use
    Idle(idle::IdleArgs),
}

/// Runs one kind.
pub fn run(bench: &Bench) -> Result<Status, CliError> {
    match bench {
        Bench::Boot(args) => boot::run(args),
        Bench::Launch(args) => launch::run(args),
        Bench::Idle(args) => idle::run(args),
    }
}

/// The same, but its many options are only made up when they are asked for: each start of a VM would
/// pay for them.
#[derive(Debug)]
pub struct Deferred(pub Bench);

impl FromArgMatches for Deferred {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Bench::from_arg_matches(matches).map(Deferred)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Subcommand for Deferred {
    fn augment_subcommands(command: Command) -> Command {
        command.defer(Bench::augment_subcommands)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        command.defer(Bench::augment_subcommands_for_update)
    }

    fn has_subcommand(name: &str) -> bool {
        Bench::has_subcommand(name)
    }
}
