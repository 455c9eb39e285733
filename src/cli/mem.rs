//! `mote mem`: what the memory of a running mote is used for.

use std::io::Write;

use clap::Args;
use motevm::footprint::Footprint;

use super::{CliError, Status, print};

/// The end of `mote mem --help`.
const HELP: &str = "\
A line for each use of memory. Columns: what is resident; what this process alone has (private) and of
that what was written to (dirty); what others map too (shared), and of that what was written to; and the
process's part, where a page that n processes map counts as an n-th (proportional). docs/performance.md
explains the lines.

Exit status:
  0    told
  1    mote itself failed
  2    there is no such process, or it is no mote
  3    this user may not look into it";

/// Arguments of `mote mem`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct MemArgs {
    /// The process number of a `mote run`, or of another program with mote in it
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    pid: u32,
    /// Print JSON: each use of memory with all its amounts, in KiB
    #[arg(long)]
    json: bool,
}

/// Looks, and prints.
pub fn run(args: &MemArgs) -> Result<Status, CliError> {
    let footprint = Footprint::of(args.pid).map_err(|error| {
        let status = match error.is_of_the_host() {
            true => Status::Host,
            false => Status::Usage,
        };
        CliError::new(status, error)
    })?;
    print("table", |out| match args.json {
        true => {
            serde_json::to_writer_pretty(&mut *out, &footprint)?;
            writeln!(out)
        }
        false => write!(out, "{footprint}"),
    })?;
    Ok(Status::Success)
}
