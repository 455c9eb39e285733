//! `mote bench boot`: boots of one VM, one after the other: times by phase, counts, gates.

use clap::Args;

use crate::cli::{CliError, Status};

/// Arguments of `mote bench boot`.
#[derive(Args, Debug)]
pub struct BootArgs {}

/// Runs the benchmark.
pub fn run(_args: &BootArgs) -> Result<Status, CliError> {
    Err(CliError::new(
        Status::Internal,
        "mote bench boot does not exist yet",
    ))
}
