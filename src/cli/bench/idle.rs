//! `mote bench idle`: answers of a halted guest, over windows of halt polling.

use clap::Args;

use crate::cli::{CliError, Status};

/// Arguments of `mote bench idle`.
#[derive(Args, Debug)]
pub struct IdleArgs {}

/// Runs the benchmark.
pub fn run(_args: &IdleArgs) -> Result<Status, CliError> {
    Err(CliError::new(
        Status::Internal,
        "mote bench idle does not exist yet",
    ))
}
