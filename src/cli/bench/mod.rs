//! `mote bench`: figures for people and for CI, one file for each kind.

mod boot;
mod child;
mod files;
mod idle;
mod launch;
mod progress;
mod units;

use clap::Subcommand;

use super::{CliError, Status};

/// The kinds of figures.
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
