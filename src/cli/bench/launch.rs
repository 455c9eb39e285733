//! `mote bench launch`: many VMs at once: VMs per second and memory for each.

use clap::Args;

use crate::cli::{CliError, Status};

/// Arguments of `mote bench launch`.
#[derive(Args, Debug)]
pub struct LaunchArgs {}

/// Runs the benchmark.
pub fn run(_args: &LaunchArgs) -> Result<Status, CliError> {
    Err(CliError::new(
        Status::Internal,
        "mote bench launch does not exist yet",
    ))
}
